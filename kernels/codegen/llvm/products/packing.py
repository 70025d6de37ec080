"""Weights laid out in panels for the products: forward turned over, unit by unit beside each other; backward as they
lie.

A forward panel holds the units of a blocking: first the biases of its stage's columns, then of each product, for each
k, the weights of its gates, each a blocking's vectors of units. A backward one holds, for each row of a product's
weights (gate by gate), a blocking's vectors of the units that the row multiplies. Units that aren't there are zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from gatefuse.kernels.codegen.llvm.code import I32, Code, Number
from gatefuse.kernels.codegen.llvm.routines import Module, routine
from gatefuse.kernels.codegen.llvm.vectors import Float, Vectors
from gatefuse.kernels.equations.program import Program

Share = tuple[Number, Number]


def share_of(count: Number, share: Number, shares: Number) -> tuple[Number, Number]:
    """Where a share of so many things begins and ends."""
    first, last = ((count * (share + plus)) // shares for plus in (0, 1))
    return first, last


def stage_columns(program: Program, stage: int) -> tuple[int, ...]:
    """The column blocks of a stage's products with R, which follow one another."""
    return tuple(c for k in program.multiplied(stage) for c in program.products[k].columns)


def forward_panel(program: Program, stage: int, units: int, kind: Float, H: Number) -> Number:
    """Bytes of a stage's panel."""
    vectors = len(stage_columns(program, stage)) * units
    return (H + 1) * (vectors * kind.lanes * kind.size)


def turned(module: Module, kind: Float) -> ir.Function:
    """The routine (to, stride, origin, rows, K): a vector's lanes of rows, K numbers each, turned over.

    Number k of the rows goes to ``to`` + k * stride as a vector; rows from ``rows`` on are zero.
    """
    names = ("to", "stride", "origin", "rows", "K")
    return routine(module, kind, "turned", names, lambda code: _define_turned(code, kind))


def _define_turned(code: Code, kind: Float) -> None:
    to, stride, origin, rows, K = map(code.argument, range(5))
    v, lanes, size = Vectors(code, kind), kind.lanes, kind.size
    with code.loop("k", 0, K, lanes) as k:
        left = K - k
        whole = code.builder.and_(left.compare(">=", lanes), rows.compare(">=", lanes))
        with code.either(whole) as (then, other):
            with then:
                found = [v.load(origin + (K * r + k) * size) for r in range(lanes)]
                for r, vector in enumerate(transposed(code, kind, found)):
                    v.store(vector, to + (k + r) * stride)
            with other:
                found = []
                for r in range(lanes):
                    there = code.choose(code.number(r).compare("<", rows), left, code.number(0))
                    found.append(v.load(origin + (K * r + k) * size, v.within(there)))
                for r, vector in enumerate(transposed(code, kind, found)):
                    with code.when(left.compare(">", r)):
                        v.store(vector, to + (k + r) * stride)


def transposed(code: Code, kind: Float, rows: Sequence[Any]) -> list[Any]:
    """Rows as columns, by exchanging halves of pairs of blocks, of 1, 2, 4 ... lanes."""
    rows, lanes, width = list(rows), kind.lanes, 1
    while width < lanes:
        low = [k if not k & width else lanes + k - width for k in range(lanes)]
        high = [k + width if not k & width else lanes + k for k in range(lanes)]
        for r in range(lanes):
            if not r & width:
                first, second = rows[r], rows[r + width]
                for place, order in ((r, low), (r + width, high)):
                    mask = ir.Constant(ir.VectorType(I32, lanes), order)
                    rows[place] = code.builder.shuffle_vector(first, second, mask)
        width *= 2
    return rows


def pack_forward(
    code: Code,
    kind: Float,
    program: Program,
    units: int,
    share: Share,
    H: Number,
    to: Number,
    weight: Number,
    bias: Number,
) -> None:
    """Lay a share of all stages' panels out one after the other; ``bias`` may be 0."""
    lanes, size = kind.lanes, kind.size
    vector, panels = lanes * size, (H + (lanes * units - 1)) // (lanes * units)
    for stage in range(1, program.stages + 1):
        columns = stage_columns(program, stage)
        panel = forward_panel(program, stage, units, kind, H)
        with code.loop("panel", *share_of(panels, *share)) as j, code.loop("vector", 0, units) as u:
            unit, base = (j * units + u) * lanes, to + j * panel
            for place, column in enumerate(columns):
                _pack_bias(
                    code, kind, base + (u + place * units) * vector, bias, H * program.columns[column] + unit, H - unit
                )
            rows = base + len(columns) * units * vector
            for k in program.multiplied(stage):
                p = program.products[k]
                width = len(p.gates) * units * vector
                for place, gate in enumerate(p.gates):
                    origin, to_here = weight + (H * gate + unit) * H * size, rows + (u + place * units) * vector
                    code.run(turned(code.module, kind), to_here, code.number(width), origin, H - unit, H)
                rows = rows + H * width
        to = to + panel * panels


def _pack_bias(code: Code, kind: Float, to: Number, bias: Number, first: Number, left: Number) -> None:
    """A vector of biases from the first on, of which so many are left; zero where there are none."""
    v = Vectors(code, kind)
    v.store(v.number(0.0), to)
    with code.when(code.builder.and_(bias.compare("!=", 0), left.compare(">", 0))):
        v.store(v.load(bias + first * kind.size, v.within(left)), to)


def pack_rows(
    code: Code, kind: Float, vectors: int, share: Share, N: Number, K: Number, to: Number, weight: Number, bias: Number
) -> None:
    """Lay a share of a plain product's weights (N, K) out in panels of so many vectors of outputs, gates mixed."""
    lanes, size = kind.lanes, kind.size
    vector, across = lanes * size, lanes * vectors
    with code.loop("panel", *share_of((N + (across - 1)) // across, *share)) as j, code.loop("vector", 0, vectors) as k:
        base, unit = to + j * ((K + 1) * (vectors * vector)), (j * vectors + k) * lanes
        _pack_bias(code, kind, base + k * vector, bias, unit, N - unit)
        to_here, origin = base + (k + vectors) * vector, weight + unit * K * size
        code.run(turned(code.module, kind), to_here, code.number(vectors * vector), origin, N - unit, K)


def pack_backward(
    code: Code, kind: Float, program: Program, units: int, share: Share, H: Number, to: Number, weight: Number
) -> None:
    """Lay a share of all products' panels out one after the other."""
    v, lanes, size = Vectors(code, kind), kind.lanes, kind.size
    vector, panels = lanes * size, (H + (lanes * units - 1)) // (lanes * units)
    for p in [each for each in program.products if not each.reduces]:
        with code.loop("panel", *share_of(panels, *share)) as j:
            for place, gate in enumerate(p.gates):
                with code.loop("k", 0, H) as k, code.loop("vector", 0, units) as u:
                    unit = (j * units + u) * lanes
                    left, origin = H - unit, weight + ((H * gate + k) * H + unit) * size
                    row = to + (((j * len(p.gates) + place) * H + k) * units + u) * vector
                    with code.either(left.compare(">=", lanes)) as (then, other):
                        with then:
                            v.store(v.load(origin), row)
                        with other:
                            v.store(v.load(origin, v.within(left)), row)
        to = to + panels * len(p.gates) * H * (units * vector)
