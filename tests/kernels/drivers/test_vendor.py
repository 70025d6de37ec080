"""torch's own loop behind the driver contract, against the eager loop in float64."""

import warnings
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

import gatefuse
from gatefuse import find_cell
from gatefuse.kernels.drivers import eager, vendor
from gatefuse.kernels.drivers.vendor import torch_rnn
from gatefuse.kernels.task import Form, Request
from tests.support.oracle import cast, make_task, results

CELLS = ("lstm", "gru", "elman", "elman_relu")
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
LENGTHS = {
    "none": None,
    "unsorted": [2, 5, 3, 1],
    "with zeros": [0, 5, 0, 3],
    "short": [1, 0, 2, 2],
    "all zero": [0] * 4,
}


@gatefuse.cell(gates="i f g o")
def lstm(x, R, h, c):
    a = x + R(h)
    return torch.tanh(a.o) * c, torch.sigmoid(a.i) * c


def request(cell="lstm", **options):
    options = {"device": torch.device("cpu"), "dtype": torch.float32, "T": 4, "B": 3, "H": 5, **options}
    return Request(find_cell(cell), **options)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("cell", CELLS)
def test_results_and_gradients_are_the_eager_loops(cell, bias, reverse, lengths):
    lengths = None if lengths is None else torch.tensor(lengths)
    task = make_task(find_cell(cell), 5, 4, 6, bias=bias, reverse=reverse, lengths=lengths)
    task = cast(task, torch.float64)
    got, expected = results(vendor, task), results(eager, task)
    assert got.keys() == expected.keys()
    for name in expected:
        assert_close(got[name], expected[name], **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


def test_after_its_end_a_samples_output_is_zero_and_its_states_stay():
    task = make_task(find_cell("lstm"), 5, 3, 6, lengths=torch.tensor([0, 2, 3]))
    (output,), (h, c) = vendor.run(task)
    assert output.shape == (5, 3, 6)
    assert not output[:, 0].any()
    assert not output[2:, 1].any()
    assert torch.equal(h[0], task.states[0][0])
    assert torch.equal(c[0], task.states[1][0])
    assert torch.equal(h[1], output[1, 1])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("T", "B"), [(0, 3), (4, 0), (0, 0)])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("with_lengths", [False, True])
def test_nothing_to_do_gives_empty_results_and_zero_gradients(cell, T, B, reverse, with_lengths):
    lengths = torch.zeros(B, dtype=torch.int64) if with_lengths else None
    task = cast(make_task(find_cell(cell), T, B, 6, lengths=lengths, reverse=reverse), torch.float64)
    (output,), finals = vendor.run(task)
    assert output.shape == (T, B, 6)
    for first, final in zip(task.states, finals, strict=True):
        assert torch.equal(first, final)
    output.sum().backward()
    assert not task.weights.input.grad.any()


@pytest.mark.parametrize("cell", CELLS)
def test_knows_the_shipped_cells_and_not_their_namesakes(cell):
    assert vendor.refusal(request(cell)) == ""
    assert lstm.name == "lstm"
    assert (
        vendor.refusal(Request(lstm, torch.device("cpu"), torch.float32, 1, 1, 1))
        == "torch has no loop for the cell lstm"
    )


def test_refusals_say_why():
    assert vendor.refusal(request("peephole_lstm")) == "torch has no loop for the cell peephole_lstm"
    assert vendor.refusal(request(resets=True)) == "torch's own loop has no resets"
    assert vendor.refusal(request(dtype=torch.float8_e4m3fn)) == "torch's own loop has no float8_e4m3fn"
    why = "torch's own loop gives the sequence of the output alone, not of all states"
    assert vendor.refusal(request(all_states=True)) == why
    assert vendor.refusal(request("gru", all_states=True)) == ""


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_every_dtype_that_it_does_not_refuse_runs(cell, dtype):
    assert vendor.refusal(request(cell, dtype=dtype)) == ""
    found = results(vendor, cast(make_task(find_cell(cell), 3, 2, 4), dtype))
    assert all(value.isfinite().all() for value in found.values())
    (output,), _ = vendor.run(cast(make_task(find_cell(cell), 3, 2, 4), dtype))
    assert output.dtype == dtype


