"""The doctor, and what importing the package costs."""

import subprocess
import sys
import types

import pytest
import torch

from gatefuse import doctor, probe
from gatefuse.kernels.drivers import DRIVERS
from gatefuse.kernels.loops.registry import KERNELS
from gatefuse.kernels.runtime.settings import interpreted

CPU = torch.device("cpu")
CALLS = [(cell, driver) for cell in ("lstm", "peephole_lstm") for driver in KERNELS]
interpreter = pytest.mark.skipif(not interpreted(), reason="Triton's interpreter is off")


def fake_triton(monkeypatch, folder, text):
    """Processes that are started find this in Triton's place; this one has Triton already."""
    package = folder / "triton"
    package.mkdir()
    (package / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(folder)


def python(*arguments):
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments], capture_output=True, text=True, check=True, timeout=120
    )


def test_it_names_the_machine_and_every_driver(untried):
    lines = list(doctor.report())
    assert any(line == f"torch {torch.__version__}" for line in lines)
    assert sum(line.startswith("triton") for line in lines) == 1
    assert any(line.startswith("cpu: ") for line in lines)
    for name in DRIVERS:
        assert sum(line.startswith(f"    {name}: ") for line in lines) == 2 * len(doctor.devices())
    assert "    vendor: torch has no loop for the cell peephole_lstm" in lines


@pytest.fixture
def untried(monkeypatch):
    """Kernels are taken to run, for tests of what else is said."""
    monkeypatch.setattr(doctor.probe, "failures", lambda device, calls: dict.fromkeys(calls, ""))


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        (False, "triton is missing, and of no use without a GPU"),
        (
            True,
            "triton is missing: pip install 'gatefuse[triton]', unless torch's build for this GPU brings its own",
        ),
    ],
)
def test_a_missing_triton_is_said_and_no_failure(monkeypatch, untried, gpu, said):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert said in list(doctor.report())


def test_a_broken_triton_is_said_and_no_failure(monkeypatch, untried):
    broken = types.ModuleType("triton")  # as a folder of that name is one, with nothing in it
    monkeypatch.setitem(sys.modules, "triton", broken)
    said = "triton does not work: AttributeError: module 'triton' has no attribute '__version__'"
    assert said in list(doctor.report())


@interpreter
def test_kernels_run_before_it_is_said():
    assert probe.failures(CPU, CALLS) == dict.fromkeys(CALLS, "")


@pytest.mark.slow
@interpreter
def test_a_failure_is_said_in_words_and_the_next_is_tried():
    calls = [("lstm", "step"), ("lstm", "nobody"), ("no cell", "step"), ("lstm", "block")]
    found = probe.failures(CPU, calls)
    assert (found[calls[0]], found[calls[3]]) == ("", "")
    assert found[calls[1]].startswith("ValueError: driver must be one of auto, eager,")
    assert found[calls[2]].startswith("ValueError: ")
    assert list(found) == calls


@interpreter
def test_a_crash_is_said_in_words(monkeypatch, tmp_path):
    fake_triton(monkeypatch, tmp_path, "import os; os.abort()")
    assert probe.failures(CPU, CALLS[:2]) == dict.fromkeys(CALLS[:2], "its process was ended by SIGABRT")


@interpreter
def test_a_process_that_ends_itself_is_said_in_words(monkeypatch, tmp_path):
    fake_triton(monkeypatch, tmp_path, "import os; os.write(2, b'no such device'); os._exit(3)")
    assert probe.failures(CPU, CALLS[:1]) == {CALLS[0]: "its process ended with 3: no such device"}


@pytest.mark.slow
@interpreter
def test_one_that_does_not_end_is_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(probe, "SECONDS", 5)
    fake_triton(monkeypatch, tmp_path, "import time; time.sleep(600)")
    assert probe.failures(CPU, CALLS[:1]) == {CALLS[0]: "it did not end within 5 s"}


@pytest.mark.slow
@interpreter
def test_the_report_says_what_failed(monkeypatch, tmp_path):
    fake_triton(monkeypatch, tmp_path, "raise RuntimeError('mask has unsupported dtype')")
    monkeypatch.setattr(doctor, "_CELLS", ("lstm",))
    lines = list(doctor.report())
    for name in KERNELS:
        assert lines.count(f"    {name}: fails: RuntimeError: mask has unsupported dtype") == 1
    assert "    aten: runs" in lines


def test_it_runs_as_a_module():
    assert "    vendor: runs" in python("-m", "gatefuse.doctor").stdout


def test_importing_brings_no_triton_and_no_warning():
    script = (
        "import sys, torch; before = 'triton' in sys.modules; import gatefuse; print('triton' in sys.modules, before)"
    )
    out = python("-c", script)
    assert out.stdout.split() in (["False", "False"], ["True", "True"])
    assert out.stderr == ""
