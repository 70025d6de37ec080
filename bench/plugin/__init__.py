"""pytest's side of the benchmark."""
