"""Device code written by hand: tiles, the barrier, and the kernels of each loop, forward and backward."""
