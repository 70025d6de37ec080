"""Lengths, resets and sequences of all states: against packed sequences, segments run one by one, the eager loop."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.testing import assert_close

from gatefuse import Recurrent, cell_names, find_cell
from gatefuse.kernels.drivers import driver
from gatefuse.kernels.task import Request
from gatefuse.kernels.tolerance import allowed
from tests.support.layers import CLOSE, EXACT, B, H, I, T, assert_same, beside, flat, form, gradients, inputs, pair
from tests.support.oracle import errors


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("driver_name", EXACT)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_lengths_are_packed_sequences(cell, driver_name, bidirectional, batch_first):
    theirs, ours = pair(cell, driver_name, num_layers=2, bidirectional=bidirectional, batch_first=batch_first)
    x, states = inputs(ours)
    lengths = torch.tensor([3, T - 1, 1, 4])
    packed = pack_padded_sequence(x, lengths, batch_first, enforce_sorted=False)
    output, state = theirs(packed, form(states))
    padded, _ = pad_packed_sequence(output, batch_first, total_length=T)
    ours_leaves, theirs_leaves = [x, *states, *ours.parameters()], [x, *states, *theirs.parameters()]
    assert_same(ours(x, form(states), lengths=lengths), (padded, state), ours_leaves, theirs_leaves)
    assert_close(ours(x, form(states), lengths=lengths.tolist())[0], padded, **CLOSE)

    result, final = ours(packed, form(states))
    assert_close(result.data, output.data, **CLOSE)
    for name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        assert torch.equal(getattr(result, name), getattr(output, name))
    for a, b in zip(flat((x, final))[1:], flat((x, state))[1:], strict=True):
        assert_close(a, b, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.int64])
def test_lengths_of_any_integer_dtype_and_zero(dtype):
    for name in EXACT:
        layer = Recurrent("lstm", I, H, driver=name)
        x = torch.randn(T, B, I)
        output, (h, _) = layer(x, lengths=torch.tensor([0, 2, T, 0], dtype=dtype))
        assert not output[:, 0].any()
        assert not h[0, 3].any()
        assert_close(output[:2, 1], layer(x[:2, 1])[0])


FORMS = {
    "list": list,
    "tuple": tuple,
    "array": np.array,
    "list of numpy's": lambda n: list(np.array(n)),
    "list of tensors": lambda n: list(torch.tensor(n)),
    "uint16": partial(torch.tensor, dtype=torch.uint16),
}


@pytest.mark.parametrize("build", FORMS.values(), ids=FORMS)
def test_lengths_of_any_form(build):
    layer, x, lengths = Recurrent("lstm", I, H), torch.randn(5, 4, I), [0, 2, 5, 0]
    assert_close(layer(x, lengths=build(lengths)), layer(x, lengths=torch.tensor(lengths)))


@pytest.mark.parametrize("order", ["sorted", "unsorted"])
def test_a_packed_sequence_comes_back_packed_alike(order):
    layer = Recurrent("peephole_lstm", I, H, dtype=torch.float64)
    lengths = torch.tensor([5, 4, 4, 1] if order == "sorted" else [4, 1, 5, 4])
    x = torch.randn(5, B, I, dtype=torch.float64)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=order == "sorted")
    result, _ = layer(packed)
    assert (result.sorted_indices is None) == (order == "sorted")
    assert_close(pad_packed_sequence(result)[0], layer(x, lengths=lengths)[0], **CLOSE)
    (h, c), _ = layer(packed, all_states=True)
    assert_close(h.data, result.data, **CLOSE)
    assert c.data.shape == h.data.shape


@pytest.mark.parametrize("cell", ["lstm", "gru", "peephole_lstm", "slstm"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("driver_name", ["auto", "eager", "script", "aten", "llvm"])
def test_resets_run_the_segments_one_by_one(cell, driver_name, bidirectional):
    layer = Recurrent(cell, I, H, bidirectional=bidirectional, driver=driver_name, dtype=torch.float64)
    x = torch.randn(T, 1, I, dtype=torch.float64, requires_grad=True)
    state = form([torch.rand(1 + bidirectional, 1, H, dtype=torch.float64) for _ in layer.cell.states])
    resets = torch.zeros(T, 1, dtype=torch.bool)
    resets[[2, 3]] = True
    output, final = layer(x, state, resets=resets)

    # a direction's first state belongs to the segment that it begins with, its final one to that where it ends
    first, middle, last = layer(x[:2], state), layer(x[2:3]), layer(x[3:], state)
    fresh_first, fresh_last = layer(x[:2]), layer(x[3:])
    if bidirectional:
        outputs = torch.cat(
            [
                torch.cat([first[0][..., :H], middle[0][..., :H], fresh_last[0][..., :H]]),
                torch.cat([fresh_first[0][..., H:], middle[0][..., H:], last[0][..., H:]]),
            ],
            -1,
        )
        ends = [torch.stack([b[0], a[1]]) for a, b in zip(flat(fresh_first)[1:], flat(fresh_last)[1:], strict=True)]
    else:
        outputs = torch.cat([first[0], middle[0], fresh_last[0]])
        ends = flat(fresh_last)[1:]
    leaves = [x, *layer.parameters()]
    assert_same((output, final), (outputs, form(ends)), leaves, leaves)


def test_resets_batch_first_and_without_a_batch():
    layer = Recurrent("gru", I, H, batch_first=True, dtype=torch.float64)
    x = torch.randn(B, T, I, dtype=torch.float64)
    resets = torch.rand(B, T) < 0.4
    output, _ = layer(x, resets=resets)
    for b in range(B):
        assert_close(layer(x[b], resets=resets[b])[0], output[b], **CLOSE)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("cell", cell_names())
@pytest.mark.parametrize("driver_name", ["auto", "script", "aten", "llvm"])
def test_all_states_are_the_eager_loops(cell, driver_name, batch_first):
    options = {"num_layers": 2, "bidirectional": True, "batch_first": batch_first, "dtype": torch.float64}
    ours, oracle = (
        Recurrent(cell, I, H, driver=driver_name, **options),
        Recurrent(cell, I, H, driver="eager", **options),
    )
    ours.load_state_dict(oracle.state_dict())
    x, _ = inputs(ours)
    given = {"lengths": torch.tensor([T, 0, 2, 3]), **beside(cell, *x.shape[:2], dtype=torch.float64)}
    got, expected = ours(x, **given, all_states=True), oracle(x, **given, all_states=True)
    assert len(got[0]) == len(ours.cell.states)
    assert_same(got, expected, [x, *ours.parameters()], [x, *oracle.parameters()])
    assert_close(got[0][0], oracle(x, **given)[0], **CLOSE)
    forward_end = got[0][-1][..., :H].transpose(0, 1) if not batch_first else got[0][-1][..., :H]
    final = got[1][-1] if isinstance(got[1], tuple) else got[1]
    assert_close(forward_end[0, T - 1], final[2, 0], **CLOSE)


@pytest.mark.parametrize("cell", ["lstm", "peephole_lstm"])
def test_the_step_driver_by_its_rule(cell):
    name = "step"
    if why := driver(name).refusal(Request(find_cell(cell), torch.device("cpu"), torch.float32, T, B, H)):
        pytest.skip(why)
    options = {"num_layers": 2, "bidirectional": True}
    found = []
    torch.manual_seed(0)
    weights = Recurrent(cell, I, H, **options).state_dict()
    x = torch.randn(T, B, I)
    for driver_name, dtype in ((name, torch.float32), ("eager", torch.float32), ("eager", torch.float64)):
        layer = Recurrent(cell, I, H, driver=driver_name, dtype=dtype, **options)
        layer.load_state_dict(weights)
        leaf = x.to(dtype).requires_grad_()
        result = layer(leaf, lengths=[T, 3, 0, 1])
        values = [*flat(result), *gradients(result, [leaf, *layer.parameters()])]
        found.append({str(k): value.detach().double() for k, value in enumerate(values)})
    got, plain, reference = found
    most = allowed(max(errors(plain, reference).values()), torch.finfo(torch.float32).eps)
    assert max(errors(got, reference).values()) <= most


@pytest.mark.parametrize("driver_name", ["eager", "script", "aten", "llvm"])
@pytest.mark.parametrize("cell", ["lstm", "gru_reset_first"])
def test_resets_to_given_states_are_segments_that_begin_with_them(cell, driver_name):
    layer = Recurrent(cell, I, H, num_layers=2, driver=driver_name, dtype=torch.float64)
    x, states = inputs(layer)
    _, fresh = inputs(layer)
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[3] = True
    leaves = [x, *fresh, *layer.parameters()]
    got, final = layer(x, form(states), resets=resets, reset_state=form(fresh))
    first, _ = layer(x[:3], form(states))
    second, end = layer(x[3:], form(fresh))
    assert_same((got, final), (torch.cat([first, second]), end), leaves, leaves)
