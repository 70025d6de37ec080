"""Calls of a form that came before: they give what the first gave, and whatever changes meanwhile is seen."""

import copy
import pickle

import pytest
import torch
from torch.testing import assert_close

from gatefuse import GRU, LSTM, Recurrent, cell, find_cell
from gatefuse.kernels.drivers.llvm import refusal
from gatefuse.kernels.task import Request
from gatefuse.models.execution.repeated import repeated
from gatefuse.models.layers.base import Stack
from tests.support.cells_with_inputs import aging

_ANY = Request(LSTM(1, 1).cell, torch.device("cpu"), torch.float32, 1, 1, 1)
pytestmark = pytest.mark.skipif(bool(refusal(_ANY)), reason="no code is compiled here")


@pytest.fixture
def taken(monkeypatch):
    """How often a call went the short way, of which no form is known yet."""
    count = []
    from gatefuse.kernels.loops.llvm.layers import Prepared

    for name in ("lstm", "gru", "slstm", "peephole_lstm"):
        find_cell(name).current().made.pop(repeated, None)
    whole = Prepared.run
    monkeypatch.setattr(Prepared, "run", lambda *given: count.append(1) or whole(*given))
    return count


@pytest.fixture
def prepared(monkeypatch, taken):
    """Layers that went the whole way, in order."""
    found, whole = [], Stack._prepare
    monkeypatch.setattr(Stack, "_prepare", lambda layer, *given: found.append(layer) or whole(layer, *given))
    return found


def as_tuple(states):
    return states if isinstance(states, tuple) else (states,)


def check(layer, x, state=None):
    """A call's results are those of the equations."""
    with torch.no_grad():
        output, states = layer(x, state)
        plain = copy.deepcopy(layer)
        plain.driver = "eager"
        expected, finals = plain(x, state)
    assert_close(output, expected, atol=1e-5, rtol=1e-4)
    assert_close(as_tuple(states), as_tuple(finals), atol=1e-5, rtol=1e-4)
    return output, states


LAYERS = {
    "LSTM": lambda **o: LSTM(3, 5, 2, driver="llvm", **o),
    "GRU": lambda **o: GRU(3, 5, 1, driver="llvm", **o),
    "slstm": lambda **o: Recurrent("slstm", 3, 5, 1, driver="llvm", **o),
}


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_the_second_call_goes_the_short_way_and_gives_the_same(taken, name, batch_first, bidirectional):
    torch.manual_seed(0)
    layer = LAYERS[name](batch_first=batch_first, bidirectional=bidirectional)
    x = torch.randn(4, 2, 3)
    _, states = check(layer, x)
    assert not taken
    output, _ = check(layer, x)
    assert len(taken) == 1
    again, _ = check(layer, x, states)
    assert len(taken) == 2
    assert not again.equal(output)
    assert layer(x.transpose(0, 1).contiguous().transpose(0, 1))[0].requires_grad  # trained, it is another form
    check(layer, x.transpose(0, 1).contiguous().transpose(0, 1))  # and so in another order of memory
    assert len(taken) == 2


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_one_step_of_an_lstm_that_is_trained_goes_to_torchs_function(monkeypatch, taken, layers, batch_first):
    torch.manual_seed(0)
    H = 256  # with few samples
    layer, x = LSTM(3, H, layers, batch_first=batch_first), torch.randn(*((2, 1) if batch_first else (1, 2)), 3)
    states, prepared = (torch.randn(layers, 2, H, requires_grad=True),) * 2, []
    monkeypatch.setattr(LSTM, "_prepare", lambda *given: prepared.append(1) or Stack._prepare(*given))
    reference = copy.deepcopy(layer)
    reference.driver = "eager"

    def run(module, state):
        module.zero_grad()
        output, finals = module(x, state)
        gradients = torch.autograd.grad((output * output).sum() + finals[1].sum(), list(module.parameters()))
        return [output, *finals, *gradients]

    for k, state in enumerate((None, None, states)):
        found, expected = run(layer, state), run(reference, state)
        assert len(prepared) == 2 + k  # the first of the layer, and all of the reference
        assert_close(found, expected, atol=1e-5, rtol=1e-4)
        for value in found[:3]:
            value.detach_().add_(1)
    assert not taken


