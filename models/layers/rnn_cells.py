"""torch.nn's recurrent cells with a choice of driver: same arguments, parameters, state dicts and results.

With driver vendor torch.nn's own forward runs, and with auto where nothing faster does; not within torch.func's
transforms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.cells.elman import elman, elman_relu
from gatefuse.kernels.cells.gru import gru
from gatefuse.kernels.cells.lstm import lstm
from gatefuse.kernels.plan import Plan, explain
from gatefuse.kernels.task import Form, Request
from gatefuse.models.execution.calls import Call, Results, first_states, loop, plan_of, request_of
from gatefuse.models.execution.context import PLAN, transforming
from gatefuse.models.execution.precision import lowered
from gatefuse.models.execution.symbolic import proxy_among, recorded
from gatefuse.models.layers.arguments import REFUSALS, check_driver, check_input, check_state, in_words

# Multiplications with recurrent weights, of two samples or more, from which on a step by compiled code is faster than
# torch's, which costs the host half as much: on an AMD EPYC, one thread, torch's took 1.0 of the time at a million of
# an LSTM and 1.1 of a GRU, at twice as many 1.2 of an RNN, at 8 million 1.4 of an LSTM.
_LARGE = 1_000_000


class _Step(nn.RNNCellBase):
    cell: Cell
    driver = "auto"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        driver: str = "auto",
    ):
        super().__init__(input_size, hidden_size, bias, device=device, dtype=dtype)  # type: ignore[call-arg]
        self.driver = check_driver(driver)

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """As torch.nn's forward; with another driver than auto and vendor, that driver runs a sequence of one step.
        Within a transform of torch.func that is the eager driver.

        Args:
            input: (B, I), or (I,) without a batch.
            hx: the state before the step, (B, H) or (H,); of an LSTMCell a pair (h, c); zeros where None.

        Returns:
            The state after the step, in the form of ``hx``.

        Raises:
            TypeError: the state has the wrong form.
            ValueError: a state's rank is wrong.
            RuntimeError: a shape, dtype or device is wrong, or the driver asked for can't run the call.
        """
        if (hx is not None or isinstance(input, Proxy)) and (proxy := proxy_among(input, hx)) is not None:
            return recorded(proxy, self, input, hx)
        if self.driver in ("auto", "vendor") and not transforming() and not self._gains(input, hx):
            try:
                return super().forward(input, hx)
            except REFUSALS as error:
                raise in_words(error, lambda: self._prepare(input, hx)) from None
        call = self._prepare(input, hx)
        how = plan_of(request_of(self.cell, call), self.driver)
        _, finals = lowered(self.cell, call, lambda lower: self._one_step(how.driver, lower))
        finals = tuple([(s.squeeze(0) if call.batched else s.squeeze((0, 1))).clone() for s in finals])
        return finals if len(finals) > 1 else finals[0]

    def _gains(self, input: Any, hx: Any) -> bool:
        """Whether, on a CPU, code compiled of the equations does the same faster. What torch.nn refuses, it refuses
        itself."""
        if self.driver != "auto" or torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        if not isinstance(input, Tensor) or input.dim() not in (1, 2) or not input.is_cpu:
            return False
        B, H = input.shape[0] if input.dim() == 2 else 1, self.hidden_size
        if B < 2 or B * H * H * len(self.cell.gates) < _LARGE or torch.is_autocast_enabled("cpu"):
            return False
        count = len(self.cell.states)
        given = (hx,) if count == 1 else hx
        if hx is not None and not (isinstance(given, (tuple, list)) and len(given) == count):
            return False
        if hx is not None and not all(isinstance(s, Tensor) and s.dim() == input.dim() for s in given):
            return False
        request = (self.cell, input.device, input.dtype, 1, B, H, False, False, False, False)
        return plan_of(request, "auto").driver == "llvm"

    def _one_step(self, name: str, call: Call) -> Results:
        if name == "script" and torch.compiler.is_compiling():  # which can't look into it
            from gatefuse.models.execution import compiled

            return compiled.run(self.cell, name, call, Form(self.bias))
        return loop(self.cell, name, call, Form(self.bias))

    def plan(self, input: Tensor, hx: Any = None) -> Plan:
        """Which driver would run this call, and why the others would not; ``print`` it. Arguments as forward's."""
        call = self._prepare(input, hx)
        return PLAN if transforming() else explain(Request(*request_of(self.cell, call)), self.driver)

    def _prepare(self, input: Tensor, hx: Any) -> Call:
        weights: list[Tensor] = [self.weight_ih, self.weight_hh]
        if self.bias:
            weights += [self.bias_ih, self.bias_hh]
        check_input(input, self.input_size, weights[0], dims=(1, 2))
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
            states = check_state(self.cell, hx, (B, H) if batched else (H,), x, "hx")
            states = tuple([s.contiguous().view(1, B, H) for s in states])
        return Call(x, states, weights, None, None, None, False, 1, B, batched, given=hx is not None)

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.driver == "auto" else f"{text}, driver={self.driver}"


class LSTMCell(_Step, nn.LSTMCell):
    """torch.nn.LSTMCell, one step of the cell ``lstm``, with its arguments input_size, hidden_size, bias, device and
    dtype, and the keyword ``driver``.

    Args:
        driver: who runs the step, as Recurrent's.

    Raises:
        ValueError: no driver has that name.
    """

    cell = lstm


class GRUCell(_Step, nn.GRUCell):
    """torch.nn.GRUCell, one step of the cell ``gru``, with its arguments input_size, hidden_size, bias, device and
    dtype, and the keyword ``driver``.

    Args:
        driver: who runs the step, as Recurrent's.

    Raises:
        ValueError: no driver has that name.
    """

    cell = gru


class RNNCell(_Step, nn.RNNCell):
    """torch.nn.RNNCell, one step of the cell ``elman`` or, with nonlinearity "relu", ``elman_relu``; with its arguments
    input_size, hidden_size, bias, nonlinearity, device and dtype, and the keyword ``driver``.

    Args:
        driver: who runs the step, as Recurrent's.

    Raises:
        ValueError: no driver has that name.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        driver: str = "auto",
    ):
        nn.RNNCell.__init__(self, input_size, hidden_size, bias, nonlinearity, device, dtype)
        self.driver = check_driver(driver)

    @property
    def cell(self) -> Cell:  # type: ignore[override]
        """The cell: elman, or with nonlinearity relu elman_relu."""
        return elman if self.nonlinearity == "tanh" else elman_relu
