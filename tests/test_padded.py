"""Lengths for torch's own loops without packing, against packed sequences and the eager loop."""

import pytest
import torch
from torch.testing import assert_close

import gatefuse
from gatefuse import find_cell
from gatefuse.kernels.drivers import Form, eager, padded, vendor
from tests.oracle import cast, check, make_task, results

CELLS = ["lstm", "gru", "elman", "elman_relu"]


@pytest.fixture(params=[True, False], ids=["padded", "packed"])
def way(request, monkeypatch):
    """Either way for every call."""
    monkeypatch.setattr(vendor, "_pad", lambda *_: request.param)
    return request.param


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_either_way_is_right(way, cell, bias, reverse):
    task = make_task(find_cell(cell), 6, 5, 7, bias=bias, reverse=reverse, lengths=True)
    assert 0 in task.lengths or task.lengths.min() < 6
    check(vendor, task, torch.float32)


@pytest.mark.parametrize("cell", CELLS)
def test_samples_without_steps_and_no_full_one(way, cell):
    task = cast(make_task(find_cell(cell), 6, 3, 4), torch.float64)
    for lengths in ([0, 3, 1], [0, 0, 0], [6, 6, 6]):
        object.__setattr__(task, "lengths", torch.tensor(lengths))
        found, expected = results(vendor, task), results(eager, task)
        assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_lstm_s_cell_state_is_held_exactly(dtype):
    task = cast(make_task(find_cell("lstm"), 6, 3, 4), dtype)
    inputs = [t.detach() for t in (task.x, *task.states)]
    weights = [w.detach() * 30 for w in task.weights[:4]]  # gates far from zero
    lengths = torch.tensor([2, 6, 4])

    def run(x, lengths):
        states = [s.unsqueeze(0) for s in inputs[1:]]
        return padded.stack(find_cell("lstm"), x, states, weights, lengths, Form(bias=True))

    _, (h, c) = run(inputs[0], lengths)
    for b, length in enumerate(lengths.tolist()):
        _, (h_alone, c_alone) = run(inputs[0][:length], torch.full((3,), length))
        assert torch.equal(h[:, b], h_alone[:, b])
        assert torch.equal(c[:, b], c_alone[:, b])


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_what_lies_in_the_padding_reaches_nothing(way, cell):
    task = cast(make_task(find_cell(cell), 5, 2, 3), torch.float64)
    object.__setattr__(task, "lengths", torch.tensor([2, 5]))
    expected = results(vendor, task)
    task.x.data[2:, 0] = torch.nan
    found = results(vendor, task)
    assert_close(found, expected)


@pytest.mark.parametrize(
    ("cell", "lengths", "H", "grad", "pads"),
    [
        ("lstm", [9, 9, 5], 4, False, True), ("lstm", [9, 1, 2], 4, True, False), ("lstm", [3, 3, 2], 4, True, True),
        ("gru", [9, 9, 5], 4, True, True), ("gru", [9, 9, 9], 4, False, False), ("gru", [9, 5, 4], 4, True, False),
        ("gru", [9, 9, 9], 700, True, False),
    ],
)  # fmt: skip
def test_padding_is_picked_where_it_pays(cell, lengths, H, grad, pads):
    with torch.set_grad_enabled(grad):
        full = sum(lengths) / (max(lengths) * 3)
        assert vendor._pad(find_cell(cell), torch.float32, full, 3 * H) is pads


def test_an_lstm_in_float64_pads_as_other_cells_do():
    assert vendor._pad(find_cell("lstm"), torch.float64, 1.0, 12)
    assert not vendor._pad(find_cell("lstm"), torch.float64, 0.66, 12)


def test_packed_lstms_run_padded_too(monkeypatch):
    seen = []
    run = padded.packed
    monkeypatch.setattr(padded, "packed", lambda *args: seen.append(1) or run(*args))
    theirs = torch.nn.LSTM(4, 5, 2, bidirectional=True)
    ours = gatefuse.LSTM(4, 5, 2, bidirectional=True)
    ours.load_state_dict(theirs.state_dict())
    x = torch.nn.utils.rnn.pack_padded_sequence(torch.randn(7, 3, 4), torch.tensor([4, 7, 6]), enforce_sorted=False)
    (a, states), (b, expected) = ours(x), theirs(x)
    assert_close((a.data, states), (b.data, expected))
    assert seen == [1]


def test_full_samples_take_the_loop_as_it_is(monkeypatch):
    monkeypatch.setattr(vendor, "_pad", lambda *_: pytest.fail("nothing is to be padded or packed."))
    task = make_task(find_cell("lstm"), 4, 3, 5)
    object.__setattr__(task, "lengths", torch.full((3,), 4))
    check(vendor, task, torch.float32)
