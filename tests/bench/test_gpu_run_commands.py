"""The commands of `make gpu`, and the files that it leaves."""

import ast
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from _pytest.mark.expression import Expression

from gatefuse.bench.gpu import run
from gatefuse.bench.gpu.jobs import Finished, execute
from gatefuse.bench.measure.stamp import take_stamp


def test_the_jobs_name_what_there_is(tmp_path):
    """Each picks tests that exist, and each sweep has its file; nothing else lies in the folder."""
    jobs = run.make_jobs(tmp_path)
    assert len({j.name for j in jobs}) == len(jobs)
    kinds = [j.kind for j in jobs]
    assert kinds.index("sweep") < 7
    assert [j.name for j in jobs if j.kind == "sweep"] == [f"sweep {name}" for name in run.SWEEPS]
    tests = gpu_tests()
    assert len(tests) > 100
    for each in jobs:
        if each.kind != "sweep":
            assert picked(each, tests), each.name


def test_every_test_that_needs_a_gpu_is_in_a_job(tmp_path):
    tests = gpu_tests()
    left = set(tests).difference(*(picked(each, tests) for each in run.make_jobs(tmp_path) if each.kind == "tests"))
    assert sorted(left) == []


@pytest.mark.parametrize("name", ["what only a GPU shows", "step and block, three cells", "block, all cells"])
def test_what_may_hang_waits_for_its_turn(tmp_path, name):
    """All tests that name grid, in their name or what they do, have its mark, and jobs before grid's leave them out."""
    tests = gpu_tests()
    assert {test for test in tests if names_grid(test)} <= gpu_tests("gpu and grid")
    (early,) = [each for each in run.make_jobs(tmp_path) if each.name == name]
    assert not gpu_tests("gpu and grid") & set(picked(early, tests))


def names_grid(test):
    path, function = test.partition("[")[0].split("::")
    text = Path(path).read_text(encoding="utf-8")
    (found,) = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef) and n.name == function]
    return "grid" in test.partition("::")[2] or "grid" in ast.get_source_segment(text, found)


@cache
def gpu_tests(marks="gpu"):
    """Names of all tests that have the marks."""
    listed = execute([sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", marks, "tests"], 120).output
    return frozenset(line for line in listed.splitlines() if "::" in line)


def picked(each, tests):
    """Those that a job runs."""
    paths = tuple(argument for argument in each.command if argument.startswith("tests/"))
    pick = Expression.compile(each.command[each.command.index("-k") + 1] if "-k" in each.command else "test")
    marked = gpu_tests(each.command[each.command.index("-m", 3) + 1])  # the first -m is Python's
    own = [test for test in sorted(tests & marked) if test.startswith(paths)]
    return [test for test in own if pick.evaluate(lambda word, test=test, **_: word.lower() in test.lower())]


def test_few_files_are_left_and_some_that_a_killed_run_left_are_removed(tmp_path, monkeypatch, capsys):
    """Each job leaves what it can: rows, and a half of them where it is killed."""
    out = tmp_path / "out"
    most = []

    def leave(command, seconds, silence):
        if rows := next((argument for argument in command if argument.startswith("--rows=")), ""):
            path = Path(rows.removeprefix("--rows="))
            path.write_text("")
            path.with_name(f".{path.name}.0123456789abcdef.part").write_text("half")
            path.with_name(f"{path.name}.lock").write_text("process 1")
        most.append(sorted(path.name for path in out.iterdir()))
        return Finished(None, "", seconds)

    def with_clock(jobs, record, budget, after):
        return gpu_run(jobs, record, budget, str, lambda: 0.0, leave, after)

    gpu_run = run.run
    monkeypatch.setattr(run, "run", with_clock)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    stamp = replace(take_stamp(torch.device("cpu")), device="some-gpu", gpu="Some GPU", commit="c0ffee")
    monkeypatch.setattr("gatefuse.bench.measure.stamp.take_stamp", lambda device: stamp)
    assert run.main([f"--out={out}"]) == 0
    left = sorted(path.name for path in out.iterdir())
    assert left == sorted([*(f"{name}.csv" for name in run.SWEEPS), "state.json", "summary.txt"])
    assert max(map(len, most)) <= 9
    assert capsys.readouterr().out.startswith("Some GPU")
    assert "What failed, and how:" in (out / "summary.txt").read_text()


def test_memcheck_sees_beyond_each_tensor(tmp_path):
    (found,) = (each.command for each in run.make_jobs(tmp_path) if each.kind == "sanitizer")
    assert found[:3] == ("env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", "compute-sanitizer")
    assert " ".join(found).count("--report-api-errors no --error-exitcode") == 1


WARNS = """
import warnings
import pytest

def warn(category, module):
    warnings.warn_explicit("this machine's", category, "file.py", 1, module=module)

@pytest.mark.parametrize(("category", "module"), [
    (UserWarning, "torch.cuda"), (RuntimeWarning, "triton.runtime"), (UserWarning, "gatefuse.kernels.loops.operator"),
    (RuntimeWarning, "gatefuse.kernels.loops.operator"), (RuntimeWarning, "gatefuse.kernels.runtime.recording"),
])
def test(category, module):
    warn(category, module)
"""


def test_only_gatefuse_s_own_warnings_fail_its_tests(tmp_path):
    """Those of torch's C++ are UserWarnings of whatever line of Python called it."""
    (tmp_path / "test_warns.py").write_text(WARNS)
    ini = Path(__file__).parents[2] / "pyproject.toml"
    command = [sys.executable, "-m", "pytest", "-c", str(ini), f"--rootdir={tmp_path}", "-q"]
    for options, failed in (((), 5), (run.WARNINGS, 2)):
        said = execute([*command, *options, str(tmp_path / "test_warns.py")], 60).output
        assert f"{failed} failed" in said, said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path, capsys):
    assert run.main([f"--out={tmp_path / 'out'}"]) == 2
    assert capsys.readouterr().err == "make gpu needs a CUDA or ROCm device that torch can use. There is none.\n"
    assert not (tmp_path / "out").exists()