@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
@pytest.mark.parametrize("lengths", [None, [3, 0, 5]], ids=["full", "lengths"])
def test_a_stack_is_torchs_layer(batch_first, lengths):
    layer = torch.nn.LSTM(4, 6, 2, bidirectional=True, batch_first=batch_first, dtype=torch.float64)
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    states = torch.randn(2, 4, 3, 6, dtype=torch.float64)
    with torch.no_grad():
        output, finals = vendor.stack(
            find_cell("lstm"),
            x.transpose(0, 1) if batch_first else x,
            states.unbind(),
            list(layer.parameters()),
            Form(True, 2, True, batch_first=batch_first),
            None if lengths is None else torch.tensor(lengths),
        )
        if batch_first:
            output = output.transpose(0, 1)
        for b, length in enumerate(lengths or [5] * 3):
            assert not output[length:, b].any()
            if length == 0:
                assert torch.equal(finals[0][:, b], states[0, :, b])
                continue
            expected, (h, c) = layer(x[:length, b], (states[0, :, b].contiguous(), states[1, :, b].contiguous()))
            assert_close(output[:length, b], expected, **CLOSE)
            assert_close(finals[0][:, b], h, **CLOSE)
            assert_close(finals[1][:, b], c, **CLOSE)


@pytest.mark.gpu
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("move", ["made", "moved", "copied"])
def test_weights_lie_as_cudnn_wants_them(cell, move):
    import copy

    layer = gatefuse.Recurrent(cell, 4, 6, 2, bidirectional=True, device="cpu" if move == "moved" else "cuda")
    layer = copy.deepcopy(layer.cuda()) if move == "copied" else layer.cuda()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output, _ = layer(torch.randn(5, 3, 4, device="cuda"))
    output.sum().backward()


@pytest.mark.gpu
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_in_eval_mode(cell):
    layer = gatefuse.Recurrent(cell, 4, 6, device="cuda").eval()
    x = torch.randn(5, 3, 4, device="cuda", requires_grad=True)
    layer(x)[0].sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:RNN module weights")  # they are tensors of their own here, and none of a layer's
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
def test_on_a_gpu_it_agrees_in_float64(cell, reverse):
    task = cast(make_task(find_cell(cell), 5, 4, 6, reverse=reverse, lengths=True), torch.float64, "cuda")
    got, expected = results(vendor, task), results(eager, task)
    for name in expected:
        assert_close(got[name], expected[name], **CLOSE)


@pytest.mark.parametrize("bias", [False, True])
def test_weights_come_together_for_cudnn(bias):
    """All matrices, then all biases, in one block; those that are so stay, and one layer's of them don't."""
    layer = torch.nn.GRU(4, 6, 2, bias=bias, bidirectional=True, dtype=torch.float64)
    weights, each = list(layer.parameters()), 4 if bias else 2
    found = torch_rnn.together(weights, each)
    assert_close(list(found), weights)
    order = [w for k, w in enumerate(found) if k % each < 2] + [w for k, w in enumerate(found) if k % each >= 2]
    assert all(a.data_ptr() + a.nbytes == b.data_ptr() for a, b in pairwise(order))
    assert torch_rnn.together(found, each) is found
    part = found[-each:]
    alone = torch_rnn.together(part, each)
    assert alone is not part
    assert_close(list(alone), list(part))
    sum(w.square().sum() for w in (*found, *alone)).backward()
    assert_close([w.grad for w in weights], [(4 if k >= 3 * each else 2) * w.detach() for k, w in enumerate(weights)])


@pytest.mark.gpu
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_cudnn_has_nothing_to_say_of_weights(cell, autocast):
    layer = gatefuse.Recurrent(cell, 8, 16, 2, bidirectional=True, driver="vendor", device="cuda")
    x = torch.randn(5, 4, 8, device="cuda")
    with warnings.catch_warnings(), torch.autocast("cuda", torch.float16, enabled=autocast):
        warnings.simplefilter("error")
        for lengths in (None, [5, 2, 3, 1]):
            output, _ = layer(x, lengths=lengths)
            assert output.dtype == (torch.float16 if autocast else torch.float32)
            output.sum().backward()
