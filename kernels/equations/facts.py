"""What is known of a cell's equations, by its serial: as constants, also while torch.compile traces."""

from __future__ import annotations

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.equations.expression import input_names
from gatefuse.kernels.equations.sizes import HIDDEN
from gatefuse.kernels.runtime.dynamo import constant


@constant
def untranslatable(serial: str) -> str:
    """Why a cell's equations can't be made into kernels; "" where they can."""
    return Cell.by_serial(serial).refusal


@constant
def mixes_units(serial: str) -> bool:
    """Whether a unit's values follow from other units' otherwise than by R: by a mean, or the largest of them."""
    return any(p.reduces for p in Cell.by_serial(serial).program.products)


@constant
def output_elsewhere(serial: str) -> bool:
    """Whether equations, of which kernels can be made, use the output but in x + R(h), all gates as these sums."""
    program = Cell.by_serial(serial).program
    alone = len(program.products) == 1 and program.products[0].state == 0
    return not (alone and program.additive) or program.cell.states[0] in input_names(program.new_states)


@constant
def widest_product(serial: str) -> int:
    """How many gates the product with the most of them has."""
    return max((len(p.gates) for p in Cell.by_serial(serial).program.products), default=0)


@constant
def values_of_a_unit(serial: str) -> int:
    """How many values of a unit and step kernels address from one place: gates of x, columns, states or parameters."""
    program = Cell.by_serial(serial).program
    cell = program.cell
    return max(len(cell.x_blocks), len(program.columns), len(cell.states), len(cell.parameters), 2)


@constant
def products_of_a_step(serial: str) -> int:
    """How many products with R a step has, reductions included."""
    return len(Cell.by_serial(serial).program.products)


@constant
def file_key(serial: str) -> str:
    """What a file names the equations by.

    Raises:
        ValueError: they use from outside what a file can't hold.
    """
    version = Cell.by_serial(serial).current()
    if not version.closed:
        raise ValueError(
            f"a cell that is written into a file must be known by its equations alone. Got {version.refusal}."
        )
    return version.key


@constant
def key_of(serial: str) -> str:
    """What operators name the equations by, as they are now."""
    return Cell.by_serial(serial).key


@constant
def vector_sizes(serial: str) -> tuple[str, ...]:
    """For each recurrent gate the size of what R multiplies for it, by its name."""
    cell, products = Cell.by_serial(serial), Cell.by_serial(serial).program.products
    found = {gate: p.size for p in products if not p.reduces for gate in p.gates}
    return tuple([found.get(gate, HIDDEN) for gate in range(len(cell.recurrent_gates))])


@constant
def reduced_sizes(serial: str) -> tuple[str, ...]:
    """The sizes, each once, of what means and the largest of units are taken of."""
    return tuple(dict.fromkeys([p.size for p in Cell.by_serial(serial).program.products if p.reduces]))
