"""What equations ask for between a step's stages, R's products and reductions over units, put in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from gatefuse.kernels.equations.expression import INPUT, Expr, input_names
from gatefuse.kernels.equations.sizes import HIDDEN

if TYPE_CHECKING:
    from gatefuse.kernels.cell import Cell


class Ask(NamedTuple):
    """What the equations asked for of a vector.

    Attributes:
        name: of the input that stands for the result.
        vector: the vector's place among all vectors.
        gate: whose product R was asked for, by its number among the recurrent gates; -1 for a reduction.
        reduces: "" for a product, else "mean" or "amax".
        size: the vector's, by its name.
    """

    name: str
    vector: int
    gate: int = -1
    reduces: str = ""
    size: str = HIDDEN


@dataclass(frozen=True)
class Product:
    """R[gates] times a vector, in one matrix product; its results are the columns from ``first`` on. Or a reduction of
    a vector over its units, whose one result all units have.

    Attributes:
        vector: what is multiplied or reduced.
        state: index of the state that is multiplied as it is, -1 where the vector is computed.
        gates: indices of the gates among the cell's recurrent_gates, in the order of the columns; of a reduction -1.
        first: the first column block.
        stage: 1 for vectors known before the step's first product, and so on.
        reduces: "" for a product with R, "mean" for the mean of the units, "amax" for the largest of them.
        size: of what is multiplied or reduced, by its name.
    """

    vector: Expr
    state: int
    gates: tuple[int, ...]
    first: int
    stage: int
    reduces: str = ""
    size: str = HIDDEN

    @property
    def computed(self) -> bool:
        """Whether what it multiplies is computed, and no state as it is."""
        return self.state < 0

    @property
    def columns(self) -> range:
        """Its column blocks."""
        return range(self.first, self.first + len(self.gates))


def find_products(
    cell: Cell, asked: list[Ask], vectors: list[Expr], new_states: list[Expr]
) -> tuple[list[Product], dict[str, int]]:
    """Group what was asked for by vector, drop what nothing uses, and find the stages; also the column of each result,
    by its name."""
    used: set[str] = input_names(new_states)
    before: set[str] = set()
    while used != before:  # what a product's vector needs is used where the product is
        before = used
        used = used | input_names([vectors[ask.vector] for ask in asked if ask.name in used])
    groups: dict[tuple[int, str], list[Ask]] = {}
    for ask in asked:
        if ask.name in used:
            groups.setdefault((id(vectors[ask.vector]), ask.reduces), []).append(ask)
    vector_of = {ask.name: vectors[ask.vector] for asks in groups.values() for ask in asks}
    stages: dict[int, int] = {}

    def stage(vector: Expr) -> int:
        if id(vector) not in stages:
            needed = sorted(input_names([vector]) & set(vector_of))
            stages[id(vector)] = 1 + max((stage(vector_of[name]) for name in needed), default=0)
        return stages[id(vector)]

    # a stage's reductions come after its products, whose columns then lie side by side
    found = sorted(groups.values(), key=lambda asks: (stage(vectors[asks[0].vector]), bool(asks[0].reduces)))
    products: list[Product] = []
    columns: dict[str, int] = {}
    for asks in found:
        vector, reduces, first = vectors[asks[0].vector], asks[0].reduces, len(columns)
        asks = sorted(asks, key=lambda ask: ask.gate)
        as_it_is = not reduces and vector.op == INPUT and vector.value in cell.states
        state = cell.states.index(str(vector.value)) if as_it_is else -1
        gates = tuple([ask.gate for ask in asks])
        products.append(Product(vector, state, gates, first, stage(vector), reduces, asks[0].size))
        columns |= {ask.name: first + k for k, ask in enumerate(asks)}
    return products, columns