@pytest.mark.parametrize("driver", ["llvm", "step", "block", "grid"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_what_is_trained_goes_the_short_way_too(prepared, driver, batch_first):
    torch.manual_seed(0)
    layer = Recurrent("peephole_lstm", 3, 5, 2, batch_first=batch_first, driver=driver)
    reference, x = copy.deepcopy(layer), torch.randn(4, 2, 3)
    reference.driver = "eager"
    states = (torch.randn(2, 4 if batch_first else 2, 5, requires_grad=True),) * 2

    def run(module, state):
        leaf = x.clone().requires_grad_()
        output, finals = module(leaf, state)
        wanted = [leaf, *module.parameters(), *([] if state is None else states[:1])]
        gradients = torch.autograd.grad((output * output).sum() + finals[1].sum(), wanted)
        return [output, *finals, *gradients]

    for state in (None, None, states, states):
        found, expected = run(layer, state), run(reference, state)
        assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert prepared == [layer, *[reference] * 4]
    with torch.no_grad():  # another form
        assert_close(layer(x)[0], reference(x)[0], atol=1e-5, rtol=1e-4)
    assert prepared[-2] is layer


def test_gradients_that_are_wanted_of_a_form_are_part_of_it(prepared):
    layer, x = Recurrent("lstm", 3, 5, driver="llvm"), torch.randn(4, 2, 3)
    layer(x)
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    assert not layer(x)[0].requires_grad
    output, _ = layer(x, (torch.zeros(1, 2, 5, requires_grad=True),) * 2)
    assert output.requires_grad
    layer.weight_hh_l0.requires_grad_()
    layer(x)[0].sum().backward()
    assert layer.weight_hh_l0.grad is not None
    assert layer.weight_ih_l0.grad is None


def test_second_derivatives_of_the_short_way(prepared):
    layer = Recurrent("gru", 3, 5, driver="llvm", dtype=torch.float64)
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    for _ in range(2):
        (d,) = torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)
        d.square().sum().backward()
    assert len(prepared) == 1
    assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], x)


def test_inputs_beside_the_gates_are_asked_for_in_each_call():
    @cell(gates="u n", inputs="age")
    def aging(x, R, h):
        return torch.sigmoid(x.u - x.age) * h + torch.tanh(x.n + R.n(h) + R.u(h))

    layer, x = Recurrent(aging, 3, 5, driver="llvm"), torch.randn(4, 2, 3)
    with torch.no_grad():
        ages = [layer(x, inputs={"age": torch.full((4, 2), age)})[0] for age in (0.0, 0.0, 2.0)]
        assert ages[0].equal(ages[1])
        assert not ages[0].equal(ages[2])
        with pytest.raises(ValueError, match="age"):
            layer(x)


def test_a_parametrization_is_evaluated_once_a_call():
    drawn = []

    class Counted(torch.nn.Module):
        def forward(self, weight):
            drawn.append(1)
            return weight * 2

    layer, x = LSTM(3, 5, driver="llvm"), torch.randn(2, 2, 3)
    for _ in range(3):
        with torch.no_grad():
            layer(x)
    torch.nn.utils.parametrize.register_parametrization(layer, "weight_hh_l0", Counted())
    del drawn[:]
    check_output = layer(x)[0]
    assert len(drawn) == 1
    plain = LSTM(3, 5, driver="eager")
    plain.load_state_dict({name: getattr(layer, name).detach() for name in plain.state_dict()})
    assert_close(check_output, plain(x)[0], atol=1e-5, rtol=1e-4)


def test_results_are_memory_of_their_own(taken):
    layer, x = LSTM(3, 5, driver="llvm"), torch.randn(1, 2, 3)
    with torch.no_grad():
        first = [layer(x) for _ in range(3)]
        held = [output.clone() for output, _ in first]
        for output, (h, c) in first:
            output.add_(1)
            h.mul_(0)
            c.mul_(0)
        assert_close(layer(x)[0], held[0])
    assert len(taken) == 3


