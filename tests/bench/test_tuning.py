"""`python -m gatefuse.bench tune`: trials are checked, measured, logged, gone on with, and shown as rows say."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from gatefuse.bench.__main__ import main
from gatefuse.bench.gpu.jobs import Finished
from gatefuse.bench.measure.clocks import CpuClock
from gatefuse.bench.storage import tuning_log
from gatefuse.bench.storage.tuning_log import Log
from gatefuse.bench.tuning import run
from gatefuse.bench.tuning import trial as trials
from gatefuse.bench.tuning.variant import Place, Trial, Variant
from gatefuse.kernels.runtime.settings import interpreted
from tests.support.made_up_rows import STAMP

ROOT = Path(__file__).resolve().parents[2]
ROWS = Variant("rows", "block", "forward", {"ROWS": "units"}, (Place("lstm", 20, 2, "float32"),), 0.7, "a reason")
SUMS = ROWS._replace(name="sums", loop="grid", way="backward", changes={"SUMS": "gates"})
CPU = torch.device("cpu")


def make_trial(variant=ROWS, way="training forward"):
    return Trial(variant, variant.places[0], way)


@pytest.fixture
def exact_products(monkeypatch):
    """The interpreter's products of float32 rounded once: numpy's own depend on which rows lie beside a row, on some
    processors."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")

    def create_dot(self, a, b, d, *_):
        product = np.matmul(a.data.astype(np.float64), b.data.astype(np.float64)).astype(d.data.dtype)
        return interpreter.TensorHandle(product + d.data, d.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.mark.slow
@pytest.mark.skipif(not interpreted(), reason="Triton's interpreter is off")
@pytest.mark.parametrize("trial", [make_trial(), make_trial(SUMS, "backward")], ids=lambda trial: trial.title)
def test_a_trial_is_checked_and_measured(trial, monkeypatch, exact_products):
    monkeypatch.setattr(trials, "BUDGET", 0.01)
    row = trials.measured(trial, CpuClock(), CPU, steps=2)
    assert row["status"] == "ok", row["note"]
    # the same products in other rows; but a sum by gate is another sum
    assert row["same_bits"] is (trial.variant is ROWS)
    assert row["same_bits"] or 0 <= row["error"] <= row["allowed"] < 1e-4
    assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
    assert row["ratio"] == pytest.approx(row["us"] / row["default_us"])


@pytest.mark.skipif(not interpreted(), reason="Triton's interpreter is off")
def test_a_variant_that_computes_something_else_is_not_timed(monkeypatch):
    honest = trials.make_calls

    def spoiled(trial, inputs):
        calls = honest(trial, inputs)
        return {**calls, "variant": lambda: {name: 2 * value for name, value in calls["variant"]().items()}}

    monkeypatch.setattr(trials, "make_calls", spoiled)
    row = trials.measured(make_trial(), CpuClock(), CPU, steps=2)
    assert row["status"] == "wrong"
    assert re.fullmatch(r"it may err by \S+ where its bits are others. Got 1.", row["note"])
    assert "ratio" not in row


def test_what_is_raised_is_a_row():
    row = trials.measured(make_trial(ROWS._replace(changes={"BU": 8})), CpuClock(), CPU)
    assert row["status"] == "failed"
    assert row["note"].startswith("ValueError: a change of block forward must be one of BB, warps,")


def make_row(trial, **more):
    figures = {"samples": 20, "default_us": 2.0, "us": 1.5, "ratio": 0.75, "ratio_low": 0.7, "ratio_high": 0.8}
    return {**trials.key(trial), "status": "ok", "same_bits": True, **figures, **more}


def make_log(path, **stamp):
    return Log(path / tuning_log.NAME, {**STAMP, **stamp})


def test_the_log_grows_and_knows_what_this_commit_has(tmp_path):
    one, two = make_trial(), make_trial(SUMS, "backward")
    log = make_log(tmp_path)
    log.append(make_row(one))
    assert log.holds(trials.key(one))
    assert not log.holds(trials.key(two))
    assert make_log(tmp_path).holds(trials.key(one))
    later = make_log(tmp_path, commit="decade")
    assert not later.holds(trials.key(one))
    later.append(make_row(one, ratio=0.5))
    rows = tuning_log.read(log.path)
    assert rows["ratio"].tolist() == [0.75, 0.5]
    assert tuning_log.latest(rows)["ratio"].tolist() == [0.5]
    assert not make_log(tmp_path, commit="unknown").holds(trials.key(one))
    with pytest.raises(ValueError, match=r"must hold rows of one device. It has some-gpu, and this is other."):
        make_log(tmp_path, device="other")


def test_a_row_that_was_cut_off_is_named_and_harms_no_other(tmp_path, capsys):
    log = make_log(tmp_path)
    log.append(make_row(make_trial()))
    log.path.write_text(log.path.read_text()[:-30])
    log = make_log(tmp_path)
    assert len(tuning_log.read(log.path).attrs["skipped"]) == 1
    log.append(make_row(make_trial(SUMS, "backward")))
    rows = tuning_log.read(log.path)
    assert rows["variant"].tolist() == ["sums"]
    assert rows.attrs["skipped"] == []
    assert "tuning.csv, left out: its last line is cut off: 'rows,lstm," in capsys.readouterr().err


class Machine:
    """Processes that measure: each run does what its part says with the trials that are left."""

    def __init__(self, log, chosen, *parts):
        self.log, self.chosen, self.parts, self.now, self.commands = log, chosen, list(parts), 0.0, []

    def clock(self):
        return self.now

    def execute(self, command, seconds, silence):
        self.commands.append(command)
        log, said = Log(self.log.path, self.log.stamp), []
        measures, status, silent = self.parts.pop(0)
        for trial in [trial for trial in self.chosen if not log.holds(trials.key(trial))]:
            if not measures and status == 3:  # broken by the trial before, which has its row
                break
            said.append(f"now: {trial.title}\n")
            if not measures:
                break
            measures -= 1
            log.append(make_row(trial))
        self.now += 20
        return Finished(status, "".join(said), 20, silent)


def test_a_trial_that_hangs_or_breaks_the_device_is_gone_on_behind(tmp_path):
    chosen = run.choose(["grid-every-thread-polls", "grid-32-units"])
    log = make_log(tmp_path)
    machine = Machine(log, chosen, (1, None, True), (2, 3, False), (0, -11, False), (9, 0, False))
    said = []
    refused = [{**trials.key(chosen[-1]), "refused": "it must fit. Got more."}]
    left = run.run(log, chosen, ("x",), 200.0, lambda left: refused, said.append, machine.clock, machine.execute)
    assert left == 0
    rows = tuning_log.read(log.path)
    assert rows["status"].tolist() == ["refused", "ok", "hung", "ok", "ok", "failed", "ok", "ok"]
    assert list(filter(None, rows["note"])) == [
        "it must fit. Got more.", "silent for 60 s", "its process ended with -11",
    ]  # fmt: skip
    assert machine.commands[1] == ["x", "--budget=172"]
    again = Machine(log, chosen)
    assert run.run(log, chosen, ("x",), 200.0, lambda left: [], said.append, again.clock, again.execute) == 0


def test_a_process_measures_what_is_left_and_says_when_the_device_is_broken(tmp_path, monkeypatch, capsys):
    chosen, log, answers = run.choose(["grid-8-warps"]), make_log(tmp_path), [None, None, RuntimeError("lost")]

    def synchronize(device):
        if answer := answers.pop(0):
            raise answer

    monkeypatch.setattr(trials, "measured", lambda trial, clock, device: make_row(trial))
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    log.append(make_row(chosen[1]))
    assert run.here(log, chosen, 0.0, CPU) == 0
    assert run.here(log, chosen, 100.0, CPU) == 3
    said = [f"now: {trial.title}" for trial in (chosen[0], *chosen[2:])]
    assert capsys.readouterr().out.splitlines() == said
    assert all(log.holds(trials.key(trial)) for trial in chosen)


def test_a_budget_that_is_over_leaves_trials(tmp_path):
    chosen = run.choose(["grid-8-warps"])
    machine = Machine(make_log(tmp_path), chosen, (1, 0, False))
    left = run.run(machine.log, chosen, ("x",), 30.0, lambda left: [], str, machine.clock, machine.execute)
    assert left == len(chosen) - 1
    assert run.run(machine.log, chosen, ("x",), 10.0, lambda left: [], str, machine.clock, machine.execute) == left


def test_no_gpu_and_unknown_variants_are_refused(capsys, monkeypatch):
    with pytest.raises(ValueError, match=r"a variant must be one of block-rows-by-gate, .*. Got fast."):
        run.choose(["fast"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        main(["tune"])
    assert stopped.value.code == 2
    assert "tune needs a CUDA or ROCm device that torch can use; --compile sm_90 needs none." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["tune", "--compile", "sm_61"])
    assert "arch must be one of sm_80, sm_86, sm_89, sm_90, sm_120. Got sm_61." in capsys.readouterr().err
