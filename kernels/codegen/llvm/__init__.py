"""A program as LLVM: its pointwise parts, and the loops around them."""
