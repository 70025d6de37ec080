"""Time loops behind one operator: what they are given, fill and keep, and the loops themselves."""
