"""Rows and reports of the benchmark: what lands on disk, what is kept, what the report says."""

import subprocess
from dataclasses import asdict, replace

import pandas as pd
import pytest
import torch

from gatefuse.bench.measure.row import Row, compare
from gatefuse.bench.measure.sampling import Samples
from gatefuse.bench.measure.stamp import slug, take_stamp
from gatefuse.bench.report import sweep
from gatefuse.bench.report.document.markdown import document
from gatefuse.bench.storage.sweep_table import Table
from gatefuse.bench.suite.sweeps import Group, Shape
from gatefuse.kernels.costs import device_of_cpu
from gatefuse.kernels.runtime.cpu import cpu_name
from tests.support.made_up_rows import CONTENDERS, make_rows, write

CPU = torch.device("cpu")
SMALL = Group(Shape("lstm", 8, 2, 3, 4), "float32", "forward")


def make_row(contender, p50, group=SMALL, **more):
    row = Row(group, contender)
    row.take(Samples([p50 * 0.9, p50, p50 * 1.1], first_call=p50))
    return replace(row, **{"error": 1e-7, **more})


def make_stamp(**more):
    return {**asdict(take_stamp(CPU)), "commit": "c0ffee", "cpu": "Some CPU", "load": 0.1, "cores": 2, **more}


def test_figures_follow_from_the_samples():
    rows = [make_row("slow", 0.3), make_row("fast", 0.1)]
    compare(rows, "slow")
    assert rows[1].speedup == pytest.approx(3.0)
    assert rows[1].us_per_step == pytest.approx(0.1 * 1e6 / 3)
    assert rows[1].tokens_per_second == pytest.approx(2 * 3 / 0.1)
    assert rows[1].baseline == "slow"


def test_a_stamp_says_where():
    stamp = take_stamp(CPU)
    assert stamp.device == slug(device_of_cpu(cpu_name(), torch.get_num_threads()))
    assert (stamp.kind, stamp.gpu) == ("cpu", "")
    assert stamp.torch == torch.__version__
    assert stamp.threads == torch.get_num_threads()
    assert slug(device_of_cpu("AMD EPYC", 1)) == "amd-epyc-1-thread"
    assert slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


def test_the_commit_comes_from_the_environment_where_git_is_not(monkeypatch):
    monkeypatch.setattr("gatefuse.bench.measure.stamp._output", lambda *command: "")
    monkeypatch.delenv("GATEFUSE_COMMIT", raising=False)
    assert (take_stamp(CPU).commit, take_stamp(CPU).tree) == ("unknown", "unknown")
    monkeypatch.setenv("GATEFUSE_COMMIT", "abc")
    assert (take_stamp(CPU).commit, take_stamp(CPU).tree) == ("abc", "unknown")
    monkeypatch.setenv("GATEFUSE_TREE", "clean")
    assert (take_stamp(CPU).commit, take_stamp(CPU).tree) == ("abc", "clean")
    monkeypatch.setenv("GATEFUSE_TREE", "washed")
    assert take_stamp(CPU).tree == "unknown"


