"""What `make gpu` does with its minutes: jobs in order, hangs that cost their own time alone, and going on later."""

import json
import sys
from dataclasses import replace

import pytest

from gatefuse.bench.gpu import run
from gatefuse.bench.gpu.jobs import Finished, Job, Record, execute
from gatefuse.bench.gpu.outcomes import judge, outcomes


class Machine:
    """Commands by name: how long each takes, how it ends and what it prints; or a list of these, one a run."""

    def __init__(self, **ends):
        self.ends, self.now, self.ran = ends, 0.0, []

    def clock(self):
        return self.now

    def execute(self, command, seconds, silence):
        name, *arguments = command
        end = self.ends[name]
        takes, status, output = end.pop(0) if isinstance(end, list) else end
        self.ran.append((name, arguments))
        took = min(takes, seconds, silence if status is None else takes)
        self.now += took
        return Finished(status if takes <= seconds else None, output, took, silent=took == silence)


def make_run(machine, jobs, path, budget=100.0, commit="c0ffee", device="gpu"):
    record = Record(path / "state.json", commit, device)
    said = []
    run.run(jobs, record, budget, said.append, machine.clock, machine.execute)
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


def test_a_job_of_grid_s_tests_says_what_hung_where_the_test_does_not(tmp_path):
    machine = Machine(**{"all, by grid": (1e9, None, "tests/a.py::test_late[2] "), "sweep": (5, 0, "")})
    jobs = [replace(job("all, by grid", seconds=38), silence=30.0), job("sweep", "sweep", seconds=float("inf"))]
    make_run(machine, jobs, tmp_path)
    assert "--without=gatefuse grid" in machine.ran[-1][1]


def test_a_hang_costs_its_own_time_and_is_named(tmp_path):
    hangs = PASS + "tests/a.py::test_grid[y, 2] "
    machine = Machine(hangs=(1e9, None, hangs), next=(5, 0, PASS), sweep=(5, 0, ""))
    jobs = [replace(job("hangs", seconds=38), silence=30.0), job("next"), job("sweep", "sweep", seconds=float("inf"))]
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


def test_a_job_that_talks_until_its_time_is_over_hangs_nowhere_and_is_gone_on_with(tmp_path):
    machine = Machine(slow=(1e9, 0, PASS + "tests/a.py::test_grid[y] "), sweep=(5, 0, ""))
    slow = replace(job("slow", seconds=30), silence=60.0)
    record, said = make_run(machine, [slow, job("sweep", "sweep", seconds=float("inf"))], tmp_path)
    assert (record.entries["slow"].outcome, record.entries["slow"].counts) == ("cut", "1 passed")
    assert said[1].strip() == "cut; 1 passed; stopped in tests/a.py::test_grid[y]"
    assert machine.ran[-1] == ("sweep", ["--stop-after=45"])
    machine.ends["slow"] = (5, 0, "tests/a.py::test_grid[y] PASSED\n")
    record, _ = make_run(machine, [slow], tmp_path)
    assert (record.entries["slow"].outcome, record.entries["slow"].counts) == ("passed", "2 passed")


def test_a_silent_test_is_stopped_before_its_job_s_time_and_the_rest_goes_on(tmp_path):
    hangs = PASS + "tests/a.py::test_grid[y] "
    machine = Machine(tests=[(1e9, None, hangs), (5, 0, "tests/a.py::test_three PASSED\n")])
    each = replace(job("tests", seconds=60), silence=10.0)
    record, _ = make_run(machine, [each], tmp_path)
    assert machine.ran[1][1] == ["--deselect=tests/a.py::test_one[x]", "--deselect=tests/a.py::test_grid[y]"]
    assert machine.now == 15
    assert record.entries["tests"].outcome == "failed"
    assert record.entries["tests"].counts == "2 passed, 1 hung"


