"""Triton, which is not installed with gatefuse: the kernels need it, and a machine without a GPU has no use for it."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from gatefuse.kernels.runtime.dynamo import constant
from gatefuse.kernels.runtime.settings import interpreted


@cache
def require_triton(what: str) -> None:
    """Says what must have Triton, and how it is got.

    Raises:
        ModuleNotFoundError: Triton is not installed.
        RuntimeError: its interpreter is on, and can't run with the numpy that is installed.
    """
    if find_spec("triton") is None:
        raise ModuleNotFoundError(
            f"{what} must have Triton: pip install 'gatefuse[triton]'. It is not installed.", name="triton"
        )
    if interpreted() and (why := interpreter_refusal()):
        raise RuntimeError(why)


@constant
def interpreter_refusal() -> str:
    """Why Triton's interpreter can't run with the numpy that is installed, "" where it can: up to 3.6 it fails inside
    of a kernel with numpy from 2.4 on, in words of numpy's."""
    try:
        triton, numpy = version("triton"), version("numpy")
    except PackageNotFoundError:
        return ""
    if _minor(triton) >= (3, 7) or _minor(numpy) < (2, 4):
        return ""
    return f"the interpreter of Triton {triton} must have numpy below 2.4: pip install 'numpy<2.4'. Got {numpy}."


def triton_version() -> tuple[int, ...]:
    """Major and minor of the installed one; by itself, as the builds for ROCm are packages of other names."""
    import triton

    return _minor(triton.__version__)


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])
