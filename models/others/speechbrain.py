"""speechbrain's LiGRU and SLiGRU: light gated recurrent units of speech recognizers.

Sources: M. Ravanelli et al., Light Gated Recurrent Units for Speech Recognition (2018, arXiv:1803.10225); A. Moumen and
T. Parcollet, Stabilising and Accelerating Light Gated Recurrent Units for Automatic Speech Recognition (2023,
arXiv:2302.10144); as version 1.1.2 of the package ``speechbrain`` computes them. It normalizes the input's product of
all steps before the first one, by a batch's or each step's own mean, so that of this nothing is within the loop; nor is
the drawing of dropout masks, one a sample for all steps. Both stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn, sigmoid

from gatefuse.kernels.cell import Cell, cell
from gatefuse.kernels.equations.normalization import layer_norm
from gatefuse.models.others.counterpart import Counterpart, plain, watched
from gatefuse.models.others.steps import run, runs


def _light(act: Callable[[Tensor], Tensor]) -> Cell:
    @cell(gates="a z", inputs="mask")
    def li_gru(x, R, h):
        """h' = z h + (1 - z) act(a) mask,  z = σ(z~),  gates of the input's product + R h"""
        gates = x + R(h)
        z = sigmoid(gates.z)
        return z * h + (1 - z) * (act(gates.a) * x.mask)

    return li_gru


def _stabilised(act: Callable[[Tensor], Tensor]) -> Cell:
    @cell(gates="a z", inputs="mask")
    def sli_gru(x, R, h):
        """As li_gru, with layer normalization of R h, over the two gates' units together."""
        gates = x + layer_norm(R(h))
        z = sigmoid(gates.z)
        return z * h + (1 - z) * (act(gates.a) * x.mask)

    return sli_gru


def _affine(act: Callable[[Tensor], Tensor]) -> Cell:
    @cell(gates="a z", inputs="mask")
    def sli_gru_affine(x, R, h, *, gain_a, gain_z, shift_a, shift_z):
        """As sli_gru, with a gain and a shift of what is normalized."""
        gates = x + layer_norm(R(h), (gain_a, gain_z), (shift_a, shift_z))
        z = sigmoid(gates.z)
        return z * h + (1 - z) * (act(gates.a) * x.mask)

    return sli_gru_affine


_ACTS: dict[Any, Callable[[Tensor], Tensor]] = {
    nn.ReLU: torch.relu,
    nn.Tanh: torch.tanh,
    nn.LeakyReLU: nn.functional.leaky_relu,
    torch.sin: torch.sin,
}
_CELLS = {make: {kind: make(act) for kind, act in _ACTS.items()} for make in (_light, _stabilised, _affine)}


def _kind(act: Any) -> Any:
    """What an activation is known by."""
    return type(act) if isinstance(act, nn.Module) else act


