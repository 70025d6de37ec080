"""Variants of kernels, run beside the unchanged ones."""
