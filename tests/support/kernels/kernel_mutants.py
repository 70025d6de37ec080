"""Kernels with a fault put in, to see that tests find it: a copy of a module with some of its text changed."""

import importlib.util
import sys
from pathlib import Path


def mutant(module, changes, folder):
    """A module like ``module`` but for the changes, pairs of a text that it has once and what stands in its place.

    Raises:
        ValueError: a text isn't there once; the kernel was changed, and the fault is to be put in anew.
    """
    text = Path(module.__file__).read_text(encoding="utf-8")
    for old, new in changes:
        if text.count(old) != 1:
            raise ValueError(f"{module.__name__} must have the text once: {old!r}. Got {text.count(old)} times.")
        text = text.replace(old, new)
    name = f"mutant_of_{module.__name__.rpartition('.')[2]}"
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    try:
        spec.loader.exec_module(made)
    finally:
        del sys.modules[name]
    return made


def put_in(monkeypatch, made, module, places):
    """Have the places, modules, use what the mutant made in place of what they took from ``module``."""
    for place in places:
        for name, value in vars(made).items():
            original = vars(module).get(name)
            if callable(value) and original is not None and vars(place).get(name) is original:
                monkeypatch.setattr(place, name, value)
