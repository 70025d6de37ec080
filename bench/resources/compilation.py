"""What each whole-sequence kernel takes of a multiprocessor, compiled ahead of time for a GPU that need not be there.

The loops' own host code runs on CPU tensors, with its launches turned into compilations; so what is tabulated is what
would run. resources/report.py writes the page.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from gatefuse.bench.measure.stamp import take_stamp
from gatefuse.bench.resources import report
from gatefuse.bench.resources.cases import INFERENCE_CELLS, Case, Cut, cases
from gatefuse.bench.resources.sass import TimeLoop, Usage, matrix_instructions, time_loop, usage
from gatefuse.bench.resources.ttgir import Held, held
from gatefuse.bench.storage.whole_file import write_whole
from gatefuse.kernels.cells import find_cell
from gatefuse.kernels.loops.buffers import Upstream
from gatefuse.kernels.loops.inputs import Sequence
from gatefuse.kernels.loops.registry import loop_module
from gatefuse.kernels.runtime.device import of_arch
from gatefuse.kernels.runtime.gpus import GPUS
from gatefuse.kernels.runtime.launcher import compile_only
from gatefuse.kernels.runtime.requirement import require_triton

ARCHITECTURES = tuple(GPUS)
WAYS = ("training forward", "backward", "inference forward")
_STEPS = 2  # of the sequences that the host loops are given; kernels are the same for all lengths


@dataclass
class Row:
    """A kernel and its figures, zero or empty where ``error`` says why it has none.

    Attributes:
        way: ``training forward``, ``inference forward`` or ``backward``.
        cut: how its loop cuts the work.
        shared_bytes, shared_limit: of a program; what the kernel wants, what the architecture gives.
        resident: all recurrent weights lie in the shared memory of a batch tile's programs over all steps.
        matrix: matrix instructions in PTX, by form. Those and the ones of ``step`` are a warp's or a warp group's.
        usage: of a thread; the stack takes what doesn't fit into registers.
        weights: where they lie; the bytes are a program's.
        step: instructions of one step, in SASS.
    """

    case: Case
    way: str
    cut: Cut
    shared_limit: int
    kernel: str = ""
    error: str = ""
    warps: int = 0
    shared_bytes: int = 0
    resident: bool = False
    matrix: str = ""
    usage: Usage = field(default_factory=Usage)
    weights: Held = field(default_factory=Held)
    step: TimeLoop = field(default_factory=TimeLoop)

    def columns(self) -> dict[str, Any]:
        """The row by the file's columns."""
        case, cut, weights = self.case, self.cut, self.weights
        return {
            "loop": case.loop.name, "cell": case.cell, "way": self.way, "dtype": _name(case.dtype), "H": case.H,
            "batch_tile": cut.batch_tile, "programs": cut.programs, "kernel": self.kernel, "error": self.error,
            "warps": self.warps, "registers": self.usage.registers, "stack_bytes": self.usage.stack,
            "shared_bytes": self.shared_bytes, "shared_limit": self.shared_limit,
            "fits": 0 < self.shared_bytes <= self.shared_limit, "weights_in": weights.place,
            "weights_bytes": weights.bytes, "weight_copies": weights.copies, "resident": self.resident,
            "matrix": self.matrix, **{f"step_{name}": count for name, count in self.step._asdict().items()},
        }  # fmt: skip


def write(arch: str, folder: Path) -> Path:
    """Compile all cases for an architecture, ``sm_90``, and write ``<arch>.csv`` and ``.md``; returns the page's path.

    Raises:
        FileNotFoundError: the installed Triton has no cuobjdump.
        RuntimeError: Triton's interpreter is on.
    """
    tool = cuobjdump()
    rows = [row.columns() for case in cases(arch) for row in measure(case, arch, tool)]
    stamp = asdict(take_stamp(torch.device("cpu")))
    # Two batches may be cut into the same tiles.
    frame = pd.DataFrame(rows).drop_duplicates().assign(arch=arch, **{name: stamp[name] for name in report.STAMP})
    path = folder / f"{arch}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, frame.to_csv(index=False, lineterminator="\n"))
    return report.write(path)


