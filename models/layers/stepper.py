"""Stepper: a layer that runs one step at a time, for streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gatefuse.kernels.drivers import driver
from gatefuse.kernels.drivers.half_precision import HALVES
from gatefuse.kernels.spare_units import wide
from gatefuse.kernels.task import Form, Request
from gatefuse.models.layers.arguments import check_state, path_of
from gatefuse.models.layers.base import Stack
from gatefuse.models.layers.beside import check_form, check_names

State = Tensor | tuple[Tensor, ...]


class Stepper:
    """A layer's steps one by one, with its states held from one to the next: for audio frames, acting, decoding.

    On a CPU a step is one call of compiled code a layer, on weights that were laid out once and in memory that is held;
    elsewhere the layer itself runs a sequence of one step. Nothing is differentiated, and nothing dropped out. It is
    for one thread at a time.

    Args:
        layer: a Recurrent, LSTM, GRU or RNN of one direction; its weights and equations are read when the stepper is
            made, and again once weights were changed in place, as an optimizer and load_state_dict do. Of other
            changes, such as through ``.data``, ``refresh`` tells it.
        batch_size: samples B, each a stream of its own.
        state: the states to begin with, as the layer's, (L, B, H) each; the cell's own first values where None.

    Raises:
        TypeError: the layer is none of gatefuse's, or the batch size no int.
        ValueError: the layer runs in two directions or has a projection, or the batch size is below 1.
        RuntimeError: a state has another shape, dtype or device than the layer needs.
    """

    def __init__(self, layer: nn.Module, batch_size: int, state: State | None = None):
        if not isinstance(layer, Stack):
            raise TypeError(
                "layer must be a Recurrent, LSTM, GRU or RNN of gatefuse's, as accelerate makes of torch.nn's. Got "
                f"{path_of(type(layer))}."
            )
        if not isinstance(batch_size, int) or isinstance(batch_size, bool):
            raise TypeError(f"batch_size must be an int. Got {type(batch_size).__name__}.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be greater than zero. Got {batch_size}.")
        if layer.bidirectional:
            raise ValueError(
                "layer must run in one direction: a stream's last step isn't known. Got a bidirectional one."
            )
        if getattr(layer, "proj_size", 0):
            raise ValueError(f"layer must have no projection. Got proj_size {layer.proj_size}.")
        self.layer = layer
        self.batch_size = batch_size
        weight = layer._flat()[0]
        # spare units of a state of another size are held too, as compiled code has them
        shape = layer.num_layers, batch_size, self._most
        self._input_shape = torch.Size((batch_size, layer.input_size))
        self._dtype, self._device = weight.dtype, weight.device
        with torch.inference_mode(False):  # within which they could not be set afterwards
            self._states = [
                torch.full(shape, first, dtype=self._held_dtype, device=self._device) for first in layer.cell.init
            ]
        if state is not None:
            self.state = state
        self._steps = self._compiled()

    @property
    def state(self) -> State:
        """The states after the last step, in the layer's form: (L, B, H) each. They are copies; set it to go on from
        others."""
        found = tuple([s.to(self._dtype, copy=True) for s in self._held()])
        return found if len(found) > 1 else found[0]

    @state.setter
    def state(self, state: State) -> None:
        for own, new in zip(self._states, self._checked(state), strict=True):
            own.copy_(new.detach())

    @property
    def _most(self) -> int:
        """Units that each state is held with."""
        return self.layer.hidden_size if self.layer._sized is None else self.layer._sized.most

    def _held(self) -> list[Tensor]:
        """The states, in the layer's form, where they are held."""
        sizes = self.layer._state_units
        return [s[..., :n] for s, n in zip(self._states, sizes, strict=True)] if sizes else self._states

    def _checked(self, state: Any) -> list[Tensor]:
        """Given states as they are held."""
        shape, layer = tuple(self._states[0].shape), self.layer
        like = torch.empty(0, dtype=self._dtype, device=self._device)
        found = check_state(layer.cell, state, shape, like, "state", layer._state_units)
        return [wide(s, self._most) for s in found]

    def step(self, x: Tensor, inputs: Mapping[str, Tensor] | None = None) -> Tensor:
        """Run one step.

        Args:
            x: (B, I).
            inputs: what the cell declares as its inputs beside the gates, by name: (B,), one number a sample, or
                (B, H), one a unit; with 1 in the place of what it is the same for.

        Returns:
            The output of the last layer, (B, H). The next step writes it anew: clone what is to be kept.

        Raises:
            TypeError: x or an input is no tensor.
            ValueError: an input is missing, unknown or of another shape.
            RuntimeError: x has another shape, dtype or device than the layer needs, or an input has others.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor. Got {type(x).__name__}.")
        if self._versions() != self._read:
            self.refresh()
        if x.shape != self._input_shape:
            raise RuntimeError(f"x must have shape {tuple(self._input_shape)}. Got {tuple(x.shape)}.")
        if x.dtype != self._dtype:
            raise RuntimeError(f"x must have the weights' dtype {self._dtype}. Got {x.dtype}.")
        if x.device != self._device:
            raise RuntimeError(f"x must be on the weights' device {self._device}. Got {x.device}.")
        cell, units = self.layer.cell, self.layer._units
        if inputs is not None or cell.inputs:
            values = zip(cell.inputs, check_names(cell, inputs), strict=True)
            inputs = {name: check_form(name, a, (self.batch_size,), units(name), x) for name, a in values}
        if self._steps is not None:
            beside = tuple(inputs.values()) if inputs else ()
            if self._dtype in HALVES:
                return self._run_code(x.float(), tuple([a.float() for a in beside])).to(self._dtype)
            return self._run_code(x, beside)
        return self._run_layer(x, inputs)

    __call__ = step

    def reset(self, mask: Tensor | None = None, state: State | None = None) -> None:
        """Begin streams anew.

        Args:
            mask: (B,) bool, true for those that begin anew; all where None.
            state: the states that they begin with, (L, B, H) each; the cell's own first values where None.

        Raises:
            TypeError: mask is no tensor of bools.
            ValueError: mask has another shape.
            RuntimeError: a state has another shape, dtype or device.
        """
        if mask is not None:
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
                raise TypeError(f"mask must be a tensor of bools. Got {got}.")
            if mask.shape != (self.batch_size,):
                raise ValueError(f"mask must have shape ({self.batch_size},). Got {tuple(mask.shape)}.")
        first: Sequence[Any] = self.layer.cell.init
        if state is not None:
            first = self._checked(state)
        with torch.no_grad():
            for own, begin in zip(self._states, first, strict=True):
                if mask is None:
                    own.copy_(begin) if isinstance(begin, Tensor) else own.fill_(begin)
                else:
                    own.copy_(torch.where(mask.to(own.device)[:, None], begin, own))

    def refresh(self) -> None:
        """Read the layer's weights anew, and its equations as they are now; states take the weights' dtype and device.
        A step does so by itself where weights were changed in place."""
        weight = self.layer._flat()[0]
        self._dtype, self._device = weight.dtype, weight.device
        with torch.inference_mode(False), torch.no_grad():
            self._states = [s.to(device=self._device, dtype=self._held_dtype) for s in self._states]
        self._steps = self._compiled()

    def _runs_code(self) -> bool:
        """Whether compiled code can run the layer's steps."""
        request = Request(self.layer.cell, self._device, self._dtype, 1, self.batch_size, self._most)
        return self.layer.driver in ("auto", "llvm") and not driver("llvm").refusal(request)

    @property
    def _held_dtype(self) -> torch.dtype:
        """The dtype in which states are held: compiled code has no 16 bits, and rounds nothing from step to step."""
        return torch.float32 if self._dtype in HALVES and self._runs_code() else self._dtype

    def _compiled(self) -> Any:
        """The layer's steps in compiled code; None where it can't run them."""
        self._watched = [p for p in self.layer.parameters() if not p.is_inference()]  # those count no changes
        self._read = self._versions()
        if not self._runs_code():
            return None
        from gatefuse.kernels.loops.llvm.layers import Steps

        layer = self.layer
        form = Form(layer.bias, layer.num_layers)
        cell, weights = layer._at_once()
        held = [w.detach().to(self._held_dtype) for w in weights]
        return Steps(cell, self._input_shape, self._states, held, form, len(cell.inputs))

    def _versions(self) -> int:
        """How often the weights were changed in place."""
        count = 0
        for parameter in self._watched:
            count += parameter._version
        return count

    def _run_code(self, x: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        if self.layer._sized is None:
            return self._steps.run(x, inputs)
        inputs = tuple([a if a.shape[-1] == 1 else wide(a, self._most) for a in inputs])
        return self._steps.run(x, inputs)[:, : self.layer._units(self.layer.cell.states[0])]

    @torch.no_grad()
    def _run_layer(self, x: Tensor, inputs: Mapping[str, Tensor] | None) -> Tensor:
        layer, training = self.layer, self.layer.training
        at = 1 if layer.batch_first else 0
        given = {"inputs": {name: a.unsqueeze(at) for name, a in inputs.items()}} if inputs else {}
        states = tuple(self._held()) if len(self._states) > 1 else self._held()[0]
        assert isinstance(layer, nn.Module)
        layer.training = False  # as nothing is dropped out; without the walk of eval()
        try:
            output, last = layer(x.unsqueeze(at), states, **given)
        finally:
            layer.training = training
        for own, new in zip(self._states, last if isinstance(last, tuple) else (last,), strict=True):
            own.copy_(wide(new, self._most))
        return output.squeeze(at)

    def __getstate__(self) -> dict[str, Any]:
        # compiled code is this process's
        return {**self.__dict__, "_steps": None, "_states": [s.clone() for s in self._states]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.refresh()

    def __repr__(self) -> str:
        how = "compiled" if self._steps is not None else "by the layer"
        return f"Stepper({self.layer}, batch_size={self.batch_size}, {how})"
