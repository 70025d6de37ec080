"""What each whole-sequence kernel takes of a multiprocessor, compiled ahead of time for a GPU that need not be there.

The loops' own host code runs on CPU tensors, with its launches turned into compilations; so what is tabulated is what
would run. resource_report.py writes the page.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from gatefuse.bench import resource_report
from gatefuse.bench.machine_code import matrix_instructions, time_loop, usage
from gatefuse.bench.residence import held
from gatefuse.bench.rows import take_stamp
from gatefuse.kernels.cell import Cell
from gatefuse.kernels.cells import find_cell
from gatefuse.kernels.launch import compile_only
from gatefuse.kernels.limits import SHARED_BYTES, Limits, of_arch
from gatefuse.kernels.program import Program
from gatefuse.kernels.sequence import Sequence, Upstream
from gatefuse.kernels.tiles import block_shared_bytes, block_tiles, grid_backward_tiles, grid_shared_bytes, grid_tiles

_STEPS = 2  # of the sequences that the host loops are given; kernels are the same for all lengths


class Cut(NamedTuple):
    """How a loop cuts the work: samples and programs of a batch tile, and bytes of shared memory at the least."""

    batch_tile: int
    programs: int
    shared: int


class Loop(NamedTuple):
    """A loop with whole-sequence kernels: where its forward and backward are, and the shapes, cells and dtypes tried.

    cut: of program, H, B, the bytes of a number, what the GPU holds, and the way as Row has it.
    """

    name: str
    module: str
    hidden: tuple[int, ...]
    batches: tuple[int, ...]
    cut: Callable[[Program, int, int, int, Limits, str], Cut]
    cells: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16,)


def _block_cut(program: Program, H: int, B: int, itemsize: int, held: Limits, way: str) -> Cut:
    return Cut(block_tiles(H).BB, 1, block_shared_bytes(program, H, itemsize))


def _grid_cut(program: Program, H: int, B: int, itemsize: int, held: Limits, way: str) -> Cut:
    if way == "backward":
        back = grid_backward_tiles(program, H, B, itemsize, held)
        return Cut(back.BB, back.units, back.shared)
    cut = grid_tiles(program, H, B, itemsize, held)
    return Cut(cut.BB, cut.units, grid_shared_bytes(program, H, itemsize, cut))


CELLS = ("lstm", "gru", "gru_reset_first", "peephole_lstm", "elman", "slstm")
LOOPS = (
    Loop(
        "block", "gatefuse.kernels.block_loop", (16, 20, 32, 64, 128), (16,), _block_cut, CELLS,
        (torch.bfloat16, torch.float16, torch.float32),
    ),
    Loop(
        "grid", "gatefuse.kernels.grid_loop", (128, 256, 512, 768, 1024, 1536), (16, 64, 256), _grid_cut,
        ("lstm", "gru"),
    ),
    Loop("grid", "gatefuse.kernels.grid_loop", (200, 512), (16,), _grid_cut, ("gru_reset_first", "peephole_lstm")),
)  # fmt: skip
# Where one 16-bit dtype compiles, so does the other, to the same figures but for a few; two cells show that.
HALF_CELLS = ("lstm", "gru")
INFERENCE_CELLS = ("lstm", "gru")
ARCHITECTURES = tuple(SHARED_BYTES)


class Case(NamedTuple):
    """What is compiled together: a cell's passes in one loop at one shape."""

    loop: Loop
    cell: str
    dtype: torch.dtype
    H: int
    B: int


@dataclass
class Row:
    """A kernel and its figures, zero or empty where ``error`` says why it has none.

    Attributes:
        way: ``training forward``, ``inference forward`` or ``backward``.
        programs: that share a batch tile.
        registers, stack_bytes: of a thread; the stack takes what doesn't fit into registers.
        shared_bytes, shared_limit: of a program; what the kernel wants, what the architecture gives.
        matrix: matrix instructions in PTX, by form. Those and the figures below that count instructions are of one
            step, a warp's or a warp group's, in SASS.
        weights_in, weights_bytes, weight_copies: as residence.Held; the bytes are a program's.
        resident: all recurrent weights lie in the shared memory of a batch tile's programs over all steps.
    """

    loop: str
    cell: str
    way: str
    dtype: str
    H: int
    batch_tile: int
    programs: int
    kernel: str = ""
    error: str = ""
    warps: int = 0
    registers: int = 0
    stack_bytes: int = 0
    shared_bytes: int = 0
    shared_limit: int = 0
    fits: bool = False
    weights_in: str = ""
    weights_bytes: int = 0
    weight_copies: int = 0
    resident: bool = False
    matrix: str = ""
    step_matrix: int = 0
    step_barriers: int = 0
    step_spills: int = 0
    step_instructions: int = 0


