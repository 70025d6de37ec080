"""Loops over a sequence's steps as LLVM, forward and backward, what they are told, and their team of threads."""
