"""How work is cut: tiles of kernels, segments of sequences, and changes to both that are tried."""
