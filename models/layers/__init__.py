"""Layers as modules: for any cell, and as subclasses of torch.nn's."""
