"""How grid's programs hand values to each other where each value says of itself that it is there: the assembly for a
dtype and a tile, and the fill. See triton/exchange.py."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell


class Hand(NamedTuple):
    """What kernels are compiled with.

    Attributes:
        BITS: of an element.
        LANES: elements of a load, side by side; a row has a multiple of them.
        WORDS: of 32 bits of a load.
        PACK: loads of a thread, all of which are on their way before one is looked at.
        QUIET: the bits that stand for the pattern where a state is the pattern.
        LOAD, OPERANDS, STORE: assembly.
    """

    BITS: int
    LANES: int
    WORDS: int
    PACK: int
    QUIET: int
    LOAD: str
    OPERANDS: str
    STORE: str


_QUIET = {torch.float32: 0x7FC00000, torch.bfloat16: 0x7FC0, torch.float16: 0x7E00}


def hand(cell: Cell, dtype: torch.dtype, H: int, tile: int, threads: int, polls: int) -> Hand:
    """For tiles of so many exchanged elements; after ``polls`` polls, where that isn't 0, the kernel ends in a trap.

    Raises:
        ValueError: there is no such exchange for the dtype, or the cell has reductions over units.
    """
    if dtype not in _QUIET:
        raise ValueError(f"FORM flag must be tried in float32, bfloat16 or float16. Got {dtype}.")
    if any(p.reduces for p in cell.program.products):
        raise ValueError(f"FORM flag must be tried with a cell that reduces nothing over its units. Got {cell.name}.")
    bits = dtype.itemsize * 8
    lanes = next(n for n in (4, 2, 1) if H % n == 0)
    words, pack = max(1, lanes * bits // 32), max(1, tile // (lanes * threads))
    operands = ",".join(["=&r"] * words * pack + ["l"] * pack + ["r"] * pack)
    return Hand(bits, lanes, words, pack, _QUIET[dtype], _load(bits, lanes, words, pack, polls), operands, _store(bits))


def _load(bits: int, lanes: int, words: int, pack: int, polls: int) -> str:
    """Loads repeated until no element has all bits set."""
    vector = "" if lanes == 1 else f".v{lanes}"
    loads, looks = [], []
    for j in range(pack):
        own = [f"${w * pack + j}" for w in range(words)]
        parts = own if bits == 32 else [f"part{lanes * j + n}" for n in range(lanes)]
        target = parts[0] if lanes == 1 else f"{{{', '.join(parts)}}}"
        loads.append(f"ld.relaxed.gpu.global{vector}.b{bits} {target}, [${words * pack + j}];")
        for w, word in enumerate(own):
            if bits == 32:
                looks.append(f"setp.eq.or.u32 missing, {word}, 4294967295, missing;")
            elif lanes == 1:
                looks += [f"cvt.u32.u16 {word}, {parts[0]};", f"setp.eq.or.u32 missing, {word}, 65535, missing;"]
            else:  # the sum's highest bit of a half is set where the other 15 are; the last word has the half's own
                looks += [
                    f"mov.b32 {word}, {{{parts[2 * w]}, {parts[2 * w + 1]}}};",
                    f"and.b32 full, {word}, 2147450879;",
                    "add.u32 full, full, 65537;",
                    f"and.b32 full, full, {word};",
                    "or.b32 any, any, full;",
                ]
    ends = []
    if bits == 16 and lanes > 1:
        ends = ["and.b32 any, any, 2147516416;", "setp.ne.u32 missing, any, 0;"]
    ends.append(f"setp.ne.and.u32 missing, ${words * pack + pack}, 0, missing;")
    if polls:
        ends += ["add.u32 polls, polls, 1;", f"setp.ge.and.u32 late, polls, {polls}, missing;", "@late trap;"]
    halves = f".reg .b16 part<{lanes * pack}>;" if bits == 16 else ""
    lines = [
        "{", ".reg .pred missing, late;", ".reg .b32 full, any, polls;", halves, "mov.u32 polls, 0;", "again:",
        "setp.ne.u32 missing, polls, polls;", "mov.u32 any, 0;", *loads, *looks, *ends, "@missing bra again;", "}",
    ]  # fmt: skip
    return "\n".join(filter(None, lines))


def _store(bits: int) -> str:
    """A strong store of the element's own width, where the last operand isn't 0."""
    narrow = ("cvt.u16.u32 part, $2;", "part") if bits == 16 else ("", "$2")
    return "\n".join((
        "{", ".reg .pred there;", ".reg .b16 part;", "setp.ne.u32 there, $3, 0;", narrow[0],
        f"@there st.relaxed.gpu.global.b{bits} [$1], {narrow[1]};", "mov.u32 $0, $2;", "}",
    ))  # fmt: skip


def fill(tensors: tuple[Tensor, ...]) -> None:
    """Set all bits of what is exchanged, in place, on the current stream, as the launch behind it."""
    for tensor in tensors:
        tensor.view({2: torch.int16, 4: torch.int32}[tensor.element_size()]).fill_(-1)
