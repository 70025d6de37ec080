"""Loops of Triton's kernels: their launches, step by step or for a whole sequence, and layers of them."""
