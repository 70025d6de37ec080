"""Contenders other than gatefuse's, packed sequences and compiled steps; who is named while it runs."""

import pytest
import torch

from gatefuse.bench.measure import race
from gatefuse.bench.measure.clocks import CpuClock
from gatefuse.bench.measure.peaks import Limits
from gatefuse.bench.report.sections.contenders import _terms
from gatefuse.bench.suite import compiled_step, networks
from gatefuse.bench.suite import contenders as who
from gatefuse.bench.suite.contender import Contender, Network
from gatefuse.bench.suite.sweeps import SWEEPS, Group, Shape, groups

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_reports_explain_every_contender_but_other_peoples():
    names = [contender.name for contender in who.CONTENDERS if not contender.optional]
    assert [term.partition("*:")[0].strip("*") for term in _terms(names)] == names


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_lengths_have_the_mean_that_is_asked_for(device):
    found = {group.shape for group in groups("lengths", device)}
    assert {shape.fill for shape in found} == {0.25, 0.5, 0.75, 1.0}
    for shape in found:
        assert len(shape.lengths) == shape.B
        assert max(shape.lengths) == shape.lengths[0] == shape.T
        assert min(shape.lengths) >= 1
        assert sum(shape.lengths) == round(shape.fill * shape.T * shape.B)
        assert shape.fill == 1 or len(set(shape.lengths)) > 2
    with pytest.raises(ValueError, match=r"fill must leave each sample a step and fill none over T. Got 0.1 for 8."):
        _ = Shape("lstm", 4, 8, 5, 4, fill=0.1, ragged=True).lengths


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_reset_first"])
@pytest.mark.parametrize("mode", ["forward", "training"])
@pytest.mark.parametrize("both", [False, True])
def test_contenders_agree_where_lengths_are_given(cell, mode, both):
    shape = Shape(cell, 5, 4, 9, 3, bidirectional=both, fill=0.5, ragged=True)
    found = {name: row for name, (row, _) in race.race(Group(shape, "float32", mode), CpuClock(), CPU, 0.0).items()}
    assert not [row.note for row in found.values() if row.status == "failed"]
    ok = {name for name, row in found.items() if row.status == "ok"}
    assert {"gatefuse eager", "gatefuse script", "gatefuse auto", "gatefuse packed"} <= ok
    assert ("torch.nn" in ok) == (cell != "gru_reset_first")
    assert ("torch.nn padded" in ok) == (cell != "gru_reset_first" and not both)
    assert all(found[name].error < 1e-5 for name in ok)
    assert {row.columns()["fill"] for row in found.values()} == {0.5}
    row = found["gatefuse eager"]
    assert row.tokens_per_second == pytest.approx(sum(shape.lengths) / row.p50)
    assert "torch.nn padded" not in {c.name for c in who.contenders(Group(Shape("lstm", 5, 4, 9, 3), "float32", mode))}


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "mode"), [("slstm", "training"), ("lstm", "forward")])
def test_contenders_agree_where_r_is_of_heads(cell, mode):
    group = Group(Shape(cell, 6, 4, 5, 3, heads=2), "float32", mode)
    assert group.title == f"{cell} H6 B4 T5 I3 2 heads float32 {mode}"
    found = {name: row for name, (row, _) in race.race(group, CpuClock(), CPU, 0.0).items()}
    ok = {name for name, row in found.items() if row.status == "ok"}
    assert {who.HAND_WRITTEN, "gatefuse eager", "gatefuse llvm", "gatefuse auto"} <= ok
    assert all(found[name].error < 1e-5 for name in ok)
    assert {row.columns()["heads"] for row in found.values()} == {2}
    if cell == "lstm":
        assert {found[name].note for name in ("torch.nn", "ONNX Runtime", "scratch 2 products")} == {"it has no heads"}


def test_regimes_hold_both_sides_of_each_border():
    found = {(s.cell, s.H, s.B) for s in (g.shape for g in groups("regimes", "cuda"))}
    assert found >= {("lstm", 768, B) for B in (8, 9, 16)} | {("lstm", H, 16) for H in (128, 192, 256)}
    assert {g.dtype for g in groups("regimes", "cuda")} == {"float16", "bfloat16", "float32"}


