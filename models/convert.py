"""Conversion of the scratch networks' weights to and from a torch.nn layer's: the same function with other shapes.

A layer has two biases where a scratch network has one. Their sum is all that these cells see, also gru_reset_first,
whose b_hh is added after the product; so loading adds them, and exporting puts the sum into bias_ih_l0 and zeros into
bias_hh_l0. One exception: the article's peephole (FusedLSTM with peephole=True) keeps its candidate g apart from the
recurrent product, so g's part of bias_hh_l0 is left out when loading. Its rows of weight_hh_l0 have no effect on either
side and are carried as they are. Output layers are no part of a layer and stay untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor

from gatefuse.models.layers.arguments import path_of
from gatefuse.models.scratch import D2LGRU, D2LLSTM, FusedLSTM, NaiveLSTM, Three

WEIGHTS = ("weight_ih_l0", "weight_hh_l0")
BIASES = ("bias_ih_l0", "bias_hh_l0")
ScratchNetwork = NaiveLSTM | FusedLSTM | D2LLSTM | D2LGRU


def to_layer_state(network: ScratchNetwork) -> dict[str, Tensor]:
    """Copies of the network's weights by a layer's names; G gates i, f, g, o or r, z, n.

    Args:
        network: one from scratch, of I inputs and H units.

    Returns:
        weight_ih_l0 (G * H, I), weight_hh_l0 (G * H, H), bias_ih_l0 (G * H,), bias_hh_l0 (G * H,) of zeros.

    Raises:
        TypeError: it is another network, of whose parameters nobody knows which is which.
    """
    inputs, recurrents, biases = zip(*_gate_parts(network), strict=True)
    bias = torch.cat([b.detach() for b in biases])
    return {
        "weight_ih_l0": torch.cat([w.detach().T for w in inputs]),
        "weight_hh_l0": torch.cat([w.detach().T for w in recurrents]),
        "bias_ih_l0": bias,
        "bias_hh_l0": torch.zeros_like(bias),
    }


def load_layer_state(network: ScratchNetwork, state: Mapping[str, Tensor]) -> None:
    """Write a layer's weights into the network, in the network's dtype and on its device.

    Args:
        network: one from scratch, of I inputs and H units.
        state: one layer, one direction, with the names and shapes that to_layer_state returns; the state_dict of a
            torch.nn.LSTM is one. Both biases may be missing, as in a layer without bias: then they are zeros.

    Raises:
        TypeError: the network is another, of whose parameters nobody knows which is which.
        ValueError: a name is missing or unknown, or a shape is not the network's. The network is then unchanged.
    """
    parts = _gate_parts(network)
    G, (I, H) = len(parts), parts[0][0].shape
    shapes = {"weight_ih_l0": (G * H, I), "weight_hh_l0": (G * H, H), "bias_ih_l0": (G * H,), "bias_hh_l0": (G * H,)}
    if set(state) not in ({*WEIGHTS}, {*WEIGHTS, *BIASES}):
        raise ValueError(
            f"state must hold {' and '.join(WEIGHTS)}, with both {' and '.join(BIASES)} or with neither. "
            f"Got {', '.join(sorted(state)) or 'none'}."
        )
    for name, value in state.items():
        if tuple(value.shape) != shapes[name]:
            raise ValueError(f"{name} must have shape {shapes[name]}. Got {tuple(value.shape)}.")

    zeros = torch.zeros(G * H, device="cpu")
    columns = zip(
        parts,
        state["weight_ih_l0"].chunk(G),
        state["weight_hh_l0"].chunk(G),
        state.get("bias_ih_l0", zeros).chunk(G),
        state.get("bias_hh_l0", zeros).chunk(G),
        strict=True,
    )
    apart = 2 if isinstance(network, FusedLSTM) and network.peephole else None
    with torch.no_grad():
        for k, ((W, U, b), W_ih, W_hh, b_ih, b_hh) in enumerate(columns):
            W.copy_(W_ih.T)
            U.copy_(W_hh.T)
            b.copy_(b_ih if k == apart else b_ih + b_hh)


def _gate_parts(network: ScratchNetwork) -> list[Three]:
    if not isinstance(network, ScratchNetwork):
        names = ", ".join(kind.__name__ for kind in get_args(ScratchNetwork))
        raise TypeError(f"network must be one of gatefuse.models.scratch: {names}. Got {path_of(type(network))}.")
    return network.gate_parts()
