"""Numbers: clocks, samples, races of contenders, rows, stamps, and physical limits."""
