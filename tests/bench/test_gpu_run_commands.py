"""The commands of `make gpu`, and the files that it leaves."""

import ast
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from _pytest.mark.expression import Expression

from gatefuse.bench.gpu import __main__ as command_line
from gatefuse.bench.gpu import order, run
from gatefuse.bench.gpu.jobs import Finished, execute
from gatefuse.bench.gpu.parcel import Parcel
from gatefuse.bench.measure.stamp import take_stamp
from gatefuse.kernels.runtime import debug


@pytest.mark.slow
def test_the_jobs_name_what_there_is(tmp_path):
    """Each picks tests that exist, and each sweep has its file; nothing else lies in the folder."""
    jobs = order.make_jobs(tmp_path)
    assert len({j.name for j in jobs}) == len(jobs)
    assert [j.kind for j in jobs][:5] == ["compile", "tests", "sweep", "tests", "sweep"]
    assert [j.name for j in jobs if j.kind == "sweep"] == [f"sweep {name}" for name in order.SWEEPS]
    tests = gpu_tests()
    assert len(tests) > 100
    for each in jobs:
        if each.kind in ("tests", "sanitizer"):
            assert all(picked(each, tests)), each.name


@pytest.mark.slow
def test_every_test_that_needs_a_gpu_is_in_a_job(tmp_path):
    tests = gpu_tests()
    left = set(tests).difference(
        *(name for each in order.make_jobs(tmp_path) if each.kind == "tests" for name in picked(each, tests))
    )
    assert sorted(left) == []


@pytest.mark.slow
def test_what_may_hang_waits_for_its_turn(tmp_path):
    """All tests that name grid, in what they do or their parameters, have its mark, and their names say so, from
    which what hung is known. In each job they come last, but for the barrier alone, which decides on the rest."""
    tests, grid = gpu_tests(), gpu_tests("gpu and grid")
    assert {test for test in tests if names_grid(test)} == grid
    assert [test for test in sorted(grid) if "grid" not in test.partition("::")[2]] == []
    for each in order.make_jobs(tmp_path):
        if each.kind in ("tests", "sanitizer"):
            ran = list(dict.fromkeys(test for pick in picked(each, tests) for test in pick))
            may_hang = [test in grid for test in ran if "test_barrier_loop" not in test]
            assert may_hang == sorted(may_hang), each.name
            assert may_hang.count(True) == 0 or each.name not in ("block, all cells", "step, all cells", "memcheck")


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
    """Those that a job runs, by the expressions that pick them in their order."""
    paths = tuple(argument for argument in each.command if argument.startswith("tests/"))
    picks = [part.removeprefix("--in-order=") for part in each.command if part.startswith("--in-order=")] or ["test"]
    at = max(k for k, argument in enumerate(each.command) if argument == "-m")  # the first is Python's
    marked = gpu_tests(each.command[at + 1])
    own = [test for test in sorted(tests & marked) if test.startswith(paths)]
    return [[test for test in own if matches(pick, test)] for pick in picks]


def matches(pick, test):
    mark = " grid" if test in gpu_tests("gpu and grid") else ""
    return Expression.compile(pick).evaluate(lambda word, **_: word.lower() in test.lower() + mark)


@pytest.mark.slow
def test_tests_run_in_the_order_in_which_they_are_asked_for(tmp_path):
    (tmp_path / "test_a.py").write_text("def test_one(): ...\ndef test_two(): ...\ndef test_three(): ...\n")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", "-c", str(root / "pyproject.toml"), "-p", "conftest"]
    said = execute(
        [*command, f"--rootdir={tmp_path}", "-v", "--in-order=three", "--in-order=o and not three", str(tmp_path)], 60
    )
    lines = [line.split("::")[1].split()[0] for line in said.output.splitlines() if "PASSED" in line]
    assert lines == ["test_three", "test_one", "test_two"], said.output
    said = execute([*command, f"--rootdir={tmp_path}", "-v", "--in-order=two", str(tmp_path)], 60)
    assert "1 passed, 2 deselected" in said.output


class Machine:
    """A GPU machine whose jobs leave what they can: rows, and a half of them where they are killed."""

    def __init__(self, monkeypatch, out):
        self.out, self.most, self.ran, gpu_run = out, 0, [], run.run
        stamp = replace(take_stamp(torch.device("cpu")), device="some-gpu", gpu="Some GPU", commit="c0ffee")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr("gatefuse.bench.measure.stamp.take_stamp", lambda device: stamp)

        def with_clock(jobs, record, budget, after):
            return gpu_run(jobs, record, budget, str, lambda: 0.0, self.execute, after)

        monkeypatch.setattr(run, "run", with_clock)
        monkeypatch.setenv("GATEFUSE_POLLS", "0")  # so that it is put back as it was
        monkeypatch.delenv("GATEFUSE_POLLS")

    def execute(self, command, seconds, silence):
        self.ran.append(command)
        if rows := next((argument for argument in command if argument.startswith("--rows=")), ""):
            path = Path(rows.removeprefix("--rows="))
            before = path.read_text() if path.exists() else ""
            path.write_text(before + "a row\n")
            path.with_name(f".{path.name}.0123456789abcdef.part").write_text("half")
            path.with_name(f"{path.name}.lock").write_text("process 1")
        self.most = max(self.most, len(list(self.out.rglob("*"))) if self.out.exists() else 0)
        return Finished(None, "", seconds)


