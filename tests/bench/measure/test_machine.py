"""What else the machine does while something is measured."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from gatefuse.bench.measure import machine


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system has no /proc/stat")
def test_another_program_is_counted():
    others = machine.Others()
    began = time.process_time()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        time.sleep(1.0)
        found = others.cores()
        other.kill()
    assert found > 0.2
    assert time.process_time() - began < 0.5


def test_this_program_is_not_counted(monkeypatch):
    own = machine._own()
    monkeypatch.setattr(machine, "_busy", lambda: 5.0 + machine._own() - own)
    others = machine.Others()
    began = time.perf_counter()
    while time.perf_counter() < began + 0.3:
        pass
    assert others.cores() < 0.01


def test_what_is_not_known_is_said_to_be_unknown(monkeypatch, tmp_path):
    others = machine.Others()
    assert others.cores() != others.cores()  # too little time has passed
    monkeypatch.setattr(machine, "_STAT", tmp_path / "none")
    monkeypatch.setattr(machine, "_LEAST", 0.0)
    found = machine.Others().cores()
    assert found != found


@pytest.mark.parametrize(("load", "cores", "busy"), [(11.0, 2, True), (0.5, 2, False), (float("nan"), 2, False)])
def test_a_busy_machine_gets_a_word(load, cores, busy):
    said = machine.words_on_load(load, cores)
    assert said.startswith("load 11 on 2 cores:") is busy
    assert ("OMP_NUM_THREADS=1 measures one thread alone" in said) is busy
