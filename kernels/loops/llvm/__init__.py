"""Loops of compiled code: the loop behind the operator, whole layers, training, how work is divided and prepared."""
