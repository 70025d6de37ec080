"""A plugin of pytest by which tests for a GPU name the kernels that they launch, without a GPU.

What they put on a GPU lies on the CPU, and a launch gets as far as Triton's key of the kernel, under which it would be
compiled or found. So nothing is computed, and tests fail; but which kernels a run of them needs is known. Keys go to
the file that the environment's GATEFUSE_KEYS names, a line each, behind the test that needs it first.
"""

import contextlib
import os
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from torch.overrides import TorchFunctionMode
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from gatefuse.kernels.runtime.launcher import compile_only

H200 = SimpleNamespace(multi_processor_count=132, shared_memory_per_block_optin=232_448, major=9)


@contextlib.contextmanager
def keys():
    """A context in which kernels aren't compiled; yields their keys, by which test they are needed first."""
    found: dict[str, str] = {}
    name = [""]

    def keep(self, key, *_):
        found.setdefault(f"{self.__name__} {key}", name[0])

    # In place of Triton's hook, which would write all that a kernel is made of as JSON, and can't.
    with patch.object(JITFunction, "_do_compile", keep), compile_only(GPUTarget("cuda", 90, 32)):
        yield found, name


class OnTheCpu(TorchFunctionMode):
    """What is asked for on a GPU is made on the CPU."""

    def __torch_function__(self, function, types, given=(), named=None):
        named = {name: self.place(value) for name, value in (named or {}).items()}
        return function(*map(self.place, given), **named)

    @staticmethod
    def place(value):
        if isinstance(value, str | torch.device) and str(value).startswith("cuda"):
            return "cpu"
        return value


class Stream:
    """None, in the form of torch's."""

    def wait_stream(self, other):
        """There is nothing to wait for."""


def check(driver, task, dtype, device="cpu", *_):
    """tests/support/oracle.py's, without the eager loop."""
    from tests.support.oracle import cast, results

    results(driver, cast(task, dtype, device))


class Names:
    """The plugin's hooks."""

    def __init__(self, found, name, path):
        self.found, self.name, self.path = found, name, path

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        self.name[0] = item.nodeid

    def pytest_sessionfinish(self):
        lines = [f"{test}\t{key}" for key, test in self.found.items()]
        self.path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@pytest.hookimpl(tryfirst=True)  # conftest.py asks whether there is a GPU
def pytest_configure(config):
    """Takes the place of torch.cuda for the rest of the process."""
    cuda, nothing = torch.cuda, lambda *_, **__: contextlib.nullcontext()
    cuda.is_available, cuda.is_initialized = lambda: True, lambda: False
    cuda.get_device_properties, cuda.get_device_capability = lambda *_: H200, lambda *_: (9, 0)
    cuda.get_device_name = lambda *_: "a GPU that isn't there"
    cuda.synchronize = cuda.empty_cache = lambda *_: None
    cuda.Stream = cuda.current_stream = lambda *_: Stream()
    cuda.stream = cuda.graph = nothing
    cuda.CUDAGraph = lambda: SimpleNamespace(replay=lambda: None)

    from gatefuse.kernels.drivers import common
    from tests.support import oracle

    common.refusal = lambda request: ""  # else a CPU's tensors are refused
    oracle.check = lambda driver, task, dtype, device="cpu", *_: oracle.results(
        driver, oracle.cast(task, dtype, device)
    )
    context = contextlib.ExitStack()
    found, name = context.enter_context(keys())
    context.enter_context(OnTheCpu())
    config.add_cleanup(context.close)
    config.pluginmanager.register(Names(found, name, Path(os.environ["GATEFUSE_KEYS"])))
