"""A word to who runs a checkout without symbolic links as it is: kernels, models and bench are links in this folder."""

from importlib.util import find_spec

# A build and an editable install give the folders themselves (setup.py), so that nothing is missing there.
for _name in ("kernels", "models", "bench"):
    if find_spec(f"gatefuse.{_name}") is None:
        raise ImportError(
            f"gatefuse/{_name} must be a link to the folder {_name}/. Got none, as in a checkout without symbolic "
            "links. There `pip install -e .` makes gatefuse run from it, and `pip install .` from anywhere else; where "
            "links are allowed, `git config core.symlinks true` and a new checkout bring them.",
            name=f"gatefuse.{_name}",
        )
