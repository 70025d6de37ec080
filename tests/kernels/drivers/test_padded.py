"""Lengths for torch's own loops without packing, against packed sequences and the eager loop."""

from functools import partial

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence
from torch.testing import assert_close

import gatefuse
from gatefuse import Recurrent, find_cell
from gatefuse.kernels.drivers import eager, vendor
from gatefuse.kernels.drivers.vendor import dispatch, padded
from gatefuse.kernels.task import Form
from tests.support.layers import flat
from tests.support.oracle import cast, check, make_task, results

CELLS = ["lstm", "gru", "elman", "elman_relu"]


@pytest.fixture(params=[True, False], ids=["padded", "packed"])
def way(request, monkeypatch):
    """Either way for every call."""
    monkeypatch.setattr(dispatch, "_pad", lambda *_: request.param)
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
    ("cell", "full", "size", "grad", "pads"),
    [
        ("lstm", 0.2, 1024, False, True), ("lstm", 0.15, 1024, False, False), ("lstm", 0.6, 32768, False, False),
        ("lstm", 0.7, 32768, False, True), ("lstm", 0.1, 1024, True, True), ("lstm", 0.3, 8192, True, False),
        ("lstm", 0.4, 8192, True, True), ("lstm", 0.6, 32768, True, False), ("gru", 0.8, 12, True, True),
        ("gru", 1.0, 12, False, False), ("gru", 0.6, 12, True, False), ("gru", 1.0, 2100, True, False),
    ],
)  # fmt: skip
def test_padding_is_picked_where_it_pays(monkeypatch, cell, full, size, grad, pads):
    monkeypatch.setattr(dispatch, "onednn_has", lambda dtype: dtype == torch.float32)
    with torch.set_grad_enabled(grad):
        assert dispatch._pad(find_cell(cell), torch.float32, full, size) is pads


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")  # of flags
@pytest.mark.parametrize("why", ["float64", "turned off"])
def test_an_lstm_that_onednn_does_not_run_pads_as_other_cells_do(why):
    dtype = torch.float64 if why == "float64" else torch.float32
    with torch.backends.mkldnn.flags(enabled=why == "float64"):
        assert dispatch._pad(find_cell("lstm"), dtype, 1.0, 12)
        assert not dispatch._pad(find_cell("lstm"), dtype, 0.66, 12)


@pytest.mark.parametrize(
    ("steps", "H", "full", "grad", "unpacks"),
    [
        (19, 64, 0.8, False, False), (20, 64, 0.8, False, True), (20, 64, 1.0, False, False), (9, 64, 0.8, True, False),
        (10, 64, 0.8, True, True), (20, 256, 0.8, True, False), (22, 256, 0.8, True, True), (30, 64, 0.1, False, False),
    ],
)  # fmt: skip
def test_packed_rows_are_unpacked_where_it_pays(monkeypatch, steps, H, full, grad, unpacks):
    monkeypatch.setattr(dispatch, "onednn_has", lambda dtype: True)
    sizes = torch.full((steps,), 8)
    with torch.set_grad_enabled(grad):
        assert vendor.unpacks(find_cell("lstm"), torch.zeros(int(full * 8 * steps), 1), sizes, H) is unpacks


def test_packed_lstms_run_padded_too(without_llvm, monkeypatch):
    seen = []
    run = padded.packed
    monkeypatch.setattr(padded, "packed", lambda *args: seen.append(1) or run(*args))
    theirs = torch.nn.LSTM(4, 5, 2, bidirectional=True)
    ours = gatefuse.LSTM(4, 5, 2, bidirectional=True)
    ours.load_state_dict(theirs.state_dict())
    lengths = torch.tensor([24, 27, 26])
    x = torch.nn.utils.rnn.pack_padded_sequence(torch.randn(27, 3, 4), lengths, enforce_sorted=False)
    (a, states), (b, expected) = ours(x), theirs(x)
    assert_close((a.data, states), (b.data, expected))
    assert seen == [1]


def test_full_samples_take_the_loop_as_it_is(monkeypatch):
    monkeypatch.setattr(dispatch, "_pad", lambda *_: pytest.fail("nothing is to be padded or packed."))
    task = make_task(find_cell("lstm"), 4, 3, 5)
    object.__setattr__(task, "lengths", torch.full((3,), 4))
    check(vendor, task, torch.float32)


@pytest.mark.parametrize("llvm", [False, True])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("kind", [gatefuse.LSTM, gatefuse.GRU, partial(Recurrent, "gru"), partial(Recurrent, "slstm")])
def test_packed_samples_of_one_length_run_as_they_lie(kind, grad, llvm, monkeypatch, request):
    if not llvm:
        request.getfixturevalue("without_llvm")
    layer = kind(3, 4, 2, bidirectional=True, dtype=torch.float64)
    x = torch.randn(25, 3, 3, dtype=torch.float64, requires_grad=grad)
    found = []
    with torch.set_grad_enabled(grad), monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "nonzero", None)  # nobody looks for rows
        output, state = layer(pack_padded_sequence(x, torch.full((3,), 25)))
        found.append([output.data.view(25, 3, 8), *flat(state)])
        output, state = layer(x)
        found.append([output, *flat(state)])
    assert_close(*found, rtol=0, atol=1e-12)
    if grad:
        assert_close(*[torch.autograd.grad(sum(r.square().sum() for r in results), x)[0] for results in found])
