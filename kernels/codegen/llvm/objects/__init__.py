"""Object files for a target: a cell's step for one stream, its weights, and the processors that it may be for."""
