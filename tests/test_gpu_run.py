"""What `make gpu` does with its minutes: jobs in order, hangs that cost their own time alone, and going on later."""

import json
import sys
from dataclasses import asdict

import pytest
import torch
from _pytest.mark.expression import Expression

from gatefuse.bench import digest, gpu
from gatefuse.bench.jobs import Entry, Finished, Job, Record, execute, judge, outcomes
from gatefuse.bench.measure import Samples
from gatefuse.bench.rows import Row, compare, take_stamp
from gatefuse.bench.sweeps import Group, Shape
from gatefuse.bench.table import Table


class Machine:
    """Commands by name: how long each takes, how it ends and what it prints. Time passes when one runs."""

    def __init__(self, **ends):
        self.ends, self.now, self.ran = ends, 0.0, []

    def clock(self):
        return self.now

    def execute(self, command, seconds):
        name, *arguments = command
        takes, status, output = self.ends[name]
        self.ran.append((name, arguments))
        self.now += min(takes, seconds)
        return Finished(status if takes <= seconds else None, output, min(takes, seconds))


def make_run(machine, jobs, path, budget=100.0, commit="c0ffee", device="gpu"):
    record = Record(path / "state.json", commit, device)
    said = []
    gpu.run(jobs, record, budget, said.append, machine.clock, machine.execute)
    return record, said


def job(name, kind="tests", seconds=50.0, until=1.0):
    return Job(name, kind, (name,), seconds, until)


PASS = "tests/a.py::test_one[x] PASSED [100%]\n"


def test_jobs_run_in_order_and_once_per_commit(tmp_path):
    machine = Machine(one=(5, 0, PASS), two=(5, 1, PASS + "tests/a.py::test_two FAILED\n"))
    jobs = [job("one"), job("two")]
    record, said = make_run(machine, jobs, tmp_path)
    assert [name for name, _ in machine.ran] == ["one", "two"]
    assert {name: entry.outcome for name, entry in record.entries.items()} == {"one": "passed", "two": "failed"}
    assert said[-1].strip() == "failed; 1 passed, 1 failed"
    make_run(machine, jobs, tmp_path)
    assert len(machine.ran) == 2
    make_run(machine, jobs, tmp_path, commit="decade")
    assert len(machine.ran) == 4
    make_run(machine, jobs, tmp_path, commit="unknown")
    make_run(machine, jobs, tmp_path, commit="unknown")
    assert len(machine.ran) == 8


def test_a_folder_of_another_device_is_refused(tmp_path):
    make_run(Machine(one=(1, 0, PASS)), [job("one")], tmp_path)
    with pytest.raises(ValueError, match=r"must hold the results of one device. It has gpu, and this is other."):
        Record(tmp_path / "state.json", "c0ffee", "other")
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(ValueError, match=r"state.json must be a record of jobs; remove it to begin anew."):
        Record(tmp_path / "state.json", "c0ffee", "gpu")


def test_a_hang_costs_its_own_time_and_is_named(tmp_path):
    hangs = PASS + "tests/a.py::test_grid[y, 2] "
    machine = Machine(hangs=(1e9, 0, hangs), next=(5, 0, PASS), sweep=(5, 0, ""))
    jobs = [job("hangs", seconds=30), job("next"), job("sweep", "sweep", seconds=float("inf"))]
    record, _ = make_run(machine, jobs, tmp_path)
    assert record.entries["hangs"].tests == {"tests/a.py::test_one[x]": "PASSED", "tests/a.py::test_grid[y, 2]": "HUNG"}
    assert record.entries["next"].outcome == "passed"
    # what hung in a test is kept from hanging the sweep
    assert machine.ran[-1] == ("sweep", ["--stop-after=40", "--without=gatefuse grid"])
    # the next time the rest of its tests run
    machine.ends["hangs"] = (5, 0, "tests/a.py::test_three PASSED\n")
    record, _ = make_run(machine, jobs, tmp_path)
    assert machine.ran[-1] == (
        "hangs",
        ["--deselect=tests/a.py::test_one[x]", "--deselect=tests/a.py::test_grid[y, 2]"],
    )
    assert record.entries["hangs"].outcome == "failed"
    assert record.entries["hangs"].counts == "2 passed, 1 hung"


