"""float16 and bfloat16 by drivers that compute in float32: what float32 gives for the same numbers, rounded once."""

import pytest
import torch
from torch.testing import assert_close

from gatefuse import LSTM, LSTMCell, Recurrent, Stepper, find_cell
from gatefuse.kernels.codegen.llvm.compiled import forward_loop
from gatefuse.kernels.drivers import eager, llvm
from gatefuse.models.layers.base import Stack
from tests.support.cells_with_inputs import aging
from tests.support.layers import beside, flat, form
from tests.support.sized_cells import CELLS, UNITS

T, B, I, H = 5, 3, 4, 6
MASKS = {"lengths": torch.tensor([5, 0, 3]), "resets": torch.arange(T * B).view(T, B) % 4 == 1}
DTYPES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
DRIVERS = pytest.mark.parametrize("driver", ["llvm", "aten"])


def run(layer, dtype, calls_dtype, masks, states):
    """Results of a call with values that dtype holds, and gradients of everything."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(T, B, I, generator=generator).to(dtype).to(calls_dtype).requires_grad_()
    rows = layer.num_layers * (1 + layer.bidirectional)
    given = [torch.rand(rows, B, H, generator=generator).to(dtype).to(calls_dtype) for _ in layer.cell.states]
    options = {"reset_state": form(given), "state": form(given[::-1])} if states else {}
    inputs = beside(layer.cell, T, B, dtype=dtype).get("inputs", {})
    options |= {"inputs": {name: a.to(calls_dtype) for name, a in inputs.items()}} if inputs else {}
    results = flat(layer(x, **masks, **options))
    probes = [torch.rand(value.shape, generator=generator).to(dtype).to(calls_dtype) for value in results]
    return results, torch.autograd.grad(results, [x, *layer.parameters()], probes)


def check(driver, dtype, cell, masks=None, states=False, **options):
    """Exactly: both are of one loop, and a leaf's gradients are added before they are rounded."""
    half, single = (Recurrent(cell, I, H, driver=driver, dtype=d, **options) for d in (dtype, torch.float32))
    single.load_state_dict(half.state_dict())
    found, expected = (
        run(layer, dtype, d, masks or {}, states) for layer, d in ((half, dtype), (single, torch.float32))
    )
    for ours, wide in zip(found, expected, strict=True):
        assert {value.dtype for value in ours} == {dtype}
        assert_close(ours, [value.to(dtype) for value in wide], rtol=0, atol=0)


@DTYPES
@DRIVERS
@pytest.mark.parametrize("cell", ["lstm", "gru", "slstm", "gru_d", "layer_norm_gru", "min_lstm"])
def test_results_and_gradients_are_float32s_rounded_once(driver, dtype, cell):
    check(driver, dtype, cell, num_layers=2, bidirectional=True)


@DTYPES
@DRIVERS
def test_with_lengths_resets_and_states(driver, dtype):
    check(driver, dtype, "peephole_lstm", MASKS, states=True, num_layers=2, bidirectional=True, bias=False)


@DTYPES
def test_with_heads_and_sizes(dtype):
    check("llvm", dtype, "slstm", heads=2, num_layers=2)
    check("llvm", dtype, CELLS["scrn"], sizes=UNITS["scrn"], num_layers=2)