def test_what_changes_is_seen(taken):
    layer, x = LSTM(3, 5, driver="llvm"), torch.randn(2, 2, 3)
    check(layer, x)
    with torch.no_grad():
        layer.weight_hh_l0.mul_(0.5)  # in place
    check(layer, x)
    layer.weight_hh_l0 = torch.nn.Parameter(torch.randn(20, 5))  # another one
    check(layer, x)
    layer.load_state_dict(LSTM(3, 5).state_dict())
    check(layer, x)
    layer.weight_ih_l0.data = torch.randn(3, 20).t()  # with gaps
    check(layer, x)
    assert len(taken) == 4
    layer.driver = "eager"
    check(layer, x)
    layer.driver, layer.batch_first = "llvm", True
    check(layer, x)
    assert len(taken) == 4


def test_other_weights_are_refused_in_words():
    layer, x = LSTM(3, 5, driver="llvm"), torch.randn(2, 2, 3)
    with torch.no_grad():
        layer(x)
        layer.weight_hh_l0.data = torch.randn(20, 6)
        with pytest.raises(ValueError, match=r"weight_hh must have shape \(20, 5\)\. Got \(20, 6\)\."):
            layer(x)
        layer.weight_hh_l0.data = torch.randn(20, 5, dtype=torch.float64)
        with pytest.raises(RuntimeError, match=r"weight_hh must be torch\.float32 on cpu, as x is"):
            layer(x)


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (lambda h: h, "must be a tuple"), (lambda h: (h,), "Got 1 of 2"),
        (lambda h: (h, h[..., :4]), r"must have shape \(1, 2, 5\)"), (lambda h: (h, h.double()), "dtype torch.float32"),
        (lambda h: (h, None), "must be a tensor"),
    ],
)  # fmt: skip
def test_states_are_refused_as_in_a_first_call(state, error):
    layer, x, h = LSTM(3, 5, driver="llvm"), torch.randn(2, 2, 3), torch.zeros(1, 2, 5)
    with torch.no_grad():
        layer(x, (h, h))
        with pytest.raises((TypeError, RuntimeError), match=error):
            layer(x, state(h))


def test_inputs_are_refused_as_in_a_first_call():
    layer, x = LSTM(3, 5, driver="llvm"), torch.randn(2, 2, 3)
    with torch.no_grad():
        layer(x)
        for wrong in (x.double(), x[..., :2], x[:0], "x", None):
            with pytest.raises((TypeError, RuntimeError, ValueError)):
                layer(wrong)