def test_two_files_are_left_and_a_later_run_goes_on_from_them(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    machine = Machine(monkeypatch, out)
    assert command_line.main([f"--out={out}"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["gpu.tar", "summary.txt"]
    assert machine.most <= 3
    assert debug.polls() == debug.POLLS  # also in the jobs, which get this process's environment
    assert capsys.readouterr().out.startswith("Some GPU")
    assert "What failed, and how:" in (out / "summary.txt").read_text()
    Parcel(out / "gpu.tar", tmp_path).unpack()
    rows = [f"{name}.csv" for name in order.SWEEPS]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["out", "state.json", *rows])
    command_line.main([f"--out={out}"])
    Parcel(out / "gpu.tar", tmp_path).unpack()
    assert (tmp_path / "quick.csv").read_text() == "a row\na row\n"


def test_a_file_that_is_no_parcel_is_refused_and_stays(tmp_path, monkeypatch, capsys):
    machine = Machine(monkeypatch, tmp_path)
    (tmp_path / "gpu.tar").write_text("something else")
    assert command_line.main([f"--out={tmp_path}"]) == 2
    assert "gpu.tar must be a tar of results; remove it to begin anew. Got " in capsys.readouterr().err
    assert (tmp_path / "gpu.tar").read_text() == "something else"
    assert machine.ran == []


def test_a_parcel_is_kept_up_to_date_while_a_job_runs(tmp_path):
    folder, other = tmp_path / "rows", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    parcel = Parcel(tmp_path / "out" / "gpu.tar", folder)
    with parcel.kept(every=0.01):
        (folder / "first.csv").write_text("rows\n")
        until = time.monotonic() + 20
        while not parcel.path.exists() or b"rows" not in parcel.path.read_bytes():
            assert time.monotonic() < until
            time.sleep(0.01)
        (folder / "quick.csv").write_text("more\n")
    Parcel(parcel.path, other).unpack()
    assert {path.name: path.read_text() for path in other.iterdir()} == {"first.csv": "rows\n", "quick.csv": "more\n"}


def test_a_rehearsal_shows_order_times_and_files_and_needs_no_gpu(capsys):
    assert command_line.main(["--dry-run", "--budget=430"]) == 0
    lines = capsys.readouterr().out.splitlines()
    begun = [line.split(" s  ")[1].split(", for")[0] for line in lines if ", for" in line and " s at most" in line]
    jobs = order.make_jobs(Path("rows"))
    assert begun == [job.name for job in jobs[: len(begun)]]
    assert begun[-1] == "sweep quick"
    assert float(lines[-2].split()[0]) <= 430
    assert jobs[-1].name in lines[-2]
    assert lines[-1] == "OUT has 2 files at most: gpu.tar, summary.txt"


def test_memcheck_sees_beyond_each_tensor(tmp_path):
    (found,) = (each.command for each in order.make_jobs(tmp_path) if each.kind == "sanitizer")
    assert found[:3] == ("env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", "compute-sanitizer")
    assert " ".join(found).count("--report-api-errors no --error-exitcode") == 1


WARNS = """
import warnings
import pytest

def warn(category, module):
    warnings.warn_explicit("this machine's", category, "file.py", 1, module=module)

@pytest.mark.parametrize(("category", "module"), [
    (UserWarning, "torch.cuda"), (RuntimeWarning, "triton.runtime"), (UserWarning, "gatefuse.kernels.loops.operator"),
    (RuntimeWarning, "gatefuse.kernels.loops.operator"), (RuntimeWarning, "gatefuse.kernels.runtime.graphs.recording"),
])
def test(category, module):
    warn(category, module)
"""


def test_only_gatefuse_s_own_warnings_fail_its_tests(tmp_path):
    """Those of torch's C++ are UserWarnings of whatever line of Python called it."""
    (tmp_path / "test_warns.py").write_text(WARNS)
    ini = Path(__file__).parents[2] / "pyproject.toml"
    command = [sys.executable, "-m", "pytest", "-c", str(ini), f"--rootdir={tmp_path}", "-q"]
    for options, failed in (((), 5), (order.WARNINGS, 2)):
        said = execute([*command, *options, str(tmp_path / "test_warns.py")], 60).output
        assert f"{failed} failed" in said, said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path, capsys):
    assert command_line.main([f"--out={tmp_path / 'out'}"]) == 2
    assert capsys.readouterr().err == "make gpu needs a CUDA or ROCm device that torch can use. There is none.\n"
    assert not (tmp_path / "out").exists()
