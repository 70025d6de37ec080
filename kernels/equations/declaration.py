"""What a cell declares: its gates by side, its states with their first values, its parameters and constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gatefuse.kernels.equations.inputs import read_inputs
from gatefuse.kernels.equations.parameters import (
    FirstValue,
    as_number,
    read_constants,
    read_first_values,
    read_scalars,
)
from gatefuse.kernels.equations.signature import (
    check_function,
    check_names,
    read_biases,
    read_init,
    read_sides,
    read_signature,
)
from gatefuse.kernels.equations.sizes import Sizes, as_mapping, read_sizes


class Declaration(NamedTuple):
    """All that is known of a cell before its equations run; checked when it is made, by ``declare``.

    A cell has each of these as an attribute of the same name.

    Attributes:
        declared: names of the gates with the sides that they were declared to have, as ``c:x``.
        gates: their names alone.
        input_gates, recurrent_gates: those that the input feeds, and R, in the order of the rows of its weights.
        states: names of the S states; the first is the output.
        parameters: names of the learned parameters, which equations are given as one number a unit, (H,).
        init: the value each state starts from where none is given.
        input_biases, recurrent_biases: the gates that have a bias on that side.
        scalars: the parameters that are learned as one number for all units, (1,).
        constants: names and numbers of the keyword-only names that are no parameters.
        parameter_init: names of parameters and what these begin with, where it isn't torch.nn's random draw.
        inputs: names of what equations are given beside the gates.
        sizes: names of sizes other than hidden_size, and of the gates, states, parameters and inputs that have them.
    """

    declared: tuple[str, ...]
    gates: tuple[str, ...]
    input_gates: tuple[str, ...]
    recurrent_gates: tuple[str, ...]
    states: tuple[str, ...]
    parameters: tuple[str, ...]
    init: tuple[float, ...]
    input_biases: tuple[str, ...]
    recurrent_biases: tuple[str, ...]
    scalars: tuple[str, ...]
    constants: tuple[tuple[str, float], ...]
    parameter_init: tuple[tuple[str, FirstValue], ...]
    inputs: tuple[str, ...] = ()
    sizes: Sizes = ()

    @property
    def text(self) -> str:
        """What the equations' results depend on, for a fingerprint: not how a layer lays out parameters."""
        found = repr((self.declared, self.states, self.parameters, self.init))
        found += f" {self.constants!r}" if self.constants else ""
        found += f" inputs {' '.join(self.inputs)}" if self.inputs else ""
        return f"{found} sizes {self.sizes!r}" if self.sizes else found

    @property
    def plain(self) -> bool:
        """Whether a layer's parameters are the very weights that loops take: of each gate, for each unit."""
        biases = self.input_biases, self.recurrent_biases
        return biases == (self.input_gates, self.recurrent_gates) and not self.scalars

    def with_constants(self, cell: str, constants: Mapping[str, Any]) -> Declaration:
        """The same with other values of constants.

        Raises:
            TypeError: one is no number.
            ValueError: the cell has no such constant.
        """
        changed = dict(self.constants)
        for name, value in constants.items():
            if name not in changed:
                raise ValueError(f"constants of {cell} must be {', '.join(changed) or 'none'}. Got {name}.")
            changed[name] = as_number(f"constant {name}", value)
        return self._replace(constants=tuple(changed.items()))


class Declared:
    """What has a declaration's values as attributes of its own, which are asked for in each call.

    Attributes:
        declaration: all of them.
        plain: as the declaration's.
        x_blocks: names of what x holds for loops, H columns each: input_gates, and behind them inputs.
        size_of: the size of each gate, state, parameter and input that has another than hidden_size.
    """

    declared: tuple[str, ...]
    gates: tuple[str, ...]
    input_gates: tuple[str, ...]
    recurrent_gates: tuple[str, ...]
    states: tuple[str, ...]
    parameters: tuple[str, ...]
    init: tuple[float, ...]
    input_biases: tuple[str, ...]
    recurrent_biases: tuple[str, ...]
    scalars: tuple[str, ...]
    inputs: tuple[str, ...]
    sizes: Sizes

    def __init__(self, declaration: Declaration):
        values = declaration._asdict()
        self._constants, self._parameter_init = dict(values.pop("constants")), dict(values.pop("parameter_init"))
        vars(self).update(values)
        self.declaration = declaration
        self.plain = declaration.plain
        self.x_blocks = declaration.input_gates + declaration.inputs
        self.size_of = as_mapping(declaration.sizes)

    @property
    def constants(self) -> dict[str, float]:
        """A copy of the numbers that equations are given by keyword-only names."""
        return dict(self._constants)

    @property
    def parameter_init(self) -> dict[str, FirstValue]:
        """A copy of what parameters begin with, by name, where it isn't torch.nn's random draw."""
        return dict(self._parameter_init)


def declare(
    equations: Callable[..., Any],
    gates: tuple[str, ...],
    init: Any = None,
    bias: Any = None,
    scalars: Any = "",
    constants: Any = None,
    parameter_init: Any = None,
    inputs: Any = "",
    sizes: Any = None,
) -> Declaration:
    """The declaration of a cell of these equations; arguments are ``gatefuse.cell``'s, but for gates, which are apart.

    Raises:
        TypeError, ValueError: as ``gatefuse.cell``.
    """
    check_function(equations)
    cell = equations.__name__
    names, fed, recurrent = read_sides(gates)
    states, named = read_signature(equations)
    check_names(cell, names, states, named)
    beside = read_inputs(cell, names, (*states, *named), inputs)
    numbers = read_constants(cell, named, constants)
    parameters = tuple([name for name in named if name not in numbers])
    return Declaration(
        gates,
        names,
        fed,
        recurrent,
        states,
        parameters,
        read_init(cell, states, init),
        *read_biases(cell, gates, fed, recurrent, bias),
        read_scalars(cell, parameters, scalars),
        tuple(numbers.items()),
        tuple(read_first_values(cell, parameters, parameter_init).items()),
        beside,
        read_sizes(cell, (*states, *names, *parameters, *beside), sizes),
    )
