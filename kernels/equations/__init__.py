"""Equations as a differentiated program: what they are given, the operators they may use, and what they compute."""
