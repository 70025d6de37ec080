"""Recurrent: torch.nn's recurrent layers, for any cell."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.utils.rnn import PackedSequence

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.cells import find_cell
from gatefuse.kernels.drivers import vendor
from gatefuse.kernels.noise.noisy_cell import checked_probability
from gatefuse.kernels.plan import Plan
from gatefuse.models.execution.symbolic import proxy_among, recorded
from gatefuse.models.layers.arguments import check_driver, check_heads, check_layer, check_projection
from gatefuse.models.layers.base import Stack
from gatefuse.models.layers.layout import fill, full_weights, parameter_shapes
from gatefuse.models.layers.units import units_of

_SUFFIX = re.compile(r"_l\d+(_reverse)?$")  # of a parameter's name: its layer and direction


class Recurrent(Stack, nn.Module):
    """Layers of a recurrent cell, in one direction or two.

    Parameters are torch.nn's: for layer k ``weight_ih_lk`` (G * H, I), where I is input_size in the first layer and
    D * H in the others, ``weight_hh_lk`` (G * H, H) and, with bias, ``bias_ih_lk`` and ``bias_hh_lk`` (G * H,); then
    the cell's parameters, such as ``p_i_lk`` (H,). Those of the second direction end in ``_reverse``. All are drawn
    from U(-1/sqrt(H), 1/sqrt(H)), in the order in which torch.nn draws its own, but for those that the cell gives first
    values. Gates without a product or bias have no rows, and a number for all units has shape (1,).

    Args:
        cell: a cell made by ``gatefuse.cell``, or the name of one that gatefuse ships (``gatefuse.cell_names()``).
        input_size: features I of the input.
        hidden_size: units H.
        num_layers: layers L, each of which reads the output of the one before.
        bias: whether there are the two biases.
        batch_first: whether input and output are (B, T, ...) instead of (T, B, ...); states are not touched by it.
        dropout: in training, the probability of zeroing an element of the output of each layer but the last.
        bidirectional: whether each layer runs in D = 2 directions.
        driver: who runs the time loop, one of ``gatefuse.kernels.drivers.DRIVERS``; "auto" takes the fastest that can.
        device: where the parameters lie.
        dtype: a floating type.
        weight_dropout: in training, the probability of zeroing an element of the recurrent weights, drawn once a call;
            the others are divided by 1 - weight_dropout (S. Merity et al. 2018, arXiv:1708.02182).
        heads: parts of H / heads units each, which R multiplies by themselves: ``weight_hh_lk`` is (G * H, H / heads),
            its rows by gate, then unit.
        proj_size: features P that the output, and so what R multiplies, is projected to, ``weight_hr_lk`` (P, H) behind
            the biases, as torch.nn.LSTM has it; for cells whose output is used in x + R(h) alone. None where 0.
        sizes: units of what the cell declares to have another size than hidden_size, by the sizes' names, all of them.
            A gate has so many rows, a parameter so many numbers, and states and output have them in the place of H. The
            rows of gates for which R multiplies values of size ``slow`` are ``weight_hh_slow_lk``, behind
            ``weight_hh_lk``, which has those that multiply values of H.

    Attributes:
        output_size: features of a direction's output: hidden_size, proj_size, or the units of the cell's first state.

    Raises:
        TypeError: a size is no int, a flag no bool, weight_dropout no number, or the cell neither a name nor a cell.
        ValueError: a size, dropout, weight_dropout, the cell's or the driver's name is out of its range; sizes are not
            those of the cell, or its equations don't show what has them.
        RuntimeError: dtype is no floating type.
    """

    def __init__(
        self,
        cell: str | Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        driver: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        weight_dropout: float = 0.0,
        *,
        heads: int = 1,
        proj_size: int = 0,
        sizes: Mapping[str, int] | None = None,
    ):
        super().__init__()
        self.cell = find_cell(cell)
        self.driver = check_driver(driver)
        check_layer(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype)
        self.heads = check_heads(heads, hidden_size)
        self.proj_size = check_projection(proj_size, hidden_size, heads)
        self._sized = units_of(self.cell, hidden_size, sizes, heads, proj_size)
        self.sizes = dict(sizes or {})
        self.output_size = proj_size or (hidden_size if self._sized is None else self._sized.of(self.cell.states[0]))
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.weight_dropout = checked_probability("weight_dropout", weight_dropout)

        self._shapes = self._own_shapes()
        self._names = list(self._shapes)
        for name, shape in self._shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()
        self.flatten_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew, from U(-1/sqrt(H), 1/sqrt(H)), but for those that the cell gives first values.

        Raises:
            ValueError: a function that gives first values leaves the tensor as it was.
        """
        bound, first = 1 / math.sqrt(self.hidden_size), self.cell.parameter_init
        for name, parameter in self.named_parameters():
            own = _SUFFIX.sub("", name)
            if own in first:
                fill(own, parameter, first[own])
            else:
                nn.init.uniform_(parameter, -bound, bound)

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: Tensor | tuple[Tensor, ...] | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        resets: Tensor | None = None,
        reset_state: Tensor | tuple[Tensor, ...] | None = None,
        all_states: bool = False,
        inputs: Mapping[str, Tensor | PackedSequence] | None = None,
    ) -> tuple[Any, Any]:
        """Run the layers over a batch of sequences.

        Args:
            x: (T, B, I), with batch_first (B, T, I), or one sequence (T, I); or a PackedSequence, whose output is one
                too.
            state: first states, in the order of the cell's: a tuple of (L * D, B, H) each, (L * D, H) without a batch;
                one tensor where the cell has one state. The cell's own first values where None. A state of another size
                has its units in the place of H, as in what is returned.
            lengths: (B,) integers from 0 to T. Sample b ends after lengths[b] steps: from there on its output is zero
                and its states stay; whatever x holds there reaches nothing. Values are checked on the CPU alone, since
                reading them elsewhere waits for the device.
            resets: bool, of x's shape without the features. Where true, the step begins a new sequence: its states
                begin anew, and none crosses the border in either direction.
            reset_state: the states that they then begin with, in the form of ``state``; the cell's own first values
                where None.
            all_states: whether sequences of all states of the last layer are wanted, not only of its output.
            inputs: what the cell declares as its inputs beside the gates, by name, of x's dtype: of x's shape without
                the features, one number a sample and step, or with H in their place, one a unit; with 1 in the place of
                steps, samples or units for which it is the same. All layers and directions are given the same. Where x
                is packed, packed as it is, or padded to the longest sample. What it holds beyond a sample's end
                reaches nothing.

        Returns:
            The output (T, B, D * H), batch first or without a batch as x was, or with all_states a tuple of such
            sequences, one a state; and the final states, in the form of ``state``.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: the input's rank or dtype, or the shape or a value of lengths, resets or an input beside the
                gates, is wrong; one of these is missing, or not the cell's.
            RuntimeError: another shape, dtype or device is wrong, or the driver asked for can't run the call.
        """
        if isinstance(x, Proxy) or not (state is lengths is resets is reset_state is inputs is None):
            values = tuple(inputs.values()) if isinstance(inputs, Mapping) else ()
            proxy = proxy_among(x, state, lengths, resets, reset_state, values)
            if proxy is not None:
                given = {"lengths": lengths, "resets": resets, "reset_state": reset_state, "all_states": all_states}
                return recorded(proxy, self, x, state, **given, inputs=inputs)
        return self._run(x, state, lengths, resets, reset_state, all_states, inputs)

    def plan(
        self,
        x: Tensor | PackedSequence,
        state: Tensor | tuple[Tensor, ...] | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        resets: Tensor | None = None,
        reset_state: Tensor | tuple[Tensor, ...] | None = None,
        all_states: bool = False,
        inputs: Mapping[str, Tensor | PackedSequence] | None = None,
    ) -> Plan:
        """Which driver would run this call, and why the others would not; ``print`` it. Nothing is run.

        Arguments and errors are forward's.
        """
        return self._explain(x, state, lengths, resets, reset_state, all_states, inputs)

    def flatten_parameters(self) -> None:
        """Lay the weights out as cuDNN wants them; done when the layer is made or moved, and a no-op elsewhere."""
        if vendor.knows(self.cell) and not self.proj_size and self.heads == 1:
            vendor.flatten(self.cell, self._flat(), self._form(self.batch_first), self.input_size, self.hidden_size)

    def extra_repr(self) -> str:
        text = f"{self.cell.name}, {self.input_size}, {self.hidden_size}"
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        for name, default in (
            *defaults.items(),
            ("driver", "auto"),
            ("heads", 1),
            ("weight_dropout", 0.0),
            ("proj_size", 0),
        ):
            if (value := getattr(self, name)) != default:
                text += f", {name}={value}"
        return text if self._sized is None else f"{text}, sizes={self._sized.declared}"

    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all parameters by name, in their order."""
        found: dict[str, tuple[int, ...]] = {}
        D = 2 if self.bidirectional else 1
        for layer in range(self.num_layers):
            features = D * self.output_size if layer else self.input_size
            of_layer = features, self.hidden_size, self.bias, self.heads, self.proj_size, self._sized
            for suffix in (f"_l{layer}", f"_l{layer}_reverse")[:D]:
                found |= {name + suffix: shape for name, shape in parameter_shapes(self.cell, *of_layer).items()}
        return found

    def _flat(self) -> list[Tensor]:
        parameters = self._parameters
        if list(parameters) == self._names:
            found: list[Tensor] = list(parameters.values())  # type: ignore[arg-type]
        else:  # weights were replaced by tensors, or are computed by a parametrization
            found = [getattr(self, name) for name in self._names]
        if self.cell.plain and not self.parted:  # whoever runs them looks at their shapes
            return found
        for (name, shape), weight in zip(self._shapes.items(), found, strict=True):
            if weight.shape != shape:
                raise ValueError(f"{name} must have shape {shape}. Got {tuple(weight.shape)}.")
        if self._sized is not None:
            return found
        return full_weights(self.cell, found, self.hidden_size, self.bias, bool(self.proj_size))

    def _apply(self, fn: Any, recurse: bool = True) -> Recurrent:
        super()._apply(fn, recurse)
        self.flatten_parameters()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # of a layer that was saved before it had these
        self.__dict__.setdefault("output_size", self.proj_size or self.hidden_size)
        self.__dict__.setdefault("_shapes", self._own_shapes())
        self.flatten_parameters()
