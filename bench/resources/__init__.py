"""Compiled kernels read without a GPU: registers, shared memory, instructions."""
