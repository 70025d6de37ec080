"""What kernels take of a multiprocessor: the page, and what must hold of block's and grid's."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from gatefuse.bench.__main__ import main
from gatefuse.bench.resources import compilation, report
from gatefuse.bench.resources.cases import LOOPS, Case, Cut
from gatefuse.bench.resources.sass import TimeLoop, Usage
from gatefuse.bench.resources.ttgir import Held
from gatefuse.kernels.runtime.settings import interpreted
from tests.support.kernels.compiling import compiling

ROOT = Path(__file__).resolve().parents[2]
CASE = Case(LOOPS[0], "lstm", torch.bfloat16, 64, 16)


def make_csv(path, *changes):
    row = compilation.Row(
        CASE, "backward", Cut(16, 1, 40_960), 101_376, "block_backward_kernel", warps=4, shared_bytes=40_960,
        resident=True, matrix="32 wgmma m64n16k16", usage=Usage(99, 0), weights=Held("shared", 32_768, 0),
        step=TimeLoop(700, 32, 8, 0),
    )  # fmt: skip
    stamp = {"arch": "sm_86", **dict.fromkeys(report.STAMP, "some")}
    path.parent.mkdir(exist_ok=True)
    pd.DataFrame([{**row.columns(), **stamp, **change} for change in changes]).to_csv(path, index=False)
    return path


def test_the_page_says_what_fits_and_what_stays_on_the_chip(tmp_path, capsys):
    large = {"H": 128, "shared_bytes": 139_264, "fits": False, "weights_bytes": 131_072}
    loaded = {"H": 20, "weights_in": "global", "weights_bytes": 0, "resident": False, "stack_bytes": 8}
    csv = make_csv(
        tmp_path / "resources" / "sm_86.csv", {}, large, loaded, {"H": 16, "error": "CompilationError: a | b"}
    )
    main(["report", str(csv)])
    assert capsys.readouterr().out.strip() == str(csv.with_suffix(".md"))
    text = csv.with_suffix(".md").read_text()
    assert text == report.render(report.read(csv))
    assert text.startswith("**Compiled for sm_86 ahead of time; nothing here has run.** 4 kernels")
    for said in (
        "Of 3 kernels that compiled, 2 fit into the 101,376 bytes",
        "2 keep all recurrent weights in shared memory over all steps",
        "1 put something on the stack, 0 of these within the time loop",
        "| block | lstm | bfloat16 | 20, 64 | 64 |",
        "| backward | bfloat16 | 128 | 16 | 1 | 4 | 99 | 0 | 139,264 | **no** | resident, 131,072 | 0 |",
        "| yes | **global**, 0 | 0 | 32 wgmma m64n16k16 | 32 | 8 | 0 | 700 |",
        "| block | lstm | backward | bfloat16 | 16 | 16 | CompilationError: a \\| b |",
        "- triton: some",
    ):
        assert said in text


def test_lines_that_can_t_be_used_are_named(tmp_path):
    csv = make_csv(tmp_path / "a.csv", {}, {"registers": "many"}, {"H": 128})
    csv.write_text(csv.read_text()[:-5])
    rows = report.read(csv)
    assert rows["H"].tolist() == [64]
    text = report.render(rows)
    assert "- line 3: registers must be a whole number. Got 'many'\n- line 4: it is cut off" in text


def test_a_file_of_no_rows_or_of_two_architectures_is_refused(tmp_path):
    csv = make_csv(tmp_path / "a.csv", {}, {"arch": "sm_90"})
    with pytest.raises(ValueError, match=r"a.csv must hold rows of one architecture. Got sm_86, sm_90."):
        report.write(csv)
    csv.write_text(csv.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match=r"a.csv must hold at least one row. Got none."):
        report.write(csv)
    csv.write_text("")
    with pytest.raises(ValueError, match=r"a.csv must hold a header and rows. Got an empty file."):
        report.write(csv)


def test_a_triton_without_cuobjdump_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("triton.__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(SystemExit) as stopped:
        main(["resources", "--reports", str(tmp_path)])
    assert stopped.value.code == 1
    assert "registers are read by cuobjdump, which Triton's wheels bring. Got none at" in capsys.readouterr().err


def test_an_unknown_architecture_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["resources", "--arch", "sm_61"])
    assert "arch must be one of sm_80, sm_86, sm_89, sm_90, sm_120. Got sm_61." in capsys.readouterr().err


@pytest.mark.skipif(not interpreted(), reason="Triton's interpreter is off")
def test_kernels_that_do_not_compile_have_rows_that_say_why():
    with pytest.raises(RuntimeError, match=r"compiling ahead needs Triton without TRITON_INTERPRET."):
        list(compilation.measure(CASE, "sm_90", Path()))


PROGRAM = """
from gatefuse.bench.resources import cases, compilation
from gatefuse.bench.__main__ import main
import sys, torch