@pytest.mark.parametrize("sweep", ["quick", "real", "full"])
def test_on_a_gpu_shapes_with_a_name_come_first(sweep):
    named = [bool(group.shape.name) for group in groups(sweep, "cuda")]
    assert named == sorted(named, reverse=True)


def test_the_first_minutes_on_a_gpu_have_kernels_and_what_they_are_to_beat():
    found = {g.shape.cell: [c.name for c in who.contenders(g)] for g in groups(who.FIRST, "cuda")}
    own = ["gatefuse step", "gatefuse block", "gatefuse grid"]
    assert found == {"lstm": [*own, "torch.nn"], "gru": [*own, "torch.nn"], "gru_reset_first": own}
    assert {g.dtype for g in groups(who.FIRST, "cuda")} == {"bfloat16"}


def test_compiling_is_left_to_the_long_sweeps():
    shape = Shape("lstm", 8, 2, 3, 4)
    for device in (CPU, CUDA):
        for sweep in SWEEPS:
            said = compiled_step.refusal(Group(shape, "float32", "forward", sweep), device)
            assert bool(said) == (sweep not in compiled_step.SWEEPS[device.type]), said
    assert "real" in compiled_step.refusal(Group(shape, "float32", "forward", "quick"), CPU)


def test_without_a_compiler_there_is_a_word_for_it(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    said = compiled_step.refusal(Group(Shape("lstm", 8, 2, 3, 4), "float32", "forward", "real"), CPU)
    assert said == "torch.compile needs a C++ compiler on a CPU, and there is none"


@pytest.mark.parametrize("cell", ["lstm", "gru_reset_first", "peephole_lstm"])
def test_the_step_that_is_compiled_is_the_cell_s(cell, monkeypatch):
    """The function that would be compiled; the next test compiles one."""
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    compiled_step._step.cache_clear()
    check("torch.compile step", Group(Shape(cell, 5, 3, 4, 2), "float32", "training"))
    compiled_step._step.cache_clear()


@pytest.mark.slow
def test_a_compiled_step_runs_where_warnings_are_errors():
    group = Group(Shape("elman", 5, 3, 4, 2), "float32", "training", "real")
    if why := compiled_step.refusal(group, CPU):
        pytest.skip(why)
    row, _ = race.race(group, CpuClock(), CPU, 0.0)["torch.compile step"]
    assert (row.status, row.note) == ("ok", "")
    assert row.compile_seconds > 100 * row.p50


def named(name):
    return next(c for c in who.CONTENDERS if c.name == name)


def check(name, group):
    """A contender's output and gradient against the oracle's."""
    source = networks.make_source(group, CPU)
    network = named(name).build(group, source)
    batch = race._draw(group, CPU)
    truth = race._call(group, networks.make_oracle(group, source), tuple(t.double() for t in batch))()
    assert race._error(race._call(group, network, batch)(), truth, network.layout) < 1e-5


@pytest.mark.slow
def test_whoever_runs_is_named_before_it_does():
    seen = []
    group = Group(Shape("lstm", 5, 3, 4, 2), "float32", "forward")
    rows = race.race(group, CpuClock(), CPU, 0.0, Limits(CPU, CpuClock()), ["torch.nn"], begins=seen.append)
    assert (seen[0], seen[-1]) == (race.REFERENCE, race.LIMIT)
    assert set(seen[1:-1]) == {name for name, (row, _) in rows.items() if row.status == "ok"}
    assert seen.count("gatefuse eager") == 1 + 1 + 5 + 1  # built, warmed up, sampled in each round, asked for a graph


def test_one_that_can_t_is_left_out_and_one_that_errs_has_failed(monkeypatch):
    def raises(x):
        raise ValueError("no tiling for H 5")

    extra = (
        Contender("can't", lambda group, source: Network(raises, ()), optional=True),
        Contender("errs", lambda group, source: Network(lambda x: torch.zeros(4, 3, 5), ()), optional=True),
    )
    monkeypatch.setattr(who, "CONTENDERS", who.CONTENDERS + extra)
    rows = race.race(Group(Shape("lstm", 5, 3, 4, 2), "float32", "forward"), CpuClock(), CPU, 0.0, without=["torch.nn"])
    row, _ = rows["can't"]
    assert (row.status, row.note) == ("left out", "ValueError: no tiling for H 5")
    assert rows["errs"][0].status == "failed"
    assert (rows["torch.nn"][0].status, rows["torch.nn"][0].note) == ("left out", "left out on request")
