"""Any loop's backward may follow any other's forward: what is kept has one meaning and one order."""

from itertools import product

import pytest
import torch
from torch.testing import assert_close

from gatefuse import find_cell
from gatefuse.kernels.loops.operator import backward, forward
from gatefuse.kernels.loops.registry import LOOPS
from tests.kernels.loops.test_operator import arguments
from tests.support import made_up_cells

SHIPPED = ("lstm", "gru", "gru_reset_first", "peephole_lstm")
CELLS = (*map(find_cell, SHIPPED), made_up_cells.two_vectors, made_up_cells.warm_start, made_up_cells.attending)


@pytest.mark.slow
@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_gradients_are_the_same(cell, masks):
    *tensors, key, _, order, save, all_states = arguments(cell, T=4, B=2, H=5, masks=masks)
    tensors = [None if t is None else t.detach() for t in tensors]
    if masks:  # beyond a sample's end nothing begins anew
        tensors[5] &= tensors[7]
    kept = {loop: forward(*tensors, key, loop, order, save, all_states) for loop in LOOPS}
    d = [torch.randn_like(t) for t in kept["aten"][:3]]
    expected = backward(*tensors, *kept["aten"], *d, key, "aten", order)
    for before, after in product(LOOPS, LOOPS):
        found = backward(*tensors, *kept[before], *d, key, after, order)
        names = "x", "states", "weight", "bias", "parameters", "fresh"
        for name, a, b in zip(names, found, expected, strict=False):
            assert_close(a, b, rtol=1e-4, atol=1e-4, msg=f"{before}, then {after}: {name}")
