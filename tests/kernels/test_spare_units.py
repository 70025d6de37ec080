"""Spare units: copies of the last, whose columns make up the last one's."""

import pytest
import torch
from torch.testing import assert_close

from gatefuse.kernels.spare_units import shared_columns, wide, wide_rows


def test_values_are_followed_by_copies_of_the_last():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert wide(values, 4).tolist() == [[1, 2, 2, 2], [3, 4, 4, 4]]
    assert wide(values, 2) is values


def test_rows_are_copies_of_the_last_of_their_gate():
    rows = torch.arange(6.0).view(6, 1)
    assert wide_rows(rows, [3, 3], 5).flatten().tolist() == [0, 1, 2, 2, 2, 3, 4, 5, 5, 5]
    assert wide_rows(rows, [1, 5], 5).flatten().tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 4, 5]
    assert wide_rows(rows[:0], [], 5).shape == (0, 1)


@pytest.mark.parametrize("spare", range(16))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_columns_make_up_the_last_one_exactly(spare, dtype):
    torch.manual_seed(0)
    weight = torch.randn(50, 3).to(dtype).requires_grad_()
    found = shared_columns(weight, 3 + spare)
    assert found.shape == (50, 3 + spare)
    assert_close(found[:, :2], weight[:, :2], atol=0, rtol=0)
    assert_close(found[:, 2:].double().sum(1), weight[:, 2].double(), atol=0, rtol=0)
    assert (found[:, 2:].sign() == weight[:, 2:].sign()).all()  # a zero would make no number of infinity
    (gradient,) = torch.autograd.grad(found.sum(), weight)
    assert_close(gradient, torch.ones_like(gradient), atol=0, rtol=0)