def test_what_the_budget_cuts_is_gone_on_with_and_blamed_when_it_happens_twice(tmp_path):
    machine = Machine(slow=(1e9, 0, PASS + "tests/a.py::test_slow "))
    jobs = [job("slow", seconds=500)]
    record, _ = make_run(machine, jobs, tmp_path)
    assert (record.entries["slow"].outcome, record.entries["slow"].bad) == ("cut", [])
    machine.ends["slow"] = (1e9, 0, "tests/a.py::test_slow ")
    record, _ = make_run(machine, jobs, tmp_path)
    assert record.entries["slow"].bad == ["tests/a.py::test_slow"]
    machine.ends["slow"] = (1, 5, "no tests ran")
    record, _ = make_run(machine, jobs, tmp_path)
    assert record.entries["slow"].outcome == "failed"
    assert record.done(jobs[0])


def test_tests_leave_the_sweeps_their_part(tmp_path):
    machine = Machine(one=(1e9, 0, PASS), two=(5, 0, PASS), sweep=(1e9, None, ""))
    jobs = [job("one", seconds=500, until=0.4), job("two", until=0.4), job("sweep", "sweep", seconds=float("inf"))]
    _, said = make_run(machine, jobs, tmp_path)
    assert [name for name, _ in machine.ran] == ["one", "sweep"]
    assert said[0] == "   0 s  one, for 40 s at most"
    assert said[2] == "  40 s  sweep, for 60 s at most"
    assert machine.now == 100
    _, said = make_run(machine, jobs, tmp_path, budget=0.0)
    assert said == []


def test_a_job_that_can_t_be_run_stops_nothing(tmp_path):
    machine = Machine(next=(5, 0, PASS))
    record, _ = make_run(machine, [job("absent"), job("next")], tmp_path)
    assert record.entries["absent"].outcome == "failed"
    assert record.entries["absent"].note == "KeyError: 'absent'"
    assert record.entries["next"].outcome == "passed"


def test_what_pytest_prints_is_read():
    text = (
        "tests/a.py::test_x[cuda-script-lstm-(1, 1, 1)] PASSED  [ 73%]\n"
        "tests/a.py::test_x[cuda-grid-lstm-all forward] SKIPPED (a reason [1]) [ 80%]\n"
        "tests/a.py::test_y FAILED [ 90%]\n"
        "tests/a.py:33: in check\n"
        "FAILED tests/a.py::test_y - AssertionError\n"
        "tests/a.py::test_z[1] Fatal Python error: Segmentation fault\n"
    )
    assert outcomes(text) == (
        {
            "tests/a.py::test_x[cuda-script-lstm-(1, 1, 1)]": "PASSED",
            "tests/a.py::test_x[cuda-grid-lstm-all forward]": "SKIPPED",
            "tests/a.py::test_y": "FAILED",
        },
        "tests/a.py::test_z[1]",
    )


def test_a_crash_is_the_running_test_s(tmp_path):
    machine = Machine(crash=(3, -11, PASS + "tests/a.py::test_two Fatal Python error: Aborted\n"))
    record, _ = make_run(machine, [job("crash")], tmp_path)
    assert record.entries["crash"].tests["tests/a.py::test_two"] == "ERROR"
    assert record.entries["crash"].note == "pytest ended with -11 in tests/a.py::test_two"
    assert "Aborted" in record.entries["crash"].output


@pytest.mark.parametrize(
    ("status", "output", "outcome"),
    [
        (0, "2 passed\n== ERROR SUMMARY: 0 errors", "passed"),
        (66, "== Invalid __global__ read of size 4\n== ERROR SUMMARY: 3 errors", "failed"),
        (1, "1 failed\n== ERROR SUMMARY: 0 errors", "failed"),
        (127, "[Errno 2] No such file or directory: 'compute-sanitizer'", "unavailable"),
        (1, "== Error: Device not supported\n== ERROR SUMMARY: 1 error", "unavailable"),
        (None, "", "unavailable"),
    ],
)
def test_a_sanitizer_that_can_t_is_recorded_as_such(status, output, outcome):
    entry = judge(job("memcheck", "sanitizer"), Finished(status, output, 1.0), own_limit=True)
    assert entry.outcome == outcome