class _Steps:
    driver = "auto"
    _loop: str  # the method that runs the package's time loop

    def _steps(self: Any, w: Tensor, ht: Tensor) -> Tensor | None:
        """The hidden states (B, T, H) of the normalized product w (B, T, 2 * H) and first states ht (B, H); None where
        the package's own loop has to run, for which nothing has been drawn yet."""
        if self.unlike(self) or not (plain(w, ht) and runs(w, ht, self.u.weight)):
            return None
        # a mask of a dtype that reaches beyond w's changes that of the states
        masks = (self.drop_masks, torch.get_default_dtype()) if self.training else (self.drop_mask_te,)
        dtypes = [each if isinstance(each, torch.dtype) else each.dtype for each in masks]
        B, H = w.shape[0], self.hidden_size
        if any(torch.promote_types(dtype, w.dtype) != w.dtype for dtype in dtypes) or ht.shape != (B, H):
            return None
        if not self.training and self.drop_mask_te.numel() != 1:
            return None
        mask = self._sample_drop_mask(w).to(w.dtype)
        mask = mask.expand(1, B, H) if self.training else mask.view(1, 1, 1)
        made, parameters = self._of_loop()
        product = w.transpose(0, 1)
        output, _ = run(made, self.driver, product, (ht,), self.u.weight, parameters=parameters, inputs=(mask,))
        return output.transpose(0, 1).contiguous()

    def _of_loop(self: Any) -> tuple[Cell, tuple[Tensor, ...]]:
        """The cell and its parameters."""
        return _CELLS[_light][_kind(self.act)], ()

    @classmethod
    def unlike(cls, layer: Any) -> str:
        """Why a layer as it is now must run the package's own loop, or ""."""
        if own := sorted({cls._loop, "_sample_drop_mask"} & vars(layer).keys()):
            return f"{own[0]} was replaced on this very object"
        if type(layer.u) is not nn.Linear or layer.u.bias is not None or not plain(layer.u.weight):
            return "its u is another than a plain nn.Linear without bias"
        if watched(layer.u):
            return "its u has hooks, which would not be called in each step"
        act = layer.act
        if _kind(act) not in _ACTS or (isinstance(act, nn.LeakyReLU) and act.negative_slope != 0.01):
            return "its act is another than speechbrain makes"
        if isinstance(act, nn.Module) and watched(act):
            return "its act has hooks, which would not be called in each step"
        return ""


class LightSteps(_Steps):
    """The time loop of LiGRU_Layer."""

    _loop = "_ligru_cell"

    def _ligru_cell(self: Any, w: Tensor, ht: Tensor) -> Tensor:
        found = self._steps(w, ht)
        return super()._ligru_cell(w, ht) if found is None else found  # type: ignore[misc]


class StabilisedSteps(_Steps):
    """The time loop of SLiGRU_Layer."""

    _loop = "_sligru_cell"

    def _sligru_cell(self: Any, w: Tensor, ht: Tensor) -> Tensor:
        found = self._steps(w, ht)
        return super()._sligru_cell(w, ht) if found is None else found  # type: ignore[misc]

    def _of_loop(self: Any) -> tuple[Cell, tuple[Tensor, ...]]:
        norm, kind = self.layer_norm, _kind(self.act)
        if norm.weight is None:
            return _CELLS[_stabilised][kind], ()
        return _CELLS[_affine][kind], (*norm.weight.chunk(2), *norm.bias.chunk(2))

    @classmethod
    def unlike(cls, layer: Any) -> str:
        """Why a layer as it is now must run the package's own loop, or ""."""
        norm = layer.layer_norm
        if type(norm) is not nn.LayerNorm or norm.eps != 1e-5 or norm.normalized_shape != (2 * layer.hidden_size,):
            return "its layer_norm is another than speechbrain makes"
        if (norm.weight is None) != (norm.bias is None):
            return "its layer_norm has a weight or a bias alone"
        own = () if norm.weight is None else (norm.weight, norm.bias)
        if not plain(*own) or any(each.dtype != layer.u.weight.dtype for each in own):
            return "its layer_norm is of other tensors than its u"
        if watched(norm):
            return "its layer_norm has hooks, which would not be called in each step"
        return super().unlike(layer)


LIGHT = Counterpart(
    module="speechbrain.nnet.RNN",
    name="LiGRU_Layer",
    release="speechbrain 1.1.2",
    code=("LiGRU_Layer._ligru_cell", "LiGRU_Layer._sample_drop_mask"),
    digest="7526e3db1fb86323",
    methods=LightSteps,
)
STABILISED = Counterpart(
    module="speechbrain.nnet.RNN",
    name="SLiGRU_Layer",
    release="speechbrain 1.1.2",
    code=("SLiGRU_Layer._sligru_cell", "SLiGRU_Layer._sample_drop_mask"),
    digest="23c1b083c099a429",
    methods=StabilisedSteps,
)
COUNTERPARTS = (LIGHT, STABILISED)


def __getattr__(name: str) -> type[nn.Module]:
    """The counterpart by the name of the package's class, as a pickle asks for it."""
    for each in COUNTERPARTS:
        if name == each.name:
            return each.loaded()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
