"""How the host loops start kernels: for real, or compiling each for a GPU that need not be there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from gatefuse.kernels.runtime.device import assumed
from gatefuse.kernels.runtime.requirement import require_triton

if TYPE_CHECKING:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import CompiledKernel

_compiled: ContextVar[dict[str, CompiledKernel] | None] = ContextVar("_compiled", default=None)


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
    """Start a Triton kernel; within compile_only, compile it and keep the result in place of running it."""
    kept = _compiled.get()
    if kept is None:
        kernel[grid](*args, **constants)
        return
    function = kernel.warmup(*args, grid=grid, **constants)
    kept[f"{kernel.__name__} {len(kept)}" if kernel.__name__ in kept else kernel.__name__] = function


@contextmanager
def compile_only(target: GPUTarget) -> Iterator[dict[str, CompiledKernel]]:
    """A context in which host loops run on CPU tensors and their launches only compile; their results mean nothing.

    Yields:
        The compiled kernels by name, filled as the loops run.

    Raises:
        ModuleNotFoundError: Triton is not installed.
        RuntimeError: Triton's interpreter is on; kernels decorated under it can't be compiled.
    """
    require_triton("compiling ahead")
    from triton.runtime import driver

    from gatefuse.kernels.runtime.settings import interpreted

    if interpreted():
        raise RuntimeError("compiling ahead needs Triton without TRITON_INTERPRET. Got TRITON_INTERPRET set.")
    kept: dict[str, CompiledKernel] = {}
    before = driver._active
    driver.set_active(_Absent(target))
    token = _compiled.set(kept)
    arch = assumed.set(f"sm_{target.arch}" if target.backend == "cuda" else str(target.arch))
    try:
        yield kept
    finally:
        assumed.reset(arch)
        _compiled.reset(token)
        driver._active = before


class _Absent:
    """Triton's driver of a device that isn't there: enough to compile, not to launch."""

    def __init__(self, target: GPUTarget):
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        # Triton keeps kernels by device; two targets must not share them.
        return hash(repr(self._target))

    def get_current_stream(self, device: int) -> int:
        return 0