block, grid, _ = cases.LOOPS
cases.LOOPS = (
    block._replace(hidden=(128,), cells=("lstm", "gru"), dtypes=(torch.bfloat16,)),
    grid._replace(hidden=(128, 256, 512, 768, 1024), batches=(16, 64, 256)),
    grid._replace(hidden=(512,), batches=(16,), cells=("gru_reset_first",)),
)
cases.others = list
compilation.INFERENCE_CELLS = ()
main(["resources", "--arch", "sm_90", "--reports", sys.argv[1]])
"""


@pytest.mark.slow
def test_weights_stay_on_the_chip_at_every_size(tmp_path):
    try:
        compilation.cuobjdump()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    compiling(PROGRAM, tmp_path / "cache", tmp_path, options=("-W", "error"))
    rows = report.read(tmp_path / "resources" / "sm_90.csv")
    assert set(rows["error"]) == {""}
    assert set(rows["triton"]) != {""}
    expected = {("block", cell, 128) for cell in ("lstm", "gru")}
    expected |= {("grid", "gru_reset_first", 512)}
    expected |= {("grid", cell, H) for cell in ("lstm", "gru") for H in (128, 256, 512, 768, 1024)}
    for way in ("training forward", "backward"):
        found = rows[rows["way"] == way]
        assert {16, 32, 64} <= set(found["batch_tile"])
        assert set(found[["loop", "cell", "H"]].itertuples(index=False, name=None)) == expected
    for _, row in rows.iterrows():
        said = f"{row['loop']} {row['cell']} H{row['H']} tile {row['batch_tile']} {row['way']}"
        assert row["resident"], said
        assert row["stack_bytes"] <= 32, said
        assert row["shared_bytes"] <= 232_448, said
        split = row["loop"] == "block" or row["way"] != "backward" or row["H"] >= 512
        few = row["cell"] == "gru_reset_first"  # rows for the large matrix instruction
        assert "wgmma" in row["matrix"] or few or not split, said
        # Neither x nor a state crosses shared memory, only the exchanged vectors and each product's result.
        if row["loop"] == "grid" and row["way"] == "training forward" and row["H"] <= 512:
            assert row["step_barriers"] <= (10 if few else 5), said
        assert row["batch_tile"] >= 16, said
        assert row["programs"] <= 132, said


MANY_VALUES = """
from gatefuse.bench.resources import cases
from gatefuse.bench.__main__ import main
import sys, torch

block, grid, _ = cases.LOOPS
cases.LOOPS = (
    block._replace(hidden=(128,), dtypes=(torch.bfloat16,), cells=("layer_norm_lstm",)),
    grid._replace(hidden=(512,), batches=(16,), cells=("layer_norm_lstm",)),
)
cases.others = list
main(["resources", "--arch", "sm_90", "--reports", sys.argv[1]])
"""


@pytest.mark.slow
def test_cells_of_many_values_take_little_stack(tmp_path):
    """Where a compiler may find all addresses before the loop, they take up to 256 bytes."""
    try:
        compilation.cuobjdump()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    compiling(MANY_VALUES, tmp_path / "cache", tmp_path, options=("-W", "error"))
    rows = report.read(tmp_path / "resources" / "sm_90.csv")
    assert set(rows["error"]) == {""}
    assert len(rows) == 2 * 2
    for _, row in rows.iterrows():
        said = f"{row['loop']} {row['cell']} H{row['H']} tile {row['batch_tile']} {row['way']}"
        assert row["resident"], said
        assert row["stack_bytes"] <= 32, said
