"""Plots: which there are, that they say what the rows say, that the same rows give the same bytes."""

import re

import pytest

from gatefuse.bench.report import sweep as report
from gatefuse.bench.report.document.blocks import Picture
from gatefuse.bench.report.document.drawing import drawn_by
from gatefuse.bench.report.sections import plots
from tests.support.made_up_rows import make_rows, write

pytest.importorskip("matplotlib")


def drawn(tmp_path, rows, sweep="full"):
    """The pictures by their kind, and the words."""
    csv = write(rows, tmp_path / "some-gpu" / f"{sweep}.csv")
    blocks = list(plots.section(report.load(csv)))
    pictures = {
        block.name.removesuffix(".svg").removeprefix(f"{sweep}-"): block
        for block in blocks[1:]
        if isinstance(block, Picture)
    }
    return pictures, " ".join(block for block in blocks if isinstance(block, str))


def texts(picture):
    return re.findall(r"<text[^>]*>([^<]*)</text>", picture.svg.decode())


def test_the_same_rows_give_the_same_bytes(tmp_path):
    rows = make_rows()
    first, _ = drawn(tmp_path, rows)
    again, _ = drawn(tmp_path, rows)
    assert {kind: picture.svg for kind, picture in first.items()} == {kind: p.svg for kind, p in again.items()}
    assert b"<dc:date>" not in first["step"].svg
    assert all(drawn_by() in picture.svg for picture in first.values())


def test_speed_ups_stand_in_the_heat_map_by_size(tmp_path):
    pictures, _ = drawn(tmp_path, make_rows(H=(64, 1024), B=(1, 8, 32), modes=("forward",)))
    found = texts(pictures["speedup"])
    assert {"lstm, forward, bfloat16: over the plain loop", "lstm, forward, bfloat16: over torch.nn"} <= set(found)
    assert {"hidden size H", "batch B", "64", "1024", "8", "32", "faster", "slower"} <= set(found)
    assert found.count("19") == 3  # H 64: (90 + 1.28) / (3 + 1.92)
    assert found.count("3.28") == 3
    assert found.count("1.00") == 6


def test_lines_have_units_a_legend_and_the_limit(tmp_path):
    pictures, words = drawn(tmp_path, make_rows(H=(64, 256, 1024), B=(1, 8)))
    steps, throughput = texts(pictures["step"]), texts(pictures["throughput"])
    assert {"us a step", "hidden size H", "gatefuse grid", "torch.nn", "limit"} <= set(steps)
    assert "lstm, training, bfloat16: B=8, T=100, I=H" in steps
    assert {"tokens a second", "batch B", "limit"} <= set(throughput)
    assert "lstm, forward, bfloat16: H=256, T=100, I=H" in throughput
    assert "Microseconds a step over H" in words


def test_no_limit_is_drawn_where_none_was_measured(tmp_path):
    nothing = dict.fromkeys(("floor_seconds", "floor_share"), float("nan"))
    pictures, _ = drawn(tmp_path, make_rows(**nothing))
    assert "limit" not in texts(pictures["step"])


@pytest.mark.parametrize(
    ("rows", "there"),
    [
        (make_rows(H=(64,), B=(1, 8)), {"throughput"}),
        (make_rows(H=(64, 128), B=(1,)), {"step"}),
        (make_rows(H=(64,), B=(1,)), set()),
        (make_rows(H=(64, 128), B=(1, 8), layers=2), set()),
        (make_rows(status="failed"), set()),
    ],
    ids=["one H", "one B", "one shape", "deep networks", "failures alone"],
)
def test_what_rows_cannot_carry_is_left_out_with_a_word(tmp_path, rows, there):
    pictures, words = drawn(tmp_path, rows)
    assert set(pictures) == there
    assert words.count("left out, as no cell, dtype and mode has") == 3 - len(there)


def test_a_hidden_size_that_jumps_between_inputs_is_no_line(tmp_path):
    rows = make_rows(H=(64, 256), B=(1,))
    pictures, _ = drawn(tmp_path, rows.assign(I=rows["H"].where(rows["H"] == 64, 28)))
    assert not pictures


def test_a_plot_that_the_rows_no_longer_carry_is_removed(tmp_path):
    csv = write(make_rows(), tmp_path / "some-gpu" / "quick.csv")
    report.write(csv)
    assert {path.name for path in csv.parent.glob("*.svg")} == set(plots.names("quick"))
    report.write(write(make_rows(H=(64,), B=(1,)), csv))
    assert not list(csv.parent.glob("*.svg"))


def test_many_panels_are_cut_with_a_word(tmp_path):
    cells = tuple(f"cell{k}" for k in range(plots.MOST_PANELS))
    pictures, words = drawn(tmp_path, make_rows(H=(64, 128), B=(1,), cells=cells))
    assert f"The first {plots.MOST_PANELS} of {2 * plots.MOST_PANELS}" in words
    assert pictures["step"].svg.count(b'id="axes_') == plots.MOST_PANELS


def test_names_of_near_sizes_do_not_meet(tmp_path):
    pictures, _ = drawn(tmp_path, make_rows(H=(16, 1000, 1024, 4096), B=(1,), modes=("forward",)))
    found = texts(pictures["step"])
    assert {"16", "1000", "4096"} <= set(found)
    assert "1024" not in found


def test_of_several_lines_the_middle_one_is_drawn(tmp_path):
    pictures, _ = drawn(tmp_path, make_rows(B=(1, 8, 32), T=(1, 35, 1000), modes=("forward",)))
    assert "lstm, forward, bfloat16: B=8, T=35, I=H" in texts(pictures["step"])
