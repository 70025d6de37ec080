"""The benchmark: sweep -> contender -> sample -> row -> report."""
