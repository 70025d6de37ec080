"""Products as LLVM: with weights laid out in panels or as they lie, and those over all rows of a sequence."""
