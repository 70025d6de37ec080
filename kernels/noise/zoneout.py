"""Zoneout: in training, units keep their old state at random.

Source: D. Krueger et al., Zoneout: Regularizing RNNs by Randomly Preserving Hidden Activations (2017,
arXiv:1606.01305).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, where

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.cells import find_cell
from gatefuse.kernels.equations.sizes import HIDDEN
from gatefuse.kernels.noise.noisy_cell import Noise, NoisyCell, checked_probability


def zoneout(cell: str | Cell, /, **probabilities: float) -> Cell:
    """The cell, whose states are kept at random in training: ``zoneout("lstm", h=0.05, c=0.5)``.

    In training each unit of each sample keeps the state that it had with the given probability p, drawn anew in each
    step, layer and direction; what other states are made of is the new one all the same, as in the paper. In eval mode
    a state is what is expected of it, p times the old one and 1 - p times the new. Parameters are the cell's own. A
    layer draws from torch's generator of its device, so that ``torch.manual_seed`` repeats it, by every driver alike.

    Args:
        cell: a cell, or the name of one that gatefuse ships.
        probabilities: by the names of states, from 0 on and below 1.

    Returns:
        A cell named ``zoneout_`` and the cell's name.

    Raises:
        TypeError: a probability is no number; or what find_cell raises.
        ValueError: a probability is out of its range, or the cell has no such state, or one that is kept already; there
            is none; or what find_cell raises.
    """
    return zoned_out(probabilities, find_cell(cell))


def zoned_out(probabilities: Mapping[str, float], cell: Cell) -> Cell:
    """As zoneout."""
    name = cell.name
    if not probabilities:
        raise ValueError(
            f"zoneout must be given a probability of a state of {name} ({', '.join(cell.states)}). Got none."
        )
    for state, p in probabilities.items():
        if state not in cell.states:
            raise ValueError(f"zoneout must be given states of {name} ({', '.join(cell.states)}). Got {state}.")
        if any(noise.name == f"zoneout_{state}" for noise in cell.noise):
            raise ValueError(f"zoneout must act on each state once. Got {state} of {name} again.")
        checked_probability(f"zoneout of {state}", p)
    sizes = cell.size_of
    noise = tuple(
        [
            Noise(f"zoneout_{state}", float(p), 1.0, True, sizes.get(state, HIDDEN))
            for state, p in probabilities.items()
            if p
        ]
    )
    return NoisyCell("zoneout", cell, noise, _change(cell, probabilities), (zoned_out, (dict(probabilities),)))


def _change(cell: Cell, probabilities: Mapping[str, float]) -> Callable[[Callable[..., Any], bool], Callable[..., Any]]:
    # by state, the input's name and the probability; what equations must not return is left to the checks of any cell
    kept = tuple([(f"zoneout_{state}", float(probabilities.get(state, 0.0))) for state in cell.states])

    def change(equations: Callable[..., Any], training: bool) -> Callable[..., Any]:
        def zoned(x, R, *states, **named):
            new = equations(x, R, *states, **named)
            if not isinstance(new, (tuple, Tensor)):
                return new
            found = list(new) if isinstance(new, tuple) else [new]
            for k, (name, p) in enumerate(kept):
                if p and k < len(found):
                    old, now = states[k], found[k]
                    found[k] = where(x._beside[name] > 0.5, old, now) if training else p * old + (1 - p) * now
            return tuple(found) if isinstance(new, tuple) else found[0]

        return zoned

    return change
