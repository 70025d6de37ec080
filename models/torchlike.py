"""torch.nn's recurrent layers and cells with a choice of driver: same arguments, parameters, state dicts and results.

With driver auto or vendor and no additions, torch.nn's own forward runs; not within torch.func's transforms, and not
where cuDNN would refuse the backward.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.cells.elman import elman, elman_relu
from gatefuse.kernels.cells.gru import gru
from gatefuse.kernels.cells.lstm import lstm
from gatefuse.kernels.drivers import Request
from gatefuse.kernels.plan import Plan, explain
from gatefuse.models.checks import check_driver, check_input, check_state
from gatefuse.models.loop import Call, loop, request_of
from gatefuse.models.stack import Stack, first_states, plan_of
from gatefuse.models.transforms import PLAN, transforming


class _Layer(Stack, nn.RNNBase):
    # a class attribute, so that an instance of torch.nn's class can become one of these
    driver = "auto"
    proj_size: int

    def __init__(self, *args: Any, driver: str = "auto", **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.driver = check_driver(driver)
        if driver not in ("auto", "vendor"):
            self._refuse_projection()

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

        Raises:
            What torch.nn and Recurrent raise, and ValueError: a projection where torch's own forward can't run.
        """
        if lengths is resets is reset_state is None and not all_states and self._is_torchs(input, hx):
            return super().forward(input, hx)
        self._refuse_projection()
        # as torch.nn does, where Recurrent gives an empty output
        if isinstance(input, Tensor) and input.dim() > 1:
            T = input.shape[1 if self.batch_first and input.dim() == 3 else 0]
            if T == 0:
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
        if self.proj_size and lengths is resets is reset_state is None and not all_states:
            return Plan("vendor", "only torch's own loop has projections")
        self._refuse_projection()
        return self._explain(input, hx, lengths, resets, reset_state, all_states)

    def _is_torchs(self, input: Tensor | PackedSequence, hx: Any) -> bool:
        if torch.compiler.is_compiling():  # torch's own loop would be unrolled
            return bool(self.proj_size)
        if self.driver not in ("auto", "vendor"):
            return False
        if self.proj_size:
            return True
        if transforming():
            return False
        if not input.is_cuda:
            if self.driver == "vendor" or not self._is_tensor(input):
                return self.driver == "vendor" or not self._misses_onednn(input, hx)
            # of the cells that torch knows, auto runs but single steps of an LSTM by another driver
            return self.cell is not lstm or self._steps(input)[0] != 1 or self._plan_for(input).driver == "vendor"
        # torch.nn tells cuDNN that nothing is trained in eval mode, and cuDNN then refuses the backward.
        if not self.training and torch.is_grad_enabled():
            return False
        return self.driver == "vendor" or not self._is_tensor(input) or self._plan_for(input).driver == "vendor"

    def _is_tensor(self, input: Tensor | PackedSequence) -> TypeGuard[Tensor]:
        """Whether the input is a tensor of a layer's form; what it isn't, torch.nn refuses."""
        return isinstance(input, Tensor) and input.dim() in (2, 3)

    def _steps(self, input: Tensor) -> tuple[int, int]:
        """T and B."""
        a, b = (*input.shape[:-1], 1)[:2]
        return (b, a) if self.batch_first and input.dim() == 3 else (a, b)

    def _plan_for(self, input: Tensor) -> Plan:
        T, B = self._steps(input)
        grad = torch.is_grad_enabled()
        request = (self.cell, input.device, input.dtype, T, B, self.hidden_size, grad, False, False, False)
        return plan_of(request, "auto")

    def _misses_onednn(self, input: Tensor | PackedSequence, hx: Any) -> bool:
        """Whether torch's own loop, because the input is packed, can't use the library that gatefuse can.

        oneDNN knows no float64. What torch.nn refuses, it refuses itself.
        """
        if self.cell is not lstm or not isinstance(input, PackedSequence) or input.data.dtype == torch.float64:
            return False
        return hx is None or (isinstance(hx, tuple) and all(isinstance(s, Tensor) and s.dim() == 3 for s in hx))

    def _refuse_projection(self) -> None:
        if self.proj_size:
            raise ValueError(
                "proj_size must be 0 unless torch's own loop runs (driver auto or vendor, without lengths, resets and "
                f"all_states). Got {self.proj_size}."
            )

    def _flat(self) -> list[Tensor]:
        return [weight for weights in self.all_weights for weight in weights]

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.driver == "auto" else f"{text}, driver={self.driver}"


