"""Where everything of a model lies: weights in the object's constants, states and memory for a step in its struct."""

from __future__ import annotations

from typing import NamedTuple

from gatefuse.kernels.codegen.llvm.objects.stages import Blocks, work_rows
from gatefuse.kernels.codegen.llvm.objects.stored import Stored
from gatefuse.kernels.codegen.llvm.objects.weights import floats_and_weights, table_bytes
from gatefuse.kernels.codegen.llvm.processor import Processor
from gatefuse.models.export.chain import Layer, Lookup, Operation
from gatefuse.models.export.header import Field


class Place(NamedTuple):
    """Where an operation's data begin, in bytes of floats and of weights, and its states, in numbers of the struct; and
    how its units are cut."""

    floats: int
    weights: int
    states: int
    blocks: Blocks


class Layout(NamedTuple):
    """Of a model.

    Attributes:
        places: of each operation.
        floats, weights: constants, as a step reads them.
        fields: the struct's members.
        work: where in the struct memory for one layer begins, in numbers.
        between: where two blocks begin for what operations without states give.
    """

    places: tuple[Place, ...]
    floats: bytes
    weights: bytes
    fields: tuple[Field, ...]
    work: int
    between: tuple[int, int]

    @property
    def numbers(self) -> int:
        """Of the whole struct."""
        return sum(field.numbers for field in self.fields)


def layout(operations: list[Operation], stored: Stored, processor: Processor) -> Layout:
    """The layout for a processor, whose vectors say how units are cut."""
    lanes = processor.lanes(4)
    floats, weights, places = bytearray(), bytearray(), []
    fields: list[Field] = []
    states = memory = widest = recurrent = 0
    for op in operations:
        blocks = Blocks(1, -(-op.outputs // lanes), lanes)
        of_floats = of_weights = b""
        if isinstance(op, Lookup):
            of_floats, of_weights = table_bytes(op.table, stored, lanes)
        elif isinstance(op, Layer):
            program = op.cell.program
            blocks = Blocks.of(program, op.outputs, processor)
            of_floats, of_weights = floats_and_weights(program, blocks, stored, op.weights, op.outputs)
            memory = max(memory, blocks.row * work_rows(program))
        places.append(Place(len(floats), len(weights), states, blocks))
        floats += of_floats
        weights += of_weights
        if isinstance(op, Layer) and op.recurrent:
            for s, name in enumerate(op.cell.states):
                fields.append(Field(_member(name, s, recurrent), blocks.row, op.outputs, f"{op.title}: {name}"))
            states += blocks.row * len(op.cell.states)
            recurrent += 1
        else:
            widest = max(widest, blocks.row)
    if memory + widest:
        what = "memory for a step, which means nothing between two"
        fields.append(Field("work", memory + 2 * widest, 0, what))
    between = states + memory, states + memory + widest
    return Layout(tuple(places), bytes(floats), bytes(weights), tuple(fields), states, between)


def _member(state: str, s: int, layer: int) -> str:
    """A name in C, where a state's may hold other letters."""
    return f"{state}_{layer}" if state.isascii() else f"s{s}_{layer}"