def test_a_contender_that_hangs_is_left_out_of_the_rest_of_its_sweep_and_of_others(tmp_path):
    said = "now: lstm H8: gatefuse eager\nnow: lstm H8 (x: y): gatefuse block\n"
    limit, fine = "now: lstm H8: the limit\n", (5, 0, "")
    machine = Machine(quick=[(1e9, None, said), fine], real=[(1e9, None, limit), fine], full=fine)
    jobs = [replace(job(name, "sweep", seconds=1e9), silence=10.0) for name in ("quick", "real", "full")]
    record, _ = make_run(machine, jobs, tmp_path, budget=1000.0)
    left_out = [[a for a in arguments if a.startswith("--without")] for _, arguments in machine.ran]
    block, grid = "--without=gatefuse block", "--without=gatefuse grid"
    assert left_out == [[], [block], [block], [block, grid], [block, grid]]
    assert [name for name, _ in machine.ran] == ["quick", "quick", "real", "real", "full"]
    assert record.entries["quick"].bad == ["lstm H8 (x: y): gatefuse block"]
    assert [record.entries[name].outcome for name in ("quick", "real", "full")] == ["failed", "failed", "passed"]


BROKE = "!!!! Interrupted: the device answers no more: AcceleratorError !!!!\n"


@pytest.mark.parametrize("status", [70, -6, None], ids=["ends", "aborts on its way out", "hangs on its way out"])
def test_after_a_test_that_breaks_the_device_another_process_runs_the_rest(tmp_path, status):
    breaks = PASS + "tests/a.py::test_grid[y] FAILED\n" + BROKE
    takes = 1e9 if status is None else 3
    machine = Machine(tests=[(takes, status, breaks), (5, 0, "tests/a.py::test_three PASSED\n")], sweep=(5, 0, ""))
    jobs = [replace(job("tests", seconds=60), silence=10.0), job("sweep", "sweep", seconds=float("inf"))]
    record, said = make_run(machine, jobs, tmp_path)
    assert said[1].strip().endswith("the device answers no more after tests/a.py::test_grid[y]")
    assert machine.ran[1][1] == ["--deselect=tests/a.py::test_one[x]", "--deselect=tests/a.py::test_grid[y]"]
    assert (record.entries["tests"].outcome, record.entries["tests"].counts) == ("failed", "2 passed, 1 broke")
    assert "--without" not in " ".join(machine.ran[-1][1])


def test_a_contender_that_breaks_the_device_is_left_out_of_the_rest(tmp_path):
    said = "now: lstm H8: gatefuse eager\nnow: lstm H8: gatefuse block\n" + BROKE
    machine = Machine(quick=[(3, 70, said), (5, 0, "")], real=(5, 0, ""))
    record, _ = make_run(machine, [job(name, "sweep", seconds=1e9) for name in ("quick", "real")], tmp_path)
    assert [arguments[1:] for _, arguments in machine.ran] == [[], *[["--without=gatefuse block"]] * 2]
    assert record.entries["quick"].tests == {"lstm H8: gatefuse block": "BROKE"}
    assert [record.entries[name].outcome for name in ("quick", "real")] == ["failed", "passed"]


def test_a_job_that_breaks_the_device_twice_at_the_same_place_waits_for_the_next_call(tmp_path):
    machine = Machine(quick=(3, 70, "now: lstm H8: the reference\n" + BROKE), next=(5, 0, PASS))
    make_run(machine, [job("quick", "sweep", seconds=1e9), job("next")], tmp_path)
    assert [name for name, _ in machine.ran] == ["quick", "quick", "next"]


@pytest.mark.parametrize("how", ["hangs", "is given up"])
def test_where_the_barrier_alone_fails_no_test_of_a_kernel_that_has_it_is_begun(tmp_path, how):
    name = "tests/bench/measure/test_barrier_loop.py::test_programs_of_a_grid_meet[8] "
    failing = (1e9, None, name) if how == "hangs" else (3, 70, f"{name}FAILED\n{BROKE}")
    machine = Machine(tests=[failing, (5, 0, PASS)], next=(5, 0, PASS), sweep=(5, 0, ""))
    jobs = [replace(job("tests", seconds=60), silence=10.0), job("next"), job("sweep", "sweep", seconds=float("inf"))]
    make_run(machine, jobs, tmp_path)
    without = ["-m", "gpu and not grid"]
    assert [arguments[-2:] == without for _, arguments in machine.ran] == [False, True, True, False]
    # A sweep finds out about what breaks the device within one group.
    assert ("--without=gatefuse grid" in machine.ran[-1][1]) == (how == "hangs")


