"""torch.nn's recurrent layers with a choice of driver: same arguments, parameters, state dicts and results.

With driver vendor and no additions, torch.nn's own forward runs; not within torch.func's transforms, and not where
cuDNN would refuse the backward. With auto it does where no code that is compiled of the equations can run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.utils.rnn import PackedSequence

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.cells.elman import elman, elman_relu
from gatefuse.kernels.cells.gru import gru
from gatefuse.kernels.cells.lstm import lstm
from gatefuse.kernels.drivers.vendor import double_backward
from gatefuse.kernels.plan import Plan
from gatefuse.models.execution.breaks import compiler_around
from gatefuse.models.execution.repeated import repeated
from gatefuse.models.execution.symbolic import proxy_among, recorded
from gatefuse.models.layers.arguments import REFUSALS, check_driver, check_input, check_packed, check_state, in_words
from gatefuse.models.layers.flat_weights import FlatWeights
from gatefuse.models.layers.forward_choice import ForwardChoice


class _Layer(FlatWeights, ForwardChoice):
    # a class attribute, so that an instance of torch.nn's class can become one of these
    driver = "auto"
    _state = "hx"
    proj_size: int

    def __init__(self, *args: Any, driver: str = "auto", **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.driver = check_driver(driver)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: Any = None,
        resets: Any = None,
        reset_state: Any = None,
        all_states: bool = False,
    ) -> tuple[Any, Any]:
        """As torch.nn's forward, with lengths, resets, reset_state and all_states as in Recurrent's.

        Args:
            input: (T, B, I), with batch_first (B, T, I), or one sequence (T, I); or a PackedSequence.
            hx: first states, (L * D, B, H), without a batch (L * D, H): of an LSTM a pair (h, c); zeros where None.
            lengths: (B,) integers from 0 to T; beyond a sample's end its output is zero and its states stay.
            resets: bool, of input's shape without the features; a step where it is true begins a new sequence.
            reset_state: the states that such a sequence begins with, in the form of ``hx``; zeros where None.
            all_states: whether sequences of all states of the last layer are wanted, not only of its output.

        Returns:
            The output (T, B, D * H), batch first or without a batch as the input was, packed where that was, or with
            all_states a tuple of such sequences; and the final states, in the form of ``hx``.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: the input's rank or dtype, or the shape or a value of lengths or resets, is wrong.
            RuntimeError: another shape, dtype or device is wrong, or the driver asked for can't run the call.
        """
        if isinstance(input, Proxy) or not (hx is lengths is resets is reset_state is None):
            proxy = proxy_among(input, hx, lengths, resets, reset_state)
            if proxy is not None:
                given = {"lengths": lengths, "resets": resets, "reset_state": reset_state, "all_states": all_states}
                return recorded(proxy, self, input, hx, **given)
        plain = lengths is resets is reset_state is None and not all_states
        if plain and not self.proj_size and (found := repeated(self, input, hx)) is not None:
            return found
        if not isinstance(input, (Tensor, PackedSequence)):
            raise TypeError(f"input must be a tensor or a PackedSequence. Got {type(input).__name__}.")
        if not torch.compiler.is_compiling() and compiler_around() is not None:
            given = {"lengths": lengths, "resets": resets, "reset_state": reset_state, "all_states": all_states}
            return torch.compiler.disable(_Layer.forward)(self, input, hx, **given)
        if plain and self._is_torchs(input, hx):
            if self.cell is lstm and isinstance(input, PackedSequence):
                self._check_packed(input, hx)
            try:
                output, state = super().forward(input, hx)
            except REFUSALS as error:
                raise in_words(error, lambda: self._check(input, hx)) from None
            self._differentiable_twice(input, hx, output, state)
            return output, state
        # as torch.nn does, where Recurrent gives an empty output
        if isinstance(input, Tensor) and input.dim() > 1 and self._steps(input)[0] == 0:
            raise RuntimeError("input must have at least one step. Got T = 0.")
        return self._run(input, hx, lengths, resets, reset_state, all_states)

    def plan(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: Any = None,
        resets: Any = None,
        reset_state: Any = None,
        all_states: bool = False,
    ) -> Plan:
        """Which driver would run this call, and why the others would not; ``print`` it. Arguments as forward's."""
        plain = lengths is resets is reset_state is None and not all_states
        if plain and self.proj_size and self.driver in ("auto", "vendor") and not self._by_product(input, hx):
            return Plan("vendor", "torch's own loop has projections")
        return self._explain(input, hx, lengths, resets, reset_state, all_states)

    def _check_packed(self, input: PackedSequence, hx: Any) -> None:
        """torch.nn.LSTM checks nothing of it, and reads and writes beyond the memory of weights and states."""
        # of a lower rank torch refuses them, by an error of another type
        ranks = () if hx is None else [s.dim() for s in hx if isinstance(s, Tensor)]
        self._check(input, hx if all(rank > 2 for rank in ranks) else None)

    def _check(self, input: Tensor | PackedSequence, hx: Any) -> None:
        """Check what torch's own loop is given."""
        weight: Any = self._flat_weights[0]
        if isinstance(input, PackedSequence):
            check_packed(input, self.input_size, weight)
        else:
            check_input(input, self.input_size, weight)
        if hx is not None:
            rows, H = self.num_layers * (2 if self.bidirectional else 1), self.hidden_size
            _, B = self._steps(input)
            batched = isinstance(input, PackedSequence) or input.dim() == 3
            data = input.data if isinstance(input, PackedSequence) else input
            sizes = (self.proj_size or H, H) if self.cell is lstm else ()
            check_state(self.cell, hx, (rows, B, H) if batched else (rows, H), data, self._state, sizes)

    def _differentiable_twice(self, input: Any, hx: Any, output: Any, state: Any) -> None:
        """What vendor.stack sees to, for what torch.nn's own forward has run."""
        if self.proj_size or (self.dropout and self.training and self.num_layers > 1):
            return

        def given() -> double_backward.Given:
            data, sizes = (input.data, input.batch_sizes) if isinstance(input, PackedSequence) else (input, None)
            states = () if hx is None else hx if isinstance(hx, tuple) else (hx,)
            form = self._form(batch_first=self.batch_first and sizes is None)
            weights: list[Any] = list(self._flat_weights)  # which just ran
            return double_backward.Given(self.cell, data, states, weights, form, sizes)

        data = output.data if isinstance(output, PackedSequence) else output
        double_backward.differentiable((data, *(state if isinstance(state, tuple) else (state,))), given)

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.driver == "auto" else f"{text}, driver={self.driver}"


