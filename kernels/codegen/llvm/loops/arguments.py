"""What the loops are told in a call, by name: numbers, distances in bytes, and addresses, 0 where nothing is given."""

from __future__ import annotations

from collections.abc import Mapping

from gatefuse.kernels.codegen.llvm.code import Number
from gatefuse.kernels.codegen.llvm.fields import Fields
from gatefuse.kernels.codegen.llvm.loops.team import TEAM
from gatefuse.kernels.equations.program import Program


def _common(program: Program) -> tuple[str, ...]:
    states, parameters = range(len(program.cell.states)), range(len(program.cell.parameters))
    return (
        *TEAM,
        *("T", "B", "H", "reverse"),
        # whether all threads share all samples; else how many tiles there are, and which is taken next, 0 at first
        *("together", "tiles", "next"),
        # masks, (T, B) bytes
        *("restarts", "live"),
        # of each state: before the first step, where it begins anew, its sequence, from one step of that to the next
        *(f"{name}{s}" for s in states for name in ("first", "fresh", "out", "step")),
        # from one sample's output to the next; of other states that is a row of H
        "out_row",
        *(f"parameter{k}" for k in parameters),
        # the columns' sums, from one column, step and sample to the next
        *("sums", "sums_column", "sums_step", "sums_row"),
        # computed vectors, from one product and step to the next
        *("fed", "fed_product", "fed_step"),
        # memory for values that later parts read, by sample
        "kept",
    )


def forward_fields(program: Program) -> Fields:
    """Arguments of the forward loop."""
    finals = [f"final{s}" for s in range(len(program.cell.states))]
    product = *("I", "input_weight", "input_bias", "input_pack"), *("input_steps", "ahead", "ahead_row", "ahead_tile")
    return Fields((
        *_common(program),
        # one of ahead.py's
        "layout",
        # the input's product, or with input_weight the input, from one step and sample to the next
        *("x", "x_step", "x_row"),
        # each input beside the gates, from one step and sample to the next
        *(f"beside{k}{part}" for k in range(len(program.cell.inputs)) for part in ("", "_step", "_row")),
        # of the input's product: features, weights, memory for their panels; of how many steps it is computed at once,
        # memory for that by tile, from one row and tile to the next
        *product,
        # memory for the weights' panels
        *("weight", "bias", "pack"),
        # whether sums are kept for the backward, with the slots that are x alone behind them
        "save",
        # whether the output is zero where a sample has no step; else its states stay in all sequences
        "ends",
        *finals,
    ))  # fmt: skip


def beside(given: Mapping[str, Number], k: int, t: Number, sample: Number) -> Number:
    """Where input k beside the gates lies, unit 0."""
    at, step, row = (given[f"beside{k}{part}"] for part in ("", "_step", "_row"))
    return at + t * step + sample * row


def apart_slots(program: Program) -> list[str]:
    """Slots that are x alone: where x is no product yet, they are kept for the backward, after the columns' sums."""
    return [slot.name for slot in program.slots if slot.column < 0]


def backward_fields(program: Program) -> Fields:
    """Arguments of the backward loop."""
    return Fields((
        *_common(program),
        # slots that are x alone, from one step and sample to the next
        *(f"x{k}" for k in range(len(apart_slots(program)))), "x_step", "x_row",
        *("weight", "pack", "layout"),
        # gradients of the sequences, of the others than the output from one state to the next
        *("d_output", "d_rest", "d_rest_state"),
        # of the states: those of the finals, and in the end those of the first ones
        "d_states",
        # sums that begin at zero: of fresh, and of parameters by sample
        *("d_fresh", "d_parameters"),
        # of x, from one step and sample to the next, and of the columns, which may be one with it
        *("d_x", "d_x_step", "d_x_row", "d_r"),
        # of the inputs beside the gates, 0 where nobody wants one, from one step and sample to the next
        *(f"d_beside{k}" for k in range(len(program.cell.inputs))), *("d_beside_step", "d_beside_row"),
        # memory for those of computed vectors, by sample
        "d_fed",
    ))  # fmt: skip