@pytest.mark.parametrize(("device", "goes_on"), [("nvidia-h200", True), ("amd-instinct-mi300x", False)])
def test_where_a_form_of_the_barrier_fails_that_no_kernel_has_grid_goes_on(tmp_path, device, goes_on):
    name = "tests/bench/measure/test_barrier_loop.py::test_programs_of_a_grid_meet[8-portable] "
    machine = Machine(tests=[(1e9, None, name), (5, 0, PASS)], next=(5, 0, PASS), sweep=(5, 0, ""))
    jobs = [replace(job("tests", seconds=60), silence=10.0), job("next"), job("sweep", "sweep", seconds=float("inf"))]
    record, _ = make_run(machine, jobs, tmp_path, device=device)
    assert record.entries["tests"].bad == [name.strip()]
    assert all("gpu and not grid" not in arguments for _, arguments in machine.ran) is goes_on
    assert ("--without=gatefuse grid" not in machine.ran[-1][1]) is goes_on


def test_kernels_are_compiled_by_each_call_as_each_may_have_another_machine(tmp_path):
    machine = Machine(kernels=(5, 0, "12 kernels in 5 s\n"), next=(5, 0, PASS))
    jobs = [job("kernels", "compile"), job("next")]
    record, _ = make_run(machine, jobs, tmp_path)
    assert (record.entries["kernels"].outcome, record.entries["kernels"].note) == ("passed", "12 kernels in 5 s")
    make_run(machine, jobs, tmp_path)
    assert [name for name, _ in machine.ran] == ["kernels", "next", "kernels"]
    machine.ends["kernels"] = (5, 1, "it: CompilationError: no\n")
    record, said = make_run(machine, jobs, tmp_path)
    assert (record.entries["kernels"].outcome, said[-1].strip()) == ("failed", "failed; it ended with 1")
    machine.ends["kernels"] = (1e9, 0, "")
    assert make_run(machine, jobs, tmp_path)[0].entries["kernels"].outcome == "cut"


def test_a_silence_in_which_nothing_is_named_ends_the_job(tmp_path):
    machine = Machine(sweep=(1e9, None, ""), next=(5, 0, PASS))
    jobs = [replace(job("sweep", "sweep", seconds=1e9), silence=10.0), job("next")]
    record, _ = make_run(machine, jobs, tmp_path)
    assert [name for name, _ in machine.ran] == ["sweep", "next"]
    assert record.entries["sweep"].note == "hung in its beginning"


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


@pytest.mark.slow
def test_a_process_is_run_and_killed_with_what_it_started(tmp_path):
    done = execute([sys.executable, "-c", "print('there'); raise SystemExit(3)"], 60)
    assert (done.status, done.output) == (3, "there\n")
    late = tmp_path / "late"
    child = f"sleep 2; touch {late}"
    done = execute(["sh", "-c", f"({child}) & echo 1; sleep 9"], 0.5)
    assert (done.status, done.output, done.silent) == (None, "1\n", False)
    done = execute(["sh", "-c", "for k in 1 2 3; do echo $k; sleep 0.4; done; sleep 9"], 60, silence=1.0)
    assert (done.status, done.output, done.silent) == (None, "1\n2\n3\n", True)
    assert 1.8 < done.seconds < 5
    assert not late.exists()
    assert execute(["no-such-program"], 1).status == 127


def test_the_record_is_readable(tmp_path):
    make_run(Machine(one=(1, 0, PASS)), [job("one")], tmp_path)
    held = json.loads((tmp_path / "state.json").read_text())
    assert (held["commit"], held["device"], held["jobs"]["one"]["outcome"]) == ("c0ffee", "gpu", "passed")