@pytest.mark.parametrize("projected", [False, True])
def test_small_numbers_are_not_lost_between_layers(projected):
    """float16 has none below 6e-8, which is what the first layer hands on here."""
    options = {"proj_size": 3} if projected else {}
    layer = Recurrent("lstm", I, H, 2, driver="llvm", dtype=torch.float16, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(0.01)
        layer.weight_ih_l1.fill_(1e4)
        layer.bias_ih_l0.fill_(0)
        layer.bias_hh_l0.fill_(0)
        x = torch.full((1, 1, I), 6e-5, dtype=torch.float16)
        double = Recurrent("lstm", I, H, 2, driver="eager", dtype=torch.float64, **options)
        double.load_state_dict(layer.state_dict())
        assert_close(layer(x)[0].double(), double(x.double())[0], rtol=1e-3, atol=0)


@DTYPES
def test_training_compiled_by_torch(dtype):
    layer = Recurrent("peephole_lstm", I, H, 2, dtype=dtype)
    x = torch.randn(T, B, I).to(dtype)
    found = []
    for run_it in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        results = flat(run_it(x))
        probes = [torch.ones_like(value) for value in results]
        found.append((results, torch.autograd.grad(results, list(layer.parameters()), probes)))
    assert_close(*found, rtol=0, atol=0)


@DTYPES
def test_every_way_to_a_layer(dtype):
    """Compiled, under autocast, by a Stepper, as a cell, without a batch, and with no steps."""
    layer = Recurrent("gru_reset_first", I, H, dtype=dtype)
    x = torch.randn(T, B, I).to(dtype)
    assert layer.plan(x).driver == "llvm"
    with torch.no_grad():
        expected = layer(x)
        assert_close(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), expected)
        stepper, close = Stepper(layer, B), {torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
        assert_close(torch.stack([stepper(step) for step in x]), expected[0], rtol=close, atol=close)
        assert stepper.state.dtype == dtype
        assert_close(stepper.state, expected[1], rtol=close, atol=close)
        stepper.state = expected[1]
        assert_close(stepper.state, expected[1], rtol=0, atol=0)
        assert_close(layer(x[:, 0])[0], expected[0][:, 0])
        assert layer(x[:0])[0].shape == (0, B, H)
        single = Recurrent("gru_reset_first", I, H)
        single.load_state_dict(layer.state_dict())
        with torch.autocast("cpu", dtype):
            assert_close(single(x.float()), expected, rtol=0, atol=0)
        cell = LSTMCell(I, H, dtype=dtype, driver="llvm")
        assert {value.dtype for value in cell(x[0])} == {dtype}


def test_compiled_code_refuses_what_it_would_write_beyond():
    with pytest.raises(TypeError, match=r"^compiled code is for float32 and float64\. Got torch\.bfloat16\.$"):
        forward_loop(find_cell("lstm").current(), torch.bfloat16, 1, 8)


@pytest.mark.parametrize("options", [{"heads": 2}, {"proj_size": 3}], ids=str)
def test_plans_of_parts_say_what_runs(monkeypatch, options):
    """They compute in float32, also an LSTM that is torch's own without parts."""
    monkeypatch.setattr(llvm, "onednn_has", lambda dtype: True)
    layer, x = Recurrent("lstm", I, 512, **options), torch.randn(T, 32, I)
    ran = []
    monkeypatch.setattr(llvm, "run", lambda task: ran.append(task.x.dtype) or eager.run(task))
    for single in (True, False):
        layer = layer if single else layer.bfloat16()
        with torch.autocast("cpu", enabled=single):
            value = x if single else x.bfloat16()
            assert layer.plan(value).driver == "llvm"
            with torch.no_grad():
                layer(value, all_states=True)  # which goes from driver to driver
    assert set(ran) == {torch.float32}


REPEATED = {
    "LSTM": lambda **o: LSTM(I, H, 2, driver="llvm", **o),
    "slstm": lambda **o: Recurrent("slstm", I, H, driver="llvm", **o),
    "inputs beside the gates": lambda **o: Recurrent(aging, I, H, driver="llvm", **o),
}


def call(layer, x, inputs, state=None):
    """Of a call, and the gradients of its weights where these are wanted."""
    given = {"inputs": {name: a.to(x.dtype) for name, a in inputs.items()}} if inputs else {}
    found = flat(layer(x, state, **given))
    if not found[0].requires_grad:
        return found, []
    probes = [torch.ones_like(value) for value in found]
    return [v.detach() for v in found], list(torch.autograd.grad(found, list(layer.parameters()), probes))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("order", ["time first", "batch first", "with gaps"])
@pytest.mark.parametrize("name", REPEATED)
def test_calls_of_a_form_that_came_before(monkeypatch, name, order, grad, dtype):
    first = order == "batch first"
    half, single = (REPEATED[name](dtype=d, batch_first=first) for d in (dtype, torch.float32))
    single.load_state_dict(half.state_dict())
    lead = (B, T) if first else (T, B)
    x = torch.randn(*lead, 2 * I).to(dtype)[..., ::2] if order == "with gaps" else torch.randn(*lead, I).to(dtype)
    inputs = {name: torch.rand(lead).to(dtype) for name in half.cell.inputs}
    whole, prepare = [], Stack._prepare
    monkeypatch.setattr(Stack, "_prepare", lambda layer, *given: whole.append(layer) or prepare(layer, *given))
    with torch.set_grad_enabled(grad):
        (_, *states), _ = call(half, x, inputs)
        for state in (None, tuple(states)):
            wide = None if state is None else tuple([s.float() for s in state])
            found, expected = call(half, x, inputs, state), call(single, x.float(), inputs, wide)
            assert {value.dtype for part in found for value in part} == {dtype}
            assert_close(found, tuple([v.to(dtype) for v in part] for part in expected), rtol=0, atol=0)
    assert whole.count(half) == 1  # the first alone went the whole way
