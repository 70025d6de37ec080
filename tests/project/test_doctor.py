"""The doctor, and what importing the package costs."""

import subprocess
import sys

import torch

from gatefuse import doctor
from gatefuse.kernels.drivers import DRIVERS


def python(*arguments):
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments], capture_output=True, text=True, check=True, timeout=120
    )


def test_it_names_the_machine_and_every_driver():
    lines = list(doctor.report())
    assert any(line == f"torch {torch.__version__}" for line in lines)
    assert sum(line.startswith("triton") for line in lines) == 1
    assert any(line.startswith("cpu: ") for line in lines)
    for name in DRIVERS:
        assert sum(line.startswith(f"    {name}: ") for line in lines) == 2 * len(doctor.devices())
    assert "    vendor: torch has no loop for the cell peephole_lstm" in lines


def test_a_missing_triton_is_said_and_no_failure(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    assert any(line.startswith("triton is missing: ModuleNotFoundError") for line in doctor.report())


def test_it_runs_as_a_module():
    assert "    vendor: runs" in python("-m", "gatefuse.doctor").stdout


def test_importing_brings_no_triton_and_no_warning():
    script = (
        "import sys, torch; before = 'triton' in sys.modules; import gatefuse; print('triton' in sys.modules, before)"
    )
    out = python("-c", script)
    assert out.stdout.split() in (["False", "False"], ["True", "True"])
    assert out.stderr == ""
