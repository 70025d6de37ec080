"""Triton, which is not installed with gatefuse: the kernels need it, and a machine without a GPU has no use for it."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec


@cache
def require_triton(what: str) -> None:
    """Raises ModuleNotFoundError where Triton is not installed; it says what must have it, and how it is got."""
    if find_spec("triton") is None:
        raise ModuleNotFoundError(
            f"{what} must have Triton: pip install 'gatefuse[triton]'. It is not installed.", name="triton"
        )


def triton_version() -> tuple[int, ...]:
    """Major and minor of the installed one; by itself, as the builds for ROCm are packages of other names."""
    import triton

    return tuple(int(part) for part in triton.__version__.split(".")[:2])
