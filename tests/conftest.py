"""Fixtures of all tests."""

import os
import sys

import pytest
import torch
from hypothesis import settings

# cuBLAS asks for this where algorithms must be deterministic; it is read when CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# Programs that tests start are no workers of pytest-xdist's, though the tests may be.
for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
    del os.environ[name]

# Every run tests the same examples; `pytest --hypothesis-profile=search` looks for others, and for longer.
settings.register_profile("same", derandomize=True, deadline=None, max_examples=15)
settings.register_profile("search", deadline=None, max_examples=500)
settings.load_profile("same")


@pytest.fixture(autouse=True)
def poisoned_memory():
    """torch.empty gives not-a-number, so that what a kernel fails to write is seen."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def compiled_anew():
    """No test uses up what torch.compile allows of recompilations for another that runs in the same process."""
    yield
    if (dynamo := sys.modules.get("torch._dynamo")) and dynamo.utils.counters["frames"]["total"]:
        torch.compiler.reset()
        dynamo.utils.counters.clear()


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tests are too small for several threads to pay."""
    torch.set_num_threads(1)


@pytest.fixture
def without_llvm(monkeypatch):
    """auto's choice on a CPU where llvmlite is not installed; no plan of before or of this test stays."""
    from gatefuse import cell_names, find_cell
    from gatefuse.models.execution.repeated import repeated

    def forget():
        for name in cell_names():
            for holder in (find_cell(name), find_cell(name).current()):
                holder.made.pop("plans", None)
                holder.made.pop(repeated, None)

    monkeypatch.setattr("gatefuse.kernels.drivers.llvm._HAS_LLVM", False)
    forget()
    yield
    forget()
