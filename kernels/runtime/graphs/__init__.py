"""CUDA graphs: capturing a function's kernels, the streams for it, and recordings that are replayed."""
