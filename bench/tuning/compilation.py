"""What each variant takes of a multiprocessor beside the unchanged pass, compiled for a GPU that need not be there, and
which of them are refused for that before anything is run. tuning/report.py writes the page.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from gatefuse.bench.measure.stamp import take_stamp
from gatefuse.bench.resources import compilation
from gatefuse.bench.resources.cases import LOOPS, Case
from gatefuse.bench.resources.report import STAMP
from gatefuse.bench.storage.whole_file import write_whole
from gatefuse.bench.tuning import report
from gatefuse.bench.tuning.variant import Place, Trial, Variant
from gatefuse.bench.tuning.variants import ruled_out, trials
from gatefuse.kernels.runtime.device import of_arch
from gatefuse.kernels.tiling.overrides import trying

# A thread's bytes on the stack up to which a kernel is run: what tests allow the unchanged ones.
STACK = 32
_Key = tuple[str, str, Place]


def write(arch: str, folder: Path, chosen: Iterable[Trial] = (), jobs: int = 1) -> Path:
    """Compile trials and write ``variants_<arch>.csv`` and ``.md``; returns the page's path.

    Args:
        chosen: all of them, if none are given, and those that are ruled out.

    Raises:
        FileNotFoundError: the installed Triton has no cuobjdump.
        RuntimeError: Triton's interpreter is on.
    """
    stamp = asdict(take_stamp(torch.device("cpu")))
    rows = compile_all(arch, tuple(chosen) or (*trials(), *ruled_out()), jobs)
    frame = pd.DataFrame(rows).assign(arch=arch, **{name: stamp[name] for name in STAMP})
    path = folder / f"{report.COMPILED}{arch}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, frame.to_csv(index=False, lineterminator="\n"))
    return report.write_compiled(path)


def compile_all(arch: str, chosen: Iterable[Trial], jobs: int = 1) -> list[dict[str, Any]]:
    """A row for each trial of a loop with a whole-sequence kernel, in their order.

    Args:
        jobs: processes that compile at once.

    Raises:
        FileNotFoundError: the installed Triton has no cuobjdump.
    """
    compilation.cuobjdump()
    groups: dict[_Key, list[Trial]] = {}
    each = [trial for trial in chosen if trial.variant.loop != "step"]
    for trial in each:
        groups.setdefault((trial.variant.loop, trial.way, trial.place), []).append(trial)
    if jobs > 1:
        # Fresh processes: a fork would share Triton's locks, and a GPU's context.
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
            found = list(pool.map(_group, [arch] * len(groups), groups.values()))
    else:
        found = [_group(arch, group) for group in groups.values()]
    rows = {title: row for some in found for title, row in some}
    return [rows[trial.title] for trial in each]


def _group(arch: str, group: Sequence[Trial]) -> list[tuple[str, dict[str, Any]]]:
    """The rows of trials of one pass at one place, by their titles."""
    default = compile_one(arch, group[0]._replace(variant=group[0].variant._replace(changes={})))
    found = []
    for trial in group:
        row = compile_one(arch, trial)
        why = refusal(row, default, arch)
        print(f"{trial.title}: {why or 'may be run'}", file=sys.stderr, flush=True)
        found.append((trial.title, columns(trial.variant, row, default, why)))
    return found


def compile_one(arch: str, trial: Trial) -> compilation.Row:
    """A trial's kernel and its figures."""
    variant, place = trial.variant, trial.place
    loop = next(loop for loop in LOOPS if loop.name == variant.loop)
    case = Case(loop, place.cell, getattr(torch, place.dtype), place.H, place.B)
    with trying(variant.loop, variant.way, variant.changes):
        return next(compilation.measure(case, arch, compilation.cuobjdump(), (trial.way,)))


def refusal(row: compilation.Row, default: compilation.Row, arch: str) -> str:
    """Why a variant isn't run: the rule, then the fact; "" where it may be."""
    stack = max(STACK, default.usage.stack)
    if row.error:
        return f"it must compile. Got {row.error}"
    if row.shared_bytes > row.shared_limit:
        return f"a program may have {row.shared_limit:,} bytes of shared memory. Got {row.shared_bytes:,}."
    if row.cut.programs > (held := of_arch(arch).programs):
        return f"the programs of a batch tile must all run at once, {held} at most. Got {row.cut.programs}."
    if not row.resident:
        return f"the weights must stay in shared memory over all steps. Got {row.weights.place or 'none'}."
    if row.usage.stack > stack:
        return f"a thread may put {stack} bytes on the stack. Got {row.usage.stack}."
    return ""


def columns(variant: Variant, row: compilation.Row, default: compilation.Row, why: str) -> dict[str, Any]:
    """A trial's row by the file's columns."""
    held, before = row.columns(), default.columns()
    beside = {f"default_{name}": before[name] for name in report.BESIDE}
    return {"variant": variant.name, "change": variant.change, **held, "B": row.case.B, **beside, "refused": why}
