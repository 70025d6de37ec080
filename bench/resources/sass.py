"""What NVIDIA's compiler made of a kernel, read off the text of its own tools: PTX, cuobjdump's usage, SASS.

The time loop is found in SASS, by address: the longest stretch that ends in a jump back to its own beginning and holds
a matrix instruction. Loops in which a program waits for others lie within it. What the compiler moved out of line,
behind the jump, is not counted: the slow way of a division, or a wait that is seldom long.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?(\w[\w.]*)\s*([^;]*);", re.MULTILINE)
_MATRIX_PTX = re.compile(r"\b(wgmma|mma\.sync|tcgen05\.mma)(?:\.mma_async)?\.([\w.:]*)")
_MATRIX = ("HGMMA", "HMMA", "UTCHMMA", "QGMMA", "IMMA", "DMMA")


class Usage(NamedTuple):
    """What one thread takes: registers, and bytes of stack, where registers are put that don't fit."""

    registers: int = 0
    stack: int = 0


class TimeLoop(NamedTuple):
    """Instructions of one step, as they lie in the code.

    Attributes:
        instructions: all of them.
        matrix: those of the matrix unit.
        barriers: waits of a program's threads for one another.
        spills: stores to and loads from the stack.
    """

    instructions: int = 0
    matrix: int = 0
    barriers: int = 0
    spills: int = 0


def usage(text: str, kernel: str) -> Usage:
    """A kernel's line of ``cuobjdump -res-usage``.

    Raises:
        ValueError: the kernel isn't there.
    """
    found = re.search(rf"Function {re.escape(kernel)}:\s*REG:(\d+) STACK:(\d+)", text)
    if not found:
        raise ValueError(f"cuobjdump's usage must have a line for {kernel}. Got {text[:200]!r}.")
    return Usage(int(found.group(1)), int(found.group(2)))


def matrix_instructions(ptx: str) -> dict[str, int]:
    """Matrix instructions in PTX and how often each stands there: ``{"wgmma m64n16k16": 32}``."""
    found: Counter[str] = Counter()
    for name, rest in _MATRIX_PTX.findall(ptx):
        if shape := re.search(r"m\d+n\d+k\d+", rest):  # else a fence, or a wait
            found[f"{name} {shape.group()}"] += 1
    return dict(found)


def time_loop(sass: str) -> TimeLoop:
    """The time loop in ``cuobjdump -sass``.

    Raises:
        ValueError: no loop holds a matrix instruction.
    """
    code = [(int(at, 16), name, rest) for at, name, rest in _INSTRUCTION.findall(sass)]
    loops: list[list[str]] = []
    for at, name, rest in code:
        target = re.search(r"0x([0-9a-f]+)\s*$", rest)
        # A kernel ends in a jump to itself.
        if name.split(".")[0] == "BRA" and target and int(target.group(1), 16) < at:
            body = [n.split(".")[0] for a, n, _ in code if int(target.group(1), 16) <= a <= at]
            if any(n in _MATRIX for n in body):
                loops.append(body)
    if not loops:
        raise ValueError(f"SASS must have a loop with matrix instructions. Got none in {len(code)} instructions.")
    longest: list[str] = max(loops, key=len)
    count = Counter(longest)
    return TimeLoop(
        instructions=sum(count.values()),
        matrix=sum(count[name] for name in _MATRIX),
        barriers=count["BAR"],
        spills=count["STL"] + count["LDL"],
    )
