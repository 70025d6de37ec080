"""sweep -> contender -> sample -> row -> report."""