class LSTM(_Layer, nn.LSTM):
    """torch.nn.LSTM, with the keyword ``driver`` and with ``lengths``, ``resets`` and ``all_states`` in its forward.

    The cell is ``lstm``: S. Hochreiter and J. Schmidhuber (1997), with the forget gate of F. A. Gers et al. (2000).
    Parameters of layer k, gates i, f, g, o: ``weight_ih_lk`` (4 * H, I), ``weight_hh_lk`` (4 * H, H), ``bias_ih_lk``
    and ``bias_hh_lk`` (4 * H,); in layers after the first I is D * H, and with proj_size torch.nn's shapes hold.

    Args:
        driver: who runs the time loop, as Recurrent's; all other arguments are torch.nn.LSTM's.

    Raises:
        ValueError: no driver has that name; and what torch.nn raises.
    """

    cell = lstm


class GRU(_Layer, nn.GRU):
    """torch.nn.GRU, with the keyword ``driver`` and with ``lengths``, ``resets`` and ``all_states`` in its forward.

    The cell is ``gru``, with the reset gate after the product (K. Cho et al. 2014, arXiv:1406.1078, version 1);
    ``Recurrent("gru_reset_first", ...)`` is the other. Parameters of layer k, gates r, z, n: ``weight_ih_lk``
    (3 * H, I), ``weight_hh_lk`` (3 * H, H), ``bias_ih_lk`` and ``bias_hh_lk`` (3 * H,); in layers after the first I is
    D * H.

    Args:
        driver: who runs the time loop, as Recurrent's; all other arguments are torch.nn.GRU's.

    Raises:
        ValueError: no driver has that name; and what torch.nn raises.
    """

    cell = gru


class RNN(_Layer, nn.RNN):
    """torch.nn.RNN, with the keyword ``driver`` and with ``lengths``, ``resets`` and ``all_states`` in its forward.

    The cell is ``elman`` (J. L. Elman 1990), or with nonlinearity "relu" ``elman_relu``. Parameters of layer k:
    ``weight_ih_lk`` (H, I), ``weight_hh_lk`` (H, H), ``bias_ih_lk`` and ``bias_hh_lk`` (H,); in layers after the first
    I is D * H.

    Args:
        driver: who runs the time loop, as Recurrent's; all other arguments are torch.nn.RNN's.

    Raises:
        ValueError: no driver has that name; and what torch.nn raises.
    """

    @property
    def cell(self) -> Cell:  # type: ignore[override]
        """The cell: elman, or with nonlinearity relu elman_relu."""
        return elman if self.nonlinearity == "tanh" else elman_relu