def write(arch: str, folder: Path) -> Path:
    """Compile all cases for an architecture, ``sm_90``, and write ``<arch>.csv`` and ``.md``; returns the page's path.

    Raises:
        FileNotFoundError: the installed Triton has no cuobjdump.
        RuntimeError: Triton's interpreter is on.
    """
    tool = cuobjdump()
    rows = [asdict(row) for case in cases(arch) for row in measure(case, arch, tool)]
    stamp = asdict(take_stamp(torch.device("cpu")))
    # Two batches may be cut into the same tiles.
    frame = (
        pd.DataFrame(rows).drop_duplicates().assign(arch=arch, **{name: stamp[name] for name in resource_report.STAMP})
    )
    path = folder / f"{arch}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False, lineterminator="\n")
    return resource_report.write(path)


def cuobjdump() -> Path:
    """The disassembler that comes with Triton.

    Raises:
        FileNotFoundError: it isn't there.
    """
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not path.exists():
        raise FileNotFoundError(f"registers are read by cuobjdump, which Triton's wheels bring. Got none at {path}.")
    return path


def cases(arch: str) -> Iterator[Case]:
    """All that is tabulated: float32 only where the weights fit, 16-bit dtypes also where they don't."""
    for loop in LOOPS:
        for name in loop.cells:
            for dtype in loop.dtypes:
                if dtype == torch.float16 and name not in HALF_CELLS:
                    continue
                for H in loop.hidden:
                    for B in loop.batches:
                        cut = loop.cut(find_cell(name).program, H, B, dtype.itemsize, of_arch(arch), "")
                        if dtype != torch.float32 or cut.shared <= SHARED_BYTES[arch]:
                            yield Case(loop, name, dtype, H, B)


def measure(case: Case, arch: str, tool: Path) -> Iterator[Row]:
    """Compile a case's kernels and read them, a line to stderr for each."""
    cell, dtype = find_cell(case.cell), str(case.dtype).removeprefix("torch.")
    ways = ["training forward", "backward", *["inference forward"] * (case.cell in INFERENCE_CELLS)]
    compiled, errors = _compile(case, cell, arch)
    for way in ways:
        cut = case.loop.cut(cell.program, case.H, case.B, case.dtype.itemsize, of_arch(arch), way)
        for name, kernel in compiled.get(way, {"": None}).items():
            row = Row(case.loop.name, case.cell, way, dtype, case.H, cut.batch_tile, cut.programs)
            row.kernel, row.shared_limit = name.partition(" ")[0], SHARED_BYTES[arch]
            if kernel is None:
                row.error = errors.get(way, "no kernel was launched")
            else:
                _fill(row, kernel, cell.program, case.dtype.itemsize, tool)
            said = row.error or f"{row.registers} registers, {row.stack_bytes} of stack, {row.shared_bytes:,} shared"
            print(f"{arch} {row.loop} {row.cell} H{row.H} {dtype} {way}: {said}", file=sys.stderr)
            yield row


def _compile(case: Case, cell: Cell, arch: str) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Compiled kernels, by pass and name, and what went wrong, by pass."""
    from triton.backends.compiler import GPUTarget

    loop = import_module(case.loop.module)
    T, B, H, G, S = _STEPS, case.B, case.H, len(cell.gates), len(cell.states)

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=case.dtype)

    inputs = Sequence(
        cell, zeros(T, B, G * H), zeros(S, B, H), zeros(G * H, H), zeros(G * H), zeros(len(cell.parameters), H),
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
        if way == "inference forward" and cell.name not in INFERENCE_CELLS:
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


def _fill(row: Row, kernel: Any, program: Program, itemsize: int, tool: Path) -> None:
    """Read a compiled kernel's figures."""
    try:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(kernel.asm["cubin"])
            file.flush()
            command = [str(tool), "-res-usage", "-sass", file.name]
            text = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        row.registers, row.stack_bytes = usage(text, row.kernel)
        row.step_instructions, row.step_matrix, row.step_barriers, row.step_spills = time_loop(text)
        row.weights_in, row.weights_bytes, row.weight_copies = held(kernel.asm["ttgir"])
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        row.error = f"{type(error).__name__}: {error}"
    row.matrix = ", ".join(f"{count} {name}" for name, count in matrix_instructions(kernel.asm["ptx"]).items())
    row.warps, row.shared_bytes = kernel.metadata.num_warps, kernel.metadata.shared
    row.fits = row.shared_bytes <= row.shared_limit
    whole = len(program.columns) * row.H**2 * itemsize
    enough = row.programs * row.weights_bytes >= whole and row.weights_bytes <= row.shared_bytes
    row.resident = row.weights_in == "shared" and enough
