"""Where a whole-sequence kernel keeps the recurrent weights, read off its TTGIR, Triton's text for GPUs.

A step's products multiply weights, the same in each step, by a vector, another in each. So every product within the
time loop is looked up, and each of its two factors followed backward through operators that only move or reorder
values. A factor that comes from before the loop is held: in shared memory if it is a buffer there that was filled when
it was made, in registers if it is a tensor. A factor that ends in anything else within the loop isn't: a load, an
argument that the loop carries, a buffer that is filled while the loop runs, as Triton makes for loads that it starts
early. Where no factor of a product is held, its weights come from global memory each step.

Operators that move a held factor from shared memory into other shared memory, step by step, are counted as copies:
the weights stay on the chip, but a step pays for moving them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_NAME = re.compile(r"%[\w$.-]+")
_SHAPE = re.compile(r"<((?:\d+x)+)(?:!tt\.ptr<)?[a-z]*(\d+)")  # a load's type is its pointers
_PRODUCTS = ("tt.dot", "ttng.warp_group_dot", "ttng.tc_gen5_mma")
_MOVES = (
    "ttg.local_alloc", "ttg.local_load", "ttg.convert_layout", "ttg.memdesc_trans", "ttg.memdesc_reshape",
    "ttg.memdesc_index", "ttg.memdesc_subslice", "ttg.memdesc_subview", "ttg.memdesc_reinterpret", "tt.trans",
    "tt.reshape", "arith.extf", "tt.fp_to_fp",
)  # fmt: skip


class Held(NamedTuple):
    """Weights that lie on the chip when the time loop's products want them.

    Attributes:
        place: ``shared``, ``registers``, ``global`` where the weights are loaded each step, or several, with commas.
        bytes: of what is held, once however many products use it.
        copies: moves of it through shared memory in each step.
    """

    place: str = ""
    bytes: int = 0
    copies: int = 0


class _Operation(NamedTuple):
    name: str
    operands: list[str]
    type: str
    loop: int  # number of the outermost loop around it, 0 for none


def held(ttgir: str) -> Held:
    """What the loops' products of a kernel hold.

    Raises:
        ValueError: no loop holds a product.
    """
    operations = _operations(ttgir)
    places: dict[str, None] = {}
    sizes: dict[str, int] = {}
    copies = 0
    for operation in list(operations.values()):
        if operation.name not in _PRODUCTS or not operation.loop:
            continue
        place = "global"
        for factor in operation.operands[:2]:
            value, moves = _before(operations, factor, operation.loop)
            if value:
                place = "shared" if "memdesc" in operations[value].type else "registers"
                buffer = _buffer(operations, value)
                sizes[buffer] = _bytes(operations[buffer].type)
                copies += moves.count("ttg.local_alloc")
                break
        places[place] = None
    if not places:
        raise ValueError("TTGIR must have a product within a loop. Got none.")
    return Held(", ".join(sorted(places)), sum(sizes.values()), copies)


def _before(operations: dict[str, _Operation], name: str, loop: int) -> tuple[str, list[str]]:
    """The value from before a loop that a value within it is a move of, "" for none; and the moves."""
    moves: list[str] = []
    while operation := operations.get(name):
        if operation.loop != loop:
            return ("" if "mutable" in operation.type else name), moves
        if operation.name not in _MOVES or not operation.operands:
            break
        moves.append(operation.name)
        name = operation.operands[0]
    return "", moves


def _buffer(operations: dict[str, _Operation], name: str) -> str:
    """What a view shows."""
    while (operation := operations[name]).name in _MOVES and operation.name != "ttg.local_alloc":
        if not operation.operands or operation.operands[0] not in operations:
            break
        name = operation.operands[0]
    return name


def _operations(ttgir: str) -> dict[str, _Operation]:
    """Every operation that has a result, by its name and line; a product without one by its line.

    Blocks beside one another have values of the same names, so an operand is the last one of its name before it.
    """
    found: dict[str, _Operation] = {}
    last: dict[str, str] = {}
    depth, loops, opened = 0, 0, 0
    for number, line in enumerate(ttgir.splitlines()):
        text = line.strip()
        if text.startswith("#"):  # locations and layouts
            continue
        left, equals, right = text.partition(" = ")
        head, body = (left, right) if equals and left.startswith("%") else ("", text)
        operator = body.split(" ", 1)[0].split("(")[0]
        depth_before = depth
        depth += text.count("{") - text.count("}")
        if operator in ("scf.for", "scf.while") and not opened:
            loops, opened = loops + 1, depth_before + 1
        inside = loops if opened else 0
        if head or operator in _PRODUCTS:
            signature = body.rsplit(" loc(", 1)[0]
            arguments = signature.split(" : ", 1)[0]
            kind = signature.rsplit("->", 1)[-1] if "->" in signature else signature.rsplit(" : ", 1)[-1]
            operands = [last.get(name, name) for name in _NAME.findall(arguments)]
            name = head.split(":")[0]
            last[name] = f"{name} line {number}"
            found[last[name]] = _Operation(operator, operands, kind, inside)
        if opened and depth < opened:
            opened = 0
    return found


def _bytes(kind: str) -> int:
    """Bytes of a tensor or buffer, of its type's text."""
    shape = _SHAPE.search(kind)
    if not shape:
        return 0
    size = int(shape.group(2))
    for side in shape.group(1).rstrip("x").split("x"):
        size *= int(side)
    return size // 8