def test_results_make_no_tree_dirty(tmp_path, monkeypatch):
    """Those of `make gpu OUT=found` lie in the tree that the next process of the run takes its stamp of."""
    place = tmp_path / "bench" / "measure" / "stamp.py"
    monkeypatch.setattr("gatefuse.bench.measure.stamp.__file__", str(place))
    place.parent.mkdir(parents=True)
    place.write_text("")
    who = "-c", "user.name=nobody", "-c", "user.email=nobody@nowhere"
    for command in (("init", "-q"), ("add", "."), (*who, "commit", "-qm", "all")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    for folder in ("found", "reports"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "gpu.tar").write_text("")
    assert take_stamp(CPU).tree == "clean"
    (tmp_path / "new.py").write_text("")
    assert take_stamp(CPU).tree == "dirty"


@pytest.fixture
def made_up(tmp_path):
    """Two groups: gatefuse wins 3 to 1 over eager and 2 to 1 over torch.nn in the first, loses 1 to 2 in the second."""
    path = tmp_path / "cpu" / "quick.csv"
    table = Table(path, make_stamp())
    for H, auto, vendor in ((8, 0.1, 0.2), (16, 0.2, 0.1)):
        group = replace(SMALL, shape=replace(SMALL.shape, H=H))
        rows = [
            make_row("scratch 2 products", 0.3, group),
            make_row("gatefuse auto", auto, group, driver="vendor"),
            make_row("torch.nn", vendor, group),
            Row(group, "gatefuse step", "left out", "needs a GPU"),
            Row(group, "gatefuse script", "failed", "RuntimeError: a | b"),
        ]
        compare(rows, "scratch 2 products")
        table.append([row.columns() for row in rows])
    return path


def test_the_report_opens_with_the_answer(made_up):
    path = sweep.write(made_up)
    assert path == made_up.with_suffix(".md")
    text = path.read_text()
    assert text.startswith("# quick, on Some CPU\n\n**This is a CPU report**: sweep quick, 2 groups")
    assert (
        "**Beside torch.nn**, in 2 groups, gatefuse auto is slower in 1 and faster in 1, and 1.00x as fast in the "
        "geometric mean; at worst it takes 2.00 times as long as torch.nn: lstm H16 B2 T3 I4, float32, forward."
    ) in text
    assert "**Beside the plain PyTorch loop**, in 2 groups, gatefuse auto is slower in 0 and faster in 2" in text
    assert (
        "| lstm | float32 | forward | 2 | vendor | 0 of 2 | 2.12x | 1.50x | scratch 2 products | 1 of 2 | 1.00x |"
        in text
    )
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert heads == [
        "## How much faster gatefuse is", "## Where it loses", "## Which driver for your shape", "## Plots",
        "## Every contender", "## How it was measured, and why to believe it", "## Every shape",
        "## First calls and compilation", "## Failures", "## Not measured", "## Measured with",
    ]  # fmt: skip
    assert text.index("Beside torch.nn") < text.index(heads[0])
    assert "A group is a cell at one size (H hidden units, B sequences in a batch, T steps, I input features)" in text


def test_the_report_lists_losses_and_every_shape(made_up):
    text = sweep.write(made_up).read_text()
    assert "| lstm H16 B2 T3 I4 | float32 | forward | vendor | torch.nn | 66667 | 33333 | 2 |" in text
    assert "| 8 | 2 | 3 | 4 | 100000* | 33333 (3.00x) | 66667 (1.50x) |" in text
    assert "these rows hold no limit" in text


def test_the_report_shows_failures_and_what_was_not_measured(made_up):
    text = sweep.write(made_up).read_text()
    assert "| lstm H8 B2 T3 I4 | float32 | forward | gatefuse script | RuntimeError: a \\| b |" in text
    assert "| gatefuse step | lstm | 2 | needs a GPU |" in text
    assert "- commit: c0ffee" in text


def test_the_report_says_where_auto_is_torch_s_own_loop(made_up):
    assert "In 2 of these groups it runs torch's own loop itself." in sweep.write(made_up).read_text()


def test_where_auto_took_the_fastest_the_report_says_to_leave_it_to_auto(tmp_path):
    rows = make_rows(
        H=(64,), contenders={"gatefuse vendor": ("vendor", 3.0, 0.03), "gatefuse auto": CONTENDERS["gatefuse auto"]}
    )
    text = sweep.write(write(rows, tmp_path / "some-gpu" / "quick.csv")).read_text()
    assert "in 4; in 0 another driver is faster; leave it to auto." in text


def test_overlapping_intervals_are_no_loss(tmp_path):
    table = Table(tmp_path / "a.csv", make_stamp())
    table.append([make_row("gatefuse auto", 0.102).columns(), make_row("torch.nn", 0.1).columns()])
    text = sweep.write(table.path).read_text()
    assert "slower in 0 and faster in 0" in text
    assert "Nowhere: gatefuse auto is slower than neither" in text


@pytest.mark.parametrize(("load", "busy"), [(0.4, False), (1.9, True), (float("nan"), False)])
def test_the_report_says_so_if_the_machine_was_busy(tmp_path, load, busy):
    table = Table(tmp_path / "a.csv", make_stamp(load=load))
    table.append([make_row("gatefuse auto", 0.1).columns()])
    text = sweep.write(table.path).read_text()
    assert ("**The machine was busy**: its load was 1.9 on 2 cores" in text) is busy


@pytest.mark.parametrize(("width", "noisy"), [(0.04, False), (0.3, True)])
def test_the_report_says_so_if_intervals_are_wide(tmp_path, width, noisy):
    rows = make_rows()
    csv = write(rows.assign(p80=rows["p20"] + width * rows["p50"]), tmp_path / "some-gpu" / "quick.csv")
    text = sweep.write(csv).read_text()
    said = "**The machine was noisy**: in half of the rows the interval from the 20 % to the 80 % quantile is over 30 %"
    assert (said in text) is noisy


def test_a_report_of_failures_alone_is_still_one(tmp_path):
    table = Table(tmp_path / "a.csv", make_stamp(kind="cuda", gpu="Some GPU"))
    table.append([Row(SMALL, "torch.nn", "failed", "OutOfMemoryError: out of memory").columns()])
    text = sweep.write(table.path).read_text()
    assert text.startswith("# a, on Some GPU\n\n**GPU report**")
    assert "Nothing could be measured." in text
    assert "OutOfMemoryError" in text


def test_every_contender_has_its_mean_over_the_baseline(tmp_path):
    rows = [make_row("scratch 2 products", 0.4), make_row("gatefuse auto", 0.1), make_row("torch.nn", 0.2)]
    compare(rows, "scratch 2 products")
    table = Table(tmp_path / "a.csv", make_stamp())
    table.append([row.columns() for row in rows])
    text = sweep.write(table.path).read_text()
    assert "| cell | dtype | mode | shapes | scratch 2 products | gatefuse auto | torch.nn |" in text
    assert "| lstm | float32 | forward | 1 | * | 4.00x | 2.00x |" in text


def test_the_first_page_has_a_line_a_cell_of_what_somebody_could_use(tmp_path):
    rows = make_rows(cells=("lstm", "slstm"))
    rows = rows[(rows["cell"] == "lstm") | (rows["contender"] != "torch.nn")]
    package = rows[(rows["contender"] == "torch.nn") & (rows["mode"] == "forward")].assign(contender="Some Package")

    def first_page(rows):
        return document(sweep.summary(sweep.load(write(rows, tmp_path / "a.csv"))))

    text = first_page(pd.concat([rows, package]))
    head = "torch.nn, forward | torch.nn, training | Some Package, forward |"
    assert f"| cell | shapes | gatefuse auto, forward | gatefuse auto, training | {head}" in text
    assert "| lstm | 6 | 8.15x | 8.15x | 8.15x | 8.15x | 8.15x |" in text
    assert "| slstm | 6 | 8.15x | 8.15x |  |  |  |" in text
    two = first_page(make_rows(dtypes=("float32", "bfloat16")))
    assert "| cell | dtype | shapes | gatefuse auto, forward |" in two
    assert "| lstm | bfloat16 | 6 | 8.15x |" in two
    alone = first_page(rows[rows["contender"].isin(["scratch 2 products", "gatefuse eager"])])
    assert "Nothing but the plain loop was measured that somebody could use." in alone


def test_drivers_are_laid_out_by_size_where_shapes_make_a_grid(tmp_path):
    rows = make_rows(H=(64, 1024), B=(1, 8, 32), modes=("forward",))
    text = sweep.write(write(rows, tmp_path / "some-gpu" / "full.csv")).read_text()
    assert "### lstm, forward, bfloat16: driver\n\n| H | T | B 1 | B 8 | B 32 |" in text
    assert "| 1024 | 100 | grid 2.21x; auto vendor 2.21 |" in text
    assert "### lstm, forward, bfloat16: us a step" in text
    assert "| 1024 | 100 | 15.2 (13 %) |" in text
    assert "of 6 groups, what auto took is the fastest, or as fast within the intervals, in 3; in 3 another" in text
    assert "- lstm: `grid` in 3 of 6 groups, 2.21 times as fast as auto's" in text
    assert text.index("**Which driver**") < text.index("## ")
    assert "- `grid`: one Triton kernel for all steps, whose programs share the recurrent weights and wait" in text


def test_named_shapes_are_laid_out_one_a_line(tmp_path):
    rows = make_rows(H=(64, 1024), B=(1, 32), modes=("forward",), shape_name="some project")
    text = sweep.write(write(rows, tmp_path / "some-gpu" / "real.csv")).read_text()
    assert (
        "| driver | us a step | over eager | over torch.nn | of the limit | limited by | auto took | which is |\n"
        in text
    )
    assert "| lstm | 1024 | 1 | 100 | 1024 | some project | bfloat16 | forward | grid | 15.2 | 7.25x | 2.21x |" in text
    assert "| 13 % | barrier | vendor | 2.21 times as long |" in text


def test_a_driver_that_something_else_beats_is_marked(tmp_path):
    rows = make_rows(H=(64, 1024), B=(1, 32), contenders={**CONTENDERS, "FlashRNN": ("", 0.1, 0.001)})
    text = sweep.write(write(rows, tmp_path / "some-gpu" / "full.csv")).read_text()
    assert "| **grid 2.21x; auto vendor 2.21; FlashRNN faster by 14x** |" in text


def test_lengths_stand_beside_the_full_shape(tmp_path):
    rows = make_rows(H=(64,), B=(32,), modes=("forward",), fill=(1.0, 0.25), contenders={"torch.nn": ("", 3.0, 0.03)})
    text = sweep.write(write(rows, tmp_path / "some-gpu" / "lengths.csv")).read_text()
    assert "## Sequences of several lengths" in text
    assert "| lstm | 64 | 32 | 100 | 64 | bfloat16 | forward | 100 % | 0.492 |" in text
    assert "| lstm | 64 | 32 | 100 | 64 | bfloat16 | forward | 25 % | 0.123 (25 %) |" in text


def test_rates_and_what_the_host_costs_are_given_on_a_gpu(tmp_path):
    text = sweep.write(write(make_rows(), tmp_path / "some-gpu" / "quick.csv")).read_text()
    assert "a large product (bfloat16 400 TFLOP/s), a large copy (3000 GB/s), an empty barrier (2 us)." in text
    assert "| gatefuse grid | forward | 6 | 1.05 | 1.11 | 1.11 | 6 |" in text


def test_a_row_that_is_ok_without_times_counts_nowhere_and_is_named(tmp_path):
    rows = make_rows(H=(64,), B=(1,), modes=("forward",))
    rows.loc[rows["contender"] == "torch.nn", ["p20", "p50", "p80"]] = [0.0, 0.0, 0.0]
    text = sweep.write(write(rows, tmp_path / "some-gpu" / "quick.csv")).read_text()
    assert "**Of the file's lines 1 can't be used**; they are named at the end." in text
    assert "- lstm H64 B1 T100, torch.nn: ok without times" in text
    assert "No shape was measured with both gatefuse and torch.nn." in text


def test_a_row_of_an_unknown_status_counts_nowhere_and_is_named(tmp_path):
    rows = make_rows(H=(64,), B=(1,), modes=("forward",))
    rows.loc[rows["contender"] == "torch.nn", "status"] = "fine"
    text = sweep.write(write(rows, tmp_path / "some-gpu" / "quick.csv")).read_text()
    assert "- lstm H64 B1 T100, torch.nn: status must be one of ok, failed, left out. Got 'fine'" in text


def test_what_packed_input_costs_is_said(tmp_path):
    rows = make_rows(
        H=(64,), B=(32,), modes=("forward",), fill=(0.25,),
        contenders={"gatefuse auto": ("vendor", 3.0, 0.03), "gatefuse packed": ("", 3.6, 0.036)},
    )  # fmt: skip
    text = sweep.write(write(rows, tmp_path / "some-gpu" / "lengths.csv")).read_text()
    assert "takes 1.20x the time of the same layer on padded input, 1.20x to 1.20x, in 1 group." in text
    assert "its packing and padding included" not in text


def busy_duel(path, auto, rival, samples=20, **stamp):
    """auto takes twice as long as a rival, by drivers of those names."""
    table = Table(path, make_stamp(**stamp))
    rows = [make_row("gatefuse auto", 0.2, driver=auto), make_row(*rival, 0.1)]
    table.append([replace(row, samples=samples, others=row.others).columns() for row in rows])
    return sweep.write(table.path).read_text()


@pytest.mark.parametrize("samples", [3, 20])
@pytest.mark.parametrize("driver", ["vendor", "llvm"])
@pytest.mark.parametrize("load", [0.1, 11.0])
def test_of_the_same_code_or_few_samples_a_busy_machine_tells_nothing(tmp_path, samples, driver, load):
    text = busy_duel(tmp_path / "a.csv", driver, ("torch.nn",), samples, load=load)
    untold = load == 11.0 and (samples == 3 or driver == "vendor")
    assert ("**Beside torch.nn there is no telling**: the machine was busy" in text) is untold
    assert ("at worst it takes 2.00 times as long as torch.nn" in text) is not untold
    assert ("Nowhere: gatefuse auto is slower than neither" in text) is untold
    assert ("| 2 |" in text.partition("## Where it loses")[2].partition("##")[0]) is not untold


def test_what_other_programs_took_outdoes_the_load_at_the_beginning(tmp_path):
    rows = make_rows(load=11.0, others=0.1, cores=2)
    text = sweep.write(write(rows, tmp_path / "some-gpu" / "quick.csv")).read_text()
    assert "The machine was busy" not in text
    rows.loc[rows["H"] == 64, "others"] = float("nan")
    assert "The machine was busy" not in sweep.write(write(rows, tmp_path / "some-gpu" / "quick.csv")).read_text()
    rows["others"] = 0.1
    rows.loc[rows["B"] == 1, "others"] = 0.7
    text = sweep.write(write(rows, tmp_path / "some-gpu" / "quick.csv")).read_text()
    assert "**The machine was busy**: other programs took up to 0.7 of 2 cores, in 6 of 12 groups." in text


@pytest.mark.parametrize("groups", [12, 38, float("nan")])
def test_a_part_of_a_sweep_says_so_first(tmp_path, groups):
    path = write(make_rows(groups=groups), tmp_path / "some-gpu" / "quick.partial.csv")
    first = sweep.write(path).read_text().split("\n\n")[1]
    said = (
        "**A part of the sweep: 12 of 38 groups.** The run was stopped before the others; `pytest --benchmark --sweep "
        "quick --resume` goes on."
    )
    assert (first == said) is (groups == 38)


def test_without_matplotlib_plots_that_lie_there_stay(tmp_path, monkeypatch):
    csv = write(make_rows(), tmp_path / "some-gpu" / "quick.csv")
    path = sweep.write(csv)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    assert [name for name in before if name.endswith(".svg")]
    monkeypatch.setattr("gatefuse.bench.report.sections.plots.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"matplotlib must be installed to draw .*quick-speedup.svg anew"):
        sweep.write(csv)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before
    for file in path.parent.glob("*.svg"):
        file.unlink()
    assert "The plots were left out: matplotlib is not installed" in sweep.write(csv).read_text()


def test_a_cell_stands_beside_the_lstm_of_its_size(tmp_path):
    """Twice as long for half of the operations is four times as long for them."""
    rows = make_rows(cells=("lstm", "gru"), H=(64,), B=(1,), modes=("forward",))
    gru = rows["cell"] == "gru"
    rows.loc[gru, ["p20", "p50", "p80"]] *= 2
    rows["flop"] = 100.0
    rows.loc[gru, "flop"] = 50.0
    text = sweep.write(write(rows, tmp_path / "some-gpu" / "quick.csv")).read_text()
    part = text.partition("## What a cell costs beside an LSTM")[2]
    assert "| gru | bfloat16 | forward | 1 | 2.00x | 0.50x | 4.00 |" in part
    alone = sweep.write(write(rows[gru], tmp_path / "some-gpu" / "alone.csv")).read_text()
    assert "beside an LSTM" not in alone
