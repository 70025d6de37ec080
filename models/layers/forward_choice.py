"""Who runs a call of one of torch.nn's layers: torch.nn's own forward, or gatefuse's way."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from gatefuse.kernels.cells.lstm import lstm
from gatefuse.kernels.drivers import vendor
from gatefuse.kernels.drivers.vendor import torch_rnn
from gatefuse.kernels.plan import Plan
from gatefuse.models.execution.calls import plan_of
from gatefuse.models.execution.context import autocast_on, transforming
from gatefuse.models.execution.precision import running_dtype
from gatefuse.models.execution.projection import gains
from gatefuse.models.layers.base import Stack


class ForwardChoice(Stack):
    """A Stack that is a layer of torch.nn's too, with its attributes."""

    proj_size: int
    _flat_weights: list[Any]

    def _is_torchs(self, input: Tensor | PackedSequence, hx: Any) -> bool:
        if self.driver not in ("auto", "vendor"):
            return False
        if torch.compiler.is_compiling():  # torch's own loop would be unrolled
            return bool(self.proj_size)
        if self.proj_size:
            return not self._by_product(input, hx)
        if transforming():
            return False
        if not input.is_cuda:
            return self.driver == "vendor" or not self._gains(input, hx)
        # torch.nn tells cuDNN that nothing is trained in eval mode, and cuDNN then refuses the backward; and it hands
        # on another form of what has no batch, and of packed states, which second derivatives would not find.
        if torch.is_grad_enabled() and (not self.training or self._changes_form(input, hx)):
            return False
        return self.driver == "vendor" or not self._is_tensor(input) or self._plan_for(input).driver == "vendor"

    def _changes_form(self, input: Tensor | PackedSequence, hx: Any) -> bool:
        return hx is not None if isinstance(input, PackedSequence) else input.dim() == 2

    def _is_tensor(self, input: Tensor | PackedSequence) -> TypeGuard[Tensor]:
        """Whether the input is a tensor of a layer's form; what it isn't, torch.nn refuses."""
        return isinstance(input, Tensor) and input.dim() in (2, 3)

    def _steps(self, input: Tensor | PackedSequence) -> tuple[int, int]:
        """T and B."""
        if isinstance(input, PackedSequence):
            return len(input.batch_sizes), int(input.batch_sizes[0])
        a, b = (*input.shape[:-1], 1)[:2]
        return (b, a) if self.batch_first and input.dim() == 3 else (a, b)

    def _plan_for(self, input: Tensor | PackedSequence) -> Plan:
        T, B = self._steps(input)
        data = input.data if isinstance(input, PackedSequence) else input
        grad, dtype = torch.is_grad_enabled(), running_dtype(self.cell, data)
        request = (self.cell, data.device, dtype, T, B, self.hidden_size, grad, False, False, False)
        return plan_of(request, "auto")

    def _gains(self, input: Tensor | PackedSequence, hx: Any) -> bool:
        """Whether, on a CPU, another of torch's functions than torch.nn's forward takes does the same faster.

        A trace keeps one function for whatever comes; of torch's own, autocast knows only those of torch.nn's forward.
        What torch.nn refuses, it refuses itself.
        """
        if torch.jit.is_tracing() or not self._formed(input, hx):
            return False
        if isinstance(input, PackedSequence):
            # between layers torch drops packed elements, and the same for a seed; an LSTM autocast leaves in float32
            drops = self.dropout and self.training and self.num_layers > 1
            if drops or (self.cell is lstm and autocast_on(input.data.device)):
                return False
        if self._compiled(input):
            return True
        if torch.is_autocast_enabled("cpu"):
            return False
        if isinstance(input, PackedSequence):
            return vendor.unpacks(self.cell, *input[:2], self.hidden_size)
        if self.cell is not lstm or not self._is_tensor(input):
            return False
        T, B = self._steps(input)
        return T == 1 and torch_rnn.steps_alone(B)

    def _by_product(self, input: Tensor | PackedSequence, hx: Any) -> bool:
        """Whether, on a CPU, compiled code runs a projection sooner, by R's weights times the projection's."""
        if self.driver != "auto" or not self._is_tensor(input) or not input.is_cpu or autocast_on(input.device):
            return False
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or transforming():
            return False
        sooner = gains(*self._steps(input), self.hidden_size, self.proj_size)
        return sooner and self._formed(input, hx) and self._compiled(input)

    def _formed(self, input: Any, hx: Any) -> bool:
        """Whether the states, as many and of the rank that a call needs, are tensors."""
        if hx is None:
            return True
        if self.cell is not lstm:
            hx = (hx,)
        elif not isinstance(hx, (tuple, list)) or len(hx) != 2:
            return False
        rank = 3 if isinstance(input, PackedSequence) else input.dim()
        return all(isinstance(s, Tensor) and s.dim() == rank for s in hx)

    def _compiled(self, input: Tensor | PackedSequence) -> bool:
        """Whether auto has code compiled of the equations."""
        data = input.data if isinstance(input, PackedSequence) else input
        weight: Any = self._flat_weights[0]
        if not isinstance(data, Tensor) or data.dim() not in (2, 3):
            return False
        fits = data.dtype == weight.dtype or autocast_on(data.device)
        return fits and self._plan_for(input).driver == "llvm"
