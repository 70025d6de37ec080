"""What is compiled ahead of a run on a GPU is what the run launches; in processes without Triton's interpreter."""

import os
import subprocess

import pytest

from gatefuse.bench.gpu import kernels
from gatefuse.bench.gpu.cases import cases
from gatefuse.bench.gpu.order import make_jobs
from gatefuse.bench.suite.contenders import FIRST
from gatefuse.bench.suite.sweeps import groups
from tests.support.kernels.compiling import ROOT, compiling

SAME = """
import sys
import torch
from triton.backends.compiler import GPUTarget
from gatefuse.bench.gpu.cases import Case
from gatefuse.bench.gpu.kernels import compiled
from gatefuse.bench.measure.race import _call, _draw
from gatefuse.bench.suite import networks
from gatefuse.bench.suite.sweeps import Group, Shape
from gatefuse.kernels.drivers import common
from gatefuse.kernels.runtime.launcher import compile_only

common.refusal = lambda request: ""  # else a CPU's tensors are refused
CPU = torch.device("cpu")
for loop in ("step", "block", "grid"):
    for mode in ("forward", "training"):
        group = Group(Shape("lstm", 128, 32, 3, 128), "bfloat16", mode, "first")
        network = networks.by_driver(loop)(group, networks.make_source(group, CPU))
        with compile_only(GPUTarget("cuda", 90, 32)) as launched:
            _call(group, network, _draw(group, CPU))()
        ahead = compiled("sm_90", Case("lstm", loop, 32, 128, "bfloat16", mode == "training"))
        wanted, there = ({kernel.hash for kernel in found.values()} for found in (launched, ahead))
        assert wanted and wanted <= there, (loop, mode)
        print(loop, mode, len(wanted))
"""
COMMAND = """
from gatefuse.bench.gpu.kernels import main
raise SystemExit(main(["--arch=sm_90", "--jobs=2", "--most=2"]))
"""


AHEAD = """
from gatefuse.bench.gpu.cases import cases
from gatefuse.bench.gpu.kernels import compiled
from gatefuse.kernels.runtime import debug
from tests.support.kernels.absent_gpu import keys

debug.limit_polls()
with keys() as (found, _):
    for case in cases():
        compiled("sm_90", case)
print(*found, sep="\\n")
"""
# On a CPU those of large tensors, or of a thousand calls, take minutes; and made-up cells of tests are no cases.
LEFT_OUT = ("thousand", "seventy", "real_sizes", "load", "mixed_stage", "attending", "each_direction", "compiled_calls")


def test_every_shape_of_the_first_minutes_is_compiled_for_the_drivers_that_can_run_it():
    found = {(case.loop, case.cell, case.H, case.B, case.training) for case in cases()}
    assert len(found) > 50
    for group in groups(FIRST, "cuda"):
        s, training = group.shape, group.mode == "training"
        for loop in ("step", "grid", *(["block"] if s.H <= 128 else [])):
            assert (loop, s.cell, s.H, s.B, training) in found


@pytest.mark.slow
def test_what_is_compiled_is_what_a_contender_launches(tmp_path):
    """By Triton's own key, under which it lies in the cache on disk."""
    lines = compiling(SAME, tmp_path)
    assert [line.rsplit(" ", 1)[0] for line in lines] == [
        f"{loop} {mode}" for loop in ("step", "block", "grid") for mode in ("forward", "training")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["right at all", "recorded steps"])
def test_what_tests_of_the_first_jobs_launch_is_compiled_ahead(tmp_path, name):
    """Of gatefuse's loops: else a test compiles while the GPU waits."""
    job = next(job for job in make_jobs(tmp_path) if job.name.startswith(name))
    pytest_, *options = job.command[2:]
    command = [*job.command[:2], pytest_, "-p", "tests.support.kernels.absent_gpu", "-q", *options]
    command += ["--tb=no", "-k", " and ".join(f"not {word}" for word in LEFT_OUT)]
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    env |= {"GATEFUSE_KEYS": str(tmp_path / "keys")}
    subprocess.run(command, cwd=ROOT, env=env, capture_output=True, timeout=600, check=False)
    ahead = set(compiling(AHEAD, tmp_path))
    launched = dict(reversed(line.split("\t")) for line in (tmp_path / "keys").read_text().splitlines())
    needed = {key: test for key, test in launched.items() if "test_barrier_loop" not in test}
    assert len(needed) > 40
    assert sorted({test for key, test in needed.items() if key not in ahead}) == []


@pytest.mark.slow
def test_several_processes_compile_into_one_cache(tmp_path):
    *_, last = compiling(COMMAND, tmp_path)
    assert "kernels of 2 cases for sm_90 in " in last
    assert len(list(tmp_path.rglob("*.cubin"))) == 3  # forward for training and without, backward


def test_without_a_gpu_there_must_be_an_architecture(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert kernels.main([]) == 2
    assert "There is none; --arch sm_90 needs none." in capsys.readouterr().err


def test_what_does_not_compile_is_named_and_the_others_are_compiled(monkeypatch, capsys):
    monkeypatch.setattr(kernels, "compile_all", lambda arch, chosen, jobs: (7, ["grid lstm: CompilationError: no"]))
    assert kernels.main(["--arch=sm_90", "--jobs=3"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "grid lstm: CompilationError: no"
    assert said[1].startswith("7 kernels of ")