def test_a_layer_of_another_dtype_is_refused_as_in_a_first_call(taken):
    x = torch.randn(2, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        check(LSTM(3, 5, driver="llvm", dtype=torch.float64), x)
        with pytest.raises(ValueError, match=r"^x must have the weights' dtype torch\.float32\. Got torch\.float64\.$"):
            LSTM(3, 5, driver="llvm")(x)
    assert not taken


def test_states_with_gaps_and_negated_ones_are_read_rightly(taken):
    layer, x = LSTM(3, 5, driver="llvm"), torch.randn(2, 2, 3)
    check(layer, x)
    wide = torch.randn(1, 2, 10)
    check(layer, x, (wide[..., ::2], wide[..., 1::2]))
    negated = torch.randn(1, 2, 5, dtype=torch.complex64).conj().imag
    assert negated.is_neg()
    check(layer, x, (negated.clone(), negated))
    check(layer, torch.randn(2, 2, 3, dtype=torch.complex64).conj().imag)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_modes_and_transforms_are_seen(taken):
    layer, x = LSTM(3, 5, driver="llvm"), torch.randn(2, 2, 3)
    check(layer, x)
    with torch.no_grad():
        expected = layer(x)[0]
        assert len(taken) == 1
        batched = torch.func.vmap(lambda one: layer(one)[0])(torch.stack([x, x]))
        assert_close(batched[1], expected, atol=1e-5, rtol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x)[0].dtype == torch.bfloat16
        assert len(taken) == 1
        with torch.autograd.forward_ad.dual_level():
            layer(torch.autograd.forward_ad.make_dual(x, x))
        assert len(taken) == 1
        assert torch.jit.trace(layer, (x,), check_trace=False)(x)[0].equal(expected)
    with torch.inference_mode():
        assert layer(x)[0].is_inference()
    with torch.no_grad():
        assert not layer(x)[0].is_inference()


def test_a_first_call_in_inference_mode_leaves_plain_states_behind(taken):
    layer, x = Recurrent("lstm", 3, 5, driver="llvm"), torch.randn(7, 2, 3)
    with torch.inference_mode():
        layer(x)
    with torch.no_grad():
        layer(x)
    assert len(taken) == 1
    output, _ = layer(x)
    output.sum().backward()


def test_threads_and_deterministic_algorithms_are_part_of_the_form(taken):
    layer, x, threads = LSTM(3, 5, driver="llvm"), torch.randn(2, 2, 3), torch.get_num_threads()
    check(layer, x)
    try:
        torch.set_num_threads(threads + 1)
        check(layer, x)
        torch.use_deterministic_algorithms(not torch.are_deterministic_algorithms_enabled())
        check(layer, x)
        assert not taken
    finally:
        torch.set_num_threads(threads)


def test_layers_that_have_been_called_are_copied_and_pickled(taken):
    layer, x = LSTM(3, 5, driver="llvm"), torch.randn(2, 2, 3)
    check(layer, x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        with torch.no_grad():
            other.weight_ih_l0.add_(1)
        check(other, x)


def test_dropout_between_layers_goes_the_whole_way(taken):
    layer, x = LSTM(3, 5, 2, dropout=0.5, driver="llvm"), torch.randn(6, 4, 3)
    with torch.no_grad():
        assert not layer(x)[0].equal(layer(x)[0])
    assert not taken
    layer.eval()
    check(layer, x)
    check(layer, x)
    assert len(taken) == 1


@pytest.mark.parametrize("layer", LAYERS)
def test_first_states_lie_where_x_does_whatever_the_default_device(taken, layer):
    layer, x = LAYERS[layer](), torch.randn(2, 2, 3)
    with torch.device("meta"):
        for _ in range(3):
            check(layer, x)
    check(layer, x)


def test_hooks_run():
    layer, x, seen = LSTM(3, 5, driver="llvm"), torch.randn(2, 2, 3), []
    layer.register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        layer(x)
        layer(x)
    assert len(seen) == 2


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_projections_go_to_torch():
    x = torch.randn(2, 2, 3)
    with torch.no_grad():
        LSTM(3, 5)(x)
        LSTM(3, 5)(x)
        assert LSTM(3, 5, proj_size=2)(x)[0].shape == (2, 2, 2)


@pytest.mark.parametrize("batch_first", [False, True])
def test_inputs_beside_the_gates_are_those_of_the_call(batch_first):
    """Also in another order, or of another shape; what is wrong is refused as the first time."""
    layer = Recurrent(aging, 3, 5, num_layers=2, bidirectional=True, batch_first=batch_first)
    oracle = copy.deepcopy(layer)
    oracle.driver = "eager"
    x, lead = torch.rand(6, 4, 3), (6, 4)
    with torch.no_grad():
        for size in (lead, (*lead, 5), (*lead, 1), (1, 4) if batch_first else (6, 1)):
            for _ in range(3):
                age, left = torch.rand(size), torch.rand(lead)
                expected = oracle(x, inputs={"age": age, "left": left})
                assert_close(layer(x, inputs={"age": age, "left": left}), expected)
                assert_close(layer(x, inputs={"left": left, "age": age}), expected)
        for wrong in (None, {"age": age}, {"age": age, "left": left.T}, {"age": age, "left": left.double()}):
            with pytest.raises((ValueError, RuntimeError), match="input"):
                layer(x, inputs=wrong)
