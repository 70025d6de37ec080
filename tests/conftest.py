"""Fixtures of all tests."""

import os

import pytest
import torch

# cuBLAS asks for this where algorithms must be deterministic; it is read when CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(autouse=True)
def poisoned_memory():
    """torch.empty gives not-a-number, so that what a kernel fails to write is seen."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tests are too small for several threads to pay."""
    torch.set_num_threads(1)
