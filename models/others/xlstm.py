"""xlstm's sLSTM: the cell of its backend in plain PyTorch.

Source: M. Beck et al., xLSTM: Extended Long Short-Term Memory (2024, arXiv:2405.04517), as version 2.0.6 of the package
``xlstm`` computes it. What its layer does around the cell, a convolution and norms, stays as it is.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from gatefuse.kernels.cells.slstm import slstm
from gatefuse.models.others.counterpart import Counterpart, plain
from gatefuse.models.others.steps import run, runs

_VANILLA = "xlstm.blocks.slstm.src.vanilla.slstm"


class Steps:
    """The forward of sLSTMCell, whose time loop gatefuse runs. Arguments and results are the package's."""

    driver = "auto"

    def forward(self: Any, input: Tensor, state: Tensor | None = None, lengths: Any = None) -> tuple[Tensor, Tensor]:
        """Run the cell over a sequence of gates.

        Args:
            input: the input's product, of the form that the cell's config has.
            state: (4, B, H), before the first step; zeros where None.
            lengths: is not read, here as there.

        Returns:
            The output, of the form that the cell's config has, and the states after the last step (4, B, H).
        """
        kernel, bias = self._recurrent_kernel, self._bias
        given = (input, kernel, bias, *([] if state is None else [state]))
        if not (all(isinstance(t, Tensor) for t in given) and plain(*given) and runs(*given)) or Steps.unlike(self):
            return super().forward(input, state, lengths)  # type: ignore[misc]
        self._check_input(input)
        product = self._permute_input(input)
        states = self._get_state(product, state)
        if state is not None and not _alike(state[2]):
            return super().forward(input, state, lengths)  # type: ignore[misc]
        heads, rows, width = kernel.shape
        R = kernel.view(heads, 4, width, width).transpose(0, 1).reshape(heads * rows, width)
        output, finals = run(slstm, self.driver, product, states.unbind(), R, bias, heads=heads)
        return self._permute_output(output), torch.stack(finals)

    @staticmethod
    def unlike(layer: Any) -> str:
        """Why a layer as it is now must run the package's own loop, or ""."""
        if layer.config.function != "slstm":
            return f"its function is {layer.config.function}, and slstm alone was compared"
        vanilla = getattr(sys.modules.get(_VANILLA), "slstm_forward_pointwise", None)
        if layer.pointwise is not vanilla or (own := _OWN & vars(layer).keys()):
            return f"{'pointwise' if layer.pointwise is not vanilla else min(own)} was replaced on this very object"
        if not plain(layer._recurrent_kernel, layer._bias):
            return "its weights are no plain tensors"
        return ""


# what forward is made of there
_OWN = {"_impl", "_check_input", "_permute_input", "_get_state", "_get_final_state", "_permute_output"}


def _alike(n: Tensor) -> bool:
    """Whether all units' normalizers are positive, or all zero. Of some that are zero, the package takes the stabilizer
    of the whole batch for what it is, gatefuse of each by itself."""
    least, most = torch.aminmax(n.detach())
    return bool((least > 0) | ((least == 0) & (most == 0)))


CELL = Counterpart(
    module="xlstm.blocks.slstm.cell",
    name="sLSTMCell_vanilla",
    release="xlstm 2.0.6",
    code=(
        "sLSTMCellBase.forward",
        "sLSTMCellBase._get_final_state",
        "sLSTMCell_vanilla._impl",
        "slstm_forward",
        f"{_VANILLA}:slstm_forward_pointwise",
    ),
    digest="f5d7b1589e18711b",
    methods=Steps,
)
COUNTERPARTS = (CELL,)
# Layers that are known and stay as they are, and why.
LEFT = {
    "xlstm.blocks.slstm.cell.sLSTMCell_cuda": "its backend is cuda, the package's own kernels in dtypes of their own; "
    'with backend="vanilla" it would be changed',
}


def __getattr__(name: str) -> type[nn.Module]:
    """The counterpart by the name of the package's class, as a pickle asks for it."""
    if name == CELL.name:
        return CELL.loaded()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
