"""Cells with noise: what is drawn anew in training, and what stands in its place elsewhere."""