class LSTM(_Layer, nn.LSTM):
    """torch.nn.LSTM, with the keyword ``driver`` and with ``lengths``, ``resets`` and ``all_states`` in its forward."""

    cell = lstm


class GRU(_Layer, nn.GRU):
    """torch.nn.GRU, with the keyword ``driver`` and with ``lengths``, ``resets`` and ``all_states`` in its forward."""

    cell = gru


class RNN(_Layer, nn.RNN):
    """torch.nn.RNN, with the keyword ``driver`` and with ``lengths``, ``resets`` and ``all_states`` in its forward."""

    @property
    def cell(self) -> Cell:  # type: ignore[override]
        """elman, or with nonlinearity relu elman_relu."""
        return elman if self.nonlinearity == "tanh" else elman_relu


class _Step(nn.RNNCellBase):
    cell: Cell
    driver = "auto"

    def __init__(self, *args: Any, driver: str = "auto", **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.driver = check_driver(driver)

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """As torch.nn's forward; with another driver than auto and vendor, that driver runs a sequence of one step.
        Within a transform of torch.func that is the eager driver.

        Raises:
            What torch.nn raises, and RuntimeError: the driver can't run the call.
        """
        if self.driver in ("auto", "vendor") and not transforming():
            return super().forward(input, hx)
        call = self._prepare(input, hx)
        how = plan_of(request_of(self.cell, call), self.driver)
        _, finals = loop(self.cell, how.driver, call, self.bias, False, 0.0, whole=False)
        finals = tuple([(s.squeeze(0) if call.batched else s.squeeze((0, 1))).clone() for s in finals])
        return finals if len(finals) > 1 else finals[0]

    def plan(self, input: Tensor, hx: Any = None) -> Plan:
        """Which driver would run this call, and why the others would not; ``print`` it. Arguments as forward's."""
        call = self._prepare(input, hx)
        return PLAN if transforming() else explain(Request(*request_of(self.cell, call)), self.driver)

    def _prepare(self, input: Tensor, hx: Any) -> Call:
        weights: list[Tensor] = [self.weight_ih, self.weight_hh]
        if self.bias:
            weights += [self.bias_ih, self.bias_hh]
        check_input(input, self.input_size, self.weight_ih, dims=(1, 2))
        batched = input.dim() == 2
        x = input[None] if batched else input[None, None]
        B, H = x.shape[1], self.hidden_size
        if hx is None:
            states = first_states(self.cell, x, 1, B, H)
        else:
            given = (hx,) if len(self.cell.states) == 1 else hx if isinstance(hx, tuple) else ()
            for state in given:
                if isinstance(state, Tensor) and state.dim() not in (1, 2):
                    raise ValueError(f"a cell's state must have the shape (H,), or (B, H). Got {tuple(state.shape)}.")
            states = check_state(self.cell, hx, (B, H) if batched else (H,), x)
            states = tuple([s.contiguous().view(1, B, H) for s in states])
        return Call(x, states, weights, None, None, None, False, 1, B, batched)

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.driver == "auto" else f"{text}, driver={self.driver}"


class LSTMCell(_Step, nn.LSTMCell):
    """torch.nn.LSTMCell, with the keyword ``driver``."""

    cell = lstm


class GRUCell(_Step, nn.GRUCell):
    """torch.nn.GRUCell, with the keyword ``driver``."""

    cell = gru


class RNNCell(_Step, nn.RNNCell):
    """torch.nn.RNNCell, with the keyword ``driver``."""

    @property
    def cell(self) -> Cell:  # type: ignore[override]
        """elman, or with nonlinearity relu elman_relu."""
        return elman if self.nonlinearity == "tanh" else elman_relu
