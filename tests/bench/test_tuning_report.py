"""What compiling and measuring variants showed: refusals, pages, the table in the docs; a sample is compiled."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from gatefuse.bench.__main__ import main
from gatefuse.bench.report import index as dashboard
from gatefuse.bench.report.document.marks import marks
from gatefuse.bench.resources import report as resource_report
from gatefuse.bench.resources.cases import LOOPS, Case, Cut
from gatefuse.bench.resources.compilation import Row
from gatefuse.bench.resources.sass import Usage
from gatefuse.bench.resources.ttgir import Held
from gatefuse.bench.tuning import compilation, trial
from gatefuse.bench.tuning import page as tuning_page
from gatefuse.bench.tuning import report as variant_report
from gatefuse.bench.tuning.variant import Trial
from gatefuse.bench.tuning.variants import RULED_OUT, VARIANTS
from tests.bench.test_tuning import make_log, make_row
from tests.support.kernels.compiling import compiling

ROOT = Path(__file__).resolve().parents[2]


def make_compiled(**changes):
    case = Case(LOOPS[1], "lstm", torch.bfloat16, 512, 64)
    row = Row(
        case, "backward", Cut(16, 32, 0), 232_448, "grid_backward_kernel", warps=4, shared_bytes=40_960, resident=True,
        usage=Usage(99, 0), weights=Held("shared", 32_768, 0),
    )  # fmt: skip
    return replace(row, **changes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"usage": Usage(255, 32)}, ""),
        ({"usage": Usage(255, 48)}, "a thread may put 32 bytes on the stack. Got 48."),
        ({"shared_bytes": 240_000}, "a program may have 232,448 bytes of shared memory. Got 240,000."),
        ({"cut": Cut(16, 256, 0)}, "the programs of a batch tile must all run at once, 132 at most. Got 256."),
        (
            {"resident": False, "weights": Held("global", 0, 0)},
            "the weights must stay in shared memory over all steps. Got global.",
        ),
        ({"error": "CompilationError: no"}, "it must compile. Got CompilationError: no"),
    ],
)
def test_what_does_not_fit_is_refused_by_the_rule_and_the_fact(changes, why):
    assert compilation.refusal(make_compiled(**changes), make_compiled(), "sm_90") == why


def test_more_on_the_stack_than_the_rule_is_allowed_where_the_unchanged_pass_has_it():
    spilling = make_compiled(usage=Usage(255, 64))
    assert compilation.refusal(spilling, spilling, "sm_90") == ""


def write_compiled(path, *pairs):
    """A file of compiled variants as the command leaves it, of variants and reasons for refusal."""
    before = make_compiled(usage=Usage(157, 0))
    rows = [compilation.columns(variant, make_compiled(), before, why) for variant, why in pairs]
    path.parent.mkdir(parents=True, exist_ok=True)
    stamp = {"arch": "sm_90", **dict.fromkeys(resource_report.STAMP, "some")}
    pd.DataFrame([{**row, **stamp} for row in rows]).to_csv(path, index=False, lineterminator="\n")
    return path


def test_pages_and_the_table_say_what_was_expected_compiled_and_measured(tmp_path, capsys):
    whole, rows = (next(v for v in VARIANTS if v.name == n) for n in ("grid-backward-whole-sums", "block-rows-by-gate"))
    csv = write_compiled(tmp_path / "resources" / "variants_sm_90.csv", (whole, ""), (rows, "it must fit. Got more."))
    log = make_log(tmp_path / "some-gpu")
    log.append(make_row(Trial(whole, whole.places[0], "backward")))
    log.append(
        {**trial.key(Trial(rows, rows.places[0], "training forward")), "status": "hung", "note": "silent for 60 s"}
    )
    main(["report", str(csv), str(log.path)])
    assert capsys.readouterr().out.split() == [str(csv.with_suffix(".md")), str(log.path.with_suffix(".md"))]
    compiled, measured = csv.with_suffix(".md").read_text(), log.path.with_suffix(".md").read_text()
    assert compiled.startswith("**Compiled for sm_90 ahead of time; nothing here has run.**")
    assert "Of 2 trials 1 may not be run." in compiled
    assert "| backward | 16 | 32 | 4 | 157 → 99 | 0 | 40,960 |" in compiled
    assert "- block-rows-by-gate, lstm H512 B64 bfloat16 backward: it must fit. Got more." in compiled
    assert "| 0.78 | 0.75 (0.70 to 0.80) | faster | 2 → 1.5 | True | - | c0ffee |" in measured
    assert "hung: silent for 60 s" in measured

    page = tmp_path / "tuning.md"
    parts = "\nbetween\n".join("\nold\n".join(marks(name)) for name in (tuning_page.LOG, tuning_page.DEAD_ENDS))
    page.write_text(f"before\n{parts}\nafter\n")
    main(["tune", "--page", str(page), "--reports", str(tmp_path)])
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in lines] == [variant.name for variant in (*VARIANTS, *RULED_OUT)]
    assert "\nold\n" not in text
    (line,) = (line for line in lines if "`grid-backward-whole-sums`" in line)
    assert "sm_90: registers 157 → 99, block barriers 0, instructions a step 0" in line
    assert "some-gpu: lstm H512 B64 bfloat16 backward 0.75 (0.70 to 0.80) | not decided |" in line
    assert "| nothing to compile | not measured yet | not decided |" in next(line for line in lines if "step-" in line)
    page.write_text("nothing")
    with pytest.raises(ValueError, match=r"tuning.md must hold <!-- variants:start --> and <!-- variants:end --> once"):
        tuning_page.fill(page, tmp_path)
    index = dashboard.markdown.document(dashboard.index(tmp_path))
    assert "- [some-gpu](some-gpu/tuning.md)" in index


def test_the_page_in_the_docs_is_what_the_rows_say(tmp_path):
    page = ROOT / "docs" / "tuning.md"
    copy = tmp_path / "tuning.md"
    copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    tuning_page.fill(copy, ROOT / "reports")
    assert copy.read_text(encoding="utf-8") == page.read_text(encoding="utf-8"), (
        "run: make tune ARGS='--page docs/tuning.md'"
    )


_COMPILE = """
import sys
from gatefuse.bench.tuning import compilation
from gatefuse.bench.tuning.variants import trials
chosen = [t for t in trials() if t.variant.name in sys.argv[2:] and t.place == t.variant.places[0]]
from pathlib import Path
compilation.write("sm_90", Path(sys.argv[1]), [t for t in chosen if t.way != "inference forward"])
"""
# One a kernel, and of what changes most.
SAMPLE = (
    "block-rows-by-gate", "block-backward-not-relaid", "grid-turns-of-16", "grid-every-thread-polls",
    "grid-states-left", "grid-backward-sums-by-gate", "grid-backward-turns-of-32",
)  # fmt: skip


def _hold_to_the_report(rows):
    """Where this Triton made it: the unchanged passes are those in the table of resources.

    Where a kernel takes all registers, the assembler makes other code of the same PTX each time.
    """
    report = resource_report.read(ROOT / "reports" / "resources" / "sm_90.csv")
    if report["triton"].iloc[0] != rows["triton"].iloc[0]:
        return
    names = ["cell", "H", "dtype", "way"]
    tabled = {tuple(row[name] for name in [*names, "batch_tile", "loop"]): row for row in report.to_dict("records")}
    found = 0
    for row in rows.to_dict("records"):
        before = tabled.get(tuple(row[name] for name in [*names, "default_batch_tile", "loop"]))
        if before is None or before["registers"] == 255:
            continue
        found += 1
        for name in variant_report.BESIDE:
            assert row[f"default_{name}"] == before[name], f"{row['loop']} {row['way']} {name}"
    assert found >= 5


@pytest.mark.slow
def test_a_sample_of_the_variants_compiles_and_does_what_was_expected(tmp_path):
    try:
        compilation.compilation.cuobjdump()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    compiling(_COMPILE, tmp_path / "cache", tmp_path, *SAMPLE, options=("-W", "error"))
    rows = variant_report.read_compiled(tmp_path / "variants_sm_90.csv").set_index("variant")
    assert set(rows.index) == set(SAMPLE)
    assert set(rows["refused"]) == {""}
    barriers = rows["default_step_barriers"] - rows["step_barriers"]
    assert barriers["block-rows-by-gate"] < -10
    assert barriers["block-backward-not-relaid"] < -10
    assert barriers["grid-every-thread-polls"] == 0  # one comes before the wait in place of behind it
    assert barriers["grid-states-left"] > 0
    assert barriers["grid-backward-turns-of-32"] > 0
    _hold_to_the_report(rows)
    sums = rows.loc["grid-backward-sums-by-gate"]
    assert sums["step_instructions"] < sums["default_step_instructions"]
