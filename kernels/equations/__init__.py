"""Equations as a differentiated program: what they may use, what they ask, and what they compute."""