def test_a_process_is_run_and_killed_with_what_it_started(tmp_path):
    done = execute([sys.executable, "-c", "print('there'); raise SystemExit(3)"], 60)
    assert (done.status, done.output) == (3, "there\n")
    child = f"import time; time.sleep(3); open({str(tmp_path / 'late')!r}, 'w')"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); print(1); time.sleep(9)"
    done = execute([sys.executable, "-c", code], 1.5)
    assert (done.status, done.output) == (None, "1\n")
    assert execute([sys.executable, "-c", "import time; time.sleep(2.5)"], 60).status == 0
    assert not (tmp_path / "late").exists()
    assert execute(["no-such-program"], 1).status == 127


def test_the_jobs_name_what_there_is(tmp_path):
    """Each picks tests that exist, and each sweep has its file; nothing else lies in the folder."""
    jobs = gpu.make_jobs(tmp_path)
    assert len({j.name for j in jobs}) == len(jobs)
    kinds = [j.kind for j in jobs]
    assert kinds.index("sweep") < 7
    assert [j.name for j in jobs if j.kind == "sweep"] == [f"sweep {name}" for name in gpu.SWEEPS]
    paths = {argument for each in jobs for argument in each.command if argument.startswith("tests/")}
    listed = execute([sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "gpu", *sorted(paths)], 120).output
    tests = [line for line in listed.splitlines() if "::" in line]
    assert len(tests) > 100
    for each in jobs:
        if each.kind != "sweep":
            (path,) = (argument for argument in each.command if argument.startswith("tests/"))
            pick = Expression.compile(each.command[each.command.index("-k") + 1] if "-k" in each.command else "test")
            own = [test.lower() for test in tests if test.startswith(path)]
            assert any(pick.evaluate(lambda word, test=test, **_: word.lower() in test) for test in own), each.name
    files = {f"{name}.csv" for name in gpu.SWEEPS} | {"state.json", "tests.txt", "summary.txt"}
    assert len(files) <= 8


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path, capsys):
    assert gpu.main([f"--out={tmp_path / 'out'}"]) == 2
    assert capsys.readouterr().err == "make gpu needs a CUDA or ROCm device that torch can use. There is none.\n"
    assert not (tmp_path / "out").exists()


def write_rows(path, **p50s):
    stamp = {**asdict(take_stamp(torch.device("cpu"))), "commit": "c0ffee"}
    rows = []
    for name, seconds in p50s.items():
        row = Row.of(Group(Shape("lstm", 8, 2, 3, 4), "bfloat16", "training"), name.replace("_", " "), "ok")
        row.take(Samples([seconds] * 3))
        row.floor_share, row.driver = 0.25, "step"
        rows.append(row)
    compare(rows, "gatefuse eager")
    Table(path, stamp).append([asdict(row) for row in rows])


def test_the_summary_says_who_wins_and_what_failed_in_40_lines(tmp_path):
    write_rows(tmp_path / "quick.csv", gatefuse_eager=0.8, gatefuse_auto=0.2, **{"torch.nn": 0.1})
    (tmp_path / "real.csv").write_text("")
    bad = Entry("failed", tests={f"tests/a.py::test_{k}": "FAILED" for k in range(50)}, output="Traceback")
    entries = {"one": Entry("passed", seconds=3.2, tests={"tests/a.py::test": "PASSED"}), "two": bad}
    text = digest.summary("Some GPU", entries, {n: tmp_path / f"{n}.csv" for n in ("quick", "real", "full")})
    lines = text.splitlines()
    assert len(lines) <= 40
    assert lines[0] == "Some GPU"
    assert "  and 44 more, in tests.txt" in lines
    assert any(line.split() == ["quick", "1", "0", "4.00x", "0.50x", "25%"] for line in lines)
    assert any("must hold a header and rows" in line for line in lines)
    assert lines[-1] == "  0.50x  quick: lstm H8 B2 T3 I4 bfloat16 training, by step"
    sheet = digest.tests("Some GPU", entries)
    assert sheet.count("FAILED tests/a.py") == 50
    assert sheet.rstrip().endswith("Traceback")


def test_the_record_is_readable(tmp_path):
    make_run(Machine(one=(1, 0, PASS)), [job("one")], tmp_path)
    held = json.loads((tmp_path / "state.json").read_text())
    assert (held["commit"], held["device"], held["jobs"]["one"]["outcome"]) == ("c0ffee", "gpu", "passed")