def cuobjdump() -> Path:
    """The disassembler that comes with Triton.

    Raises:
        FileNotFoundError: it isn't there.
        ModuleNotFoundError: Triton is not installed.
    """
    require_triton("reading what was compiled")
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not path.exists():
        raise FileNotFoundError(f"registers are read by cuobjdump, which Triton's wheels bring. Got none at {path}.")
    return path


def measure(case: Case, arch: str, tool: Path, ways: Collection[str] = ()) -> Iterator[Row]:
    """Compile a case's kernels and read them, a line to stderr for each.

    Args:
        ways: of WAYS; without, all, but inference of INFERENCE_CELLS alone.
    """
    ways = ways or [way for way in WAYS if way != "inference forward" or case.cell in INFERENCE_CELLS]
    compiled, errors = _compile(case, arch, ways)
    for way in ways:
        for name, kernel in compiled.get(way, {"": None}).items():
            row = Row(case, way, case.cut(arch, way), of_arch(arch).shared, name.partition(" ")[0])
            if kernel is None:
                row.error = errors.get(way, "no kernel was launched")
            else:
                _fill(row, kernel, tool)
            figures = f"{row.usage.registers} registers, {row.usage.stack} of stack, {row.shared_bytes:,} shared"
            what = f"{arch} {case.loop.name} {case.cell} H{case.H} {_name(case.dtype)} {way}"
            print(f"{what}: {row.error or figures}", file=sys.stderr)
            yield row


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _compile(case: Case, arch: str, ways: Collection[str]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Compiled kernels, by pass and name, and what went wrong, by pass."""
    from triton.backends.compiler import GPUTarget

    loop, cell = loop_module(case.loop.name), find_cell(case.cell)
    T, B, H, G, S = _STEPS, case.B, case.H, len(cell.x_blocks), len(cell.states)

    M = len(cell.recurrent_gates)

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=case.dtype)

    inputs = Sequence(
        cell, zeros(T, B, G * H), zeros(S, B, H), zeros(M * H, H), zeros(M * H), zeros(len(cell.parameters), H),
        None, None, None, "forward",
    )  # fmt: skip
    kept: list[Any] = []
    given = Upstream(zeros(T, B, H), None, zeros(S, B, H))
    passes: dict[str, Callable[[], Any]] = {
        "training forward": lambda: kept.append(loop.forward(inputs, True, False)),
        "backward": lambda: loop.backward(inputs, *kept, given),
        "inference forward": lambda: loop.forward(inputs, False, False),
    }
    compiled: dict[str, dict[str, Any]] = {}
    errors: dict[str, str] = {}
    for way, run in passes.items():
        if way == "backward" and not kept:
            errors[way] = "its forward did not compile"
            continue
        if way not in ways and (way != "training forward" or "backward" not in ways):
            continue
        # float32 products are those of the driver that runs: tf32, as cuDNN's flag is by default.
        with compile_only(GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)) as kernels:
            try:
                run()
            except Exception as error:
                errors[way] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
        if way not in errors:
            # A loop that launches a kernel again gets it by another name.
            first = {k.hash: (name, k) for name, k in reversed(kernels.items())}
            compiled[way] = dict(reversed(first.values()))
    return compiled, errors


def _fill(row: Row, kernel: Any, tool: Path) -> None:
    """Read a compiled kernel's figures."""
    try:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(kernel.asm["cubin"])
            file.flush()
            command = [str(tool), "-res-usage", "-sass", file.name]
            text = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        row.usage = usage(text, row.kernel)
        row.step = time_loop(text)
        row.weights = held(kernel.asm["ttgir"])
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        row.error = f"{type(error).__name__}: {error}"
    row.matrix = ", ".join(f"{count} {name}" for name, count in matrix_instructions(kernel.asm["ptx"]).items())
    row.warps, row.shared_bytes = kernel.metadata.num_warps, kernel.metadata.shared
    whole = find_cell(row.case.cell).program.weighed * row.case.H**2 * row.case.dtype.itemsize
    enough = row.cut.programs * row.weights.bytes >= whole and row.weights.bytes <= row.shared_bytes
    row.resident = row.weights.place == "shared" and enough
