"""torch.nn's layers and cells, argument by argument: what torch.nn gives, gatefuse gives, to the bit where torch's own
loop runs: by the vendor driver, and by auto for a cell's single step. test_rnn holds the plain calls.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.testing import assert_close

import gatefuse
from tests.support.layers import CLOSE, flat, gradients

T, B, I, H = 5, 3, 4, 6
LAYERS = ("LSTM", "GRU", "RNN")
CELLS = ("LSTMCell", "GRUCell", "RNNCell")
EXACT = {"rtol": 0, "atol": 0}
drivers = pytest.mark.parametrize("driver", ["auto", "vendor", "eager"])
layers = pytest.mark.parametrize("name", LAYERS)
modules = pytest.mark.parametrize("name", LAYERS + CELLS)


def pair(name, driver, **options):
    torch.manual_seed(0)
    theirs = getattr(nn, name)(I, H, **{"dtype": torch.float64, **options})
    torch.manual_seed(0)
    ours = getattr(gatefuse, name)(I, H, driver=driver, **{"dtype": torch.float64, **options})
    return theirs, ours


def how(name, driver):
    """How near results and gradients must be."""
    return EXACT if driver == "vendor" or (driver == "auto" and name in CELLS) else CLOSE


def sequence(module, **options):
    return torch.randn(*((B,) if isinstance(module, nn.RNNCellBase) else (T, B)), I, dtype=torch.float64, **options)


def state(module, *shape):
    states = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(1 + ("LSTM" in module._get_name()))
    ]
    return states, tuple(states) if len(states) > 1 else states[0]


def dense(result):
    """The result with the data of packed sequences in their place."""
    return [part.data if isinstance(part, PackedSequence) else part for part in result]


def assert_equal(ours, theirs, leaves_of_ours, leaves_of_theirs, close):
    for found in ((flat(ours), flat(theirs)), (gradients(ours, leaves_of_ours), gradients(theirs, leaves_of_theirs))):
        for a, b in zip(*found, strict=True):
            assert_close(a, b, **close)


@modules
@drivers
def test_a_seed_gives_the_same_weights_and_attributes(name, driver):
    theirs, ours = pair(name, driver)
    assert_close(ours.state_dict(), theirs.state_dict(), **EXACT)
    assert vars(ours).keys() - vars(theirs).keys() == {"driver"}
    for attribute, value in vars(theirs).items():
        if isinstance(value, (int, float, str)):
            assert getattr(ours, attribute) == value


@layers
@drivers
@pytest.mark.parametrize("enforce_sorted", [True, False])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}])
def test_packed_sequences_with_states_and_gradients(name, driver, enforce_sorted, options):
    theirs, ours = pair(name, driver, **options)
    x = torch.randn(*((B, T) if ours.batch_first else (T, B)), I, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([5, 3, 1] if enforce_sorted else [3, 1, 5])
    states, hx = state(ours, ours.num_layers * (1 + ours.bidirectional), B, H)
    for given in ((), (hx,)):
        a, b = (
            module(pack_padded_sequence(x, lengths, module.batch_first, enforce_sorted), *given)
            for module in (ours, theirs)
        )
        for field in ("batch_sizes", "sorted_indices", "unsorted_indices"):
            assert_close(getattr(a[0], field), getattr(b[0], field), **EXACT)
        leaves = [[x, *states, *module.parameters()] for module in (ours, theirs)]
        assert_equal(dense(a), dense(b), *leaves, how(name, driver))


@modules
@drivers
def test_inputs_and_states_with_gaps(name, driver):
    theirs, ours = pair(name, driver)
    wide = torch.randn(B, T, 2 * I, dtype=torch.float64).transpose(0, 1)[..., ::2]
    x = wide[0] if name in CELLS else wide
    _, hx = state(ours, *((H, B) if name in CELLS else (H, 1, B)))
    turned = [s.movedim(0, -1) for s in (hx if isinstance(hx, tuple) else (hx,))]
    hx = tuple(turned) if len(turned) > 1 else turned[0]
    assert not turned[0].is_contiguous()
    assert_equal(ours(x, hx), theirs(x, hx), list(ours.parameters()), list(theirs.parameters()), how(name, driver))


@modules
@drivers
def test_an_empty_batch(name, driver):
    theirs, ours = pair(name, driver)
    x = torch.randn(*((0,) if name in CELLS else (T, 0)), I, dtype=torch.float64, requires_grad=True)
    _, hx = state(ours, *((0, H) if name in CELLS else (1, 0, H)))
    assert_equal(ours(x), theirs(x), [x, *ours.parameters()], [x, *theirs.parameters()], EXACT)
    assert_equal(ours(x, hx), theirs(x, hx), [x], [x], EXACT)


@modules
@drivers
def test_without_bias_and_by_keywords(name, driver):
    theirs, ours = pair(name, driver, bias=False)
    x = sequence(ours)
    _, hx = state(ours, *((B, H) if name in CELLS else (1, B, H)))
    a, b = ours(input=x, hx=hx), theirs(input=x, hx=hx)
    assert_equal(a, b, list(ours.parameters()), list(theirs.parameters()), how(name, driver))


@modules
@pytest.mark.parametrize("driver", ["auto", "vendor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(name, dtype, driver):
    theirs, ours = pair(name, driver, dtype=dtype)
    x = sequence(ours).to(dtype)
    compiled = driver == "auto" and name in LAYERS
    truth = flat(copy.deepcopy(theirs).double()(x.double()))
    for a, b, exact in zip(flat(ours(x)), flat(theirs(x)), truth, strict=True):
        if compiled:  # in float32, and rounded once: no farther from float64 than torch.nn, but by that rounding
            error, allowed = ((value - exact).abs().max() for value in (a, b))
            assert a.dtype == b.dtype
            assert error <= allowed + torch.finfo(dtype).eps * exact.abs().max()
        else:
            assert_close(a, b, **EXACT)
    assert {p.dtype for p in ours.parameters()} == {dtype}
    assert {p.dtype for p in ours.double().parameters()} == {torch.float64}


@modules
@drivers
def test_on_meta(name, driver):
    theirs, ours = pair(name, driver, device="meta")
    x = sequence(ours, device="meta")
    assert {p.device.type for p in ours.parameters()} == {"meta"}
    assert [(v.shape, v.device, v.dtype) for v in flat(ours(x))] == [
        (v.shape, v.device, v.dtype) for v in flat(theirs(x))
    ]


@layers
@drivers
def test_dropout_in_training_and_not_in_evaluation(name, driver):
    theirs, ours = pair(name, driver, num_layers=2, dropout=0.5)
    x = sequence(ours)
    torch.manual_seed(1)
    a = ours(x)
    torch.manual_seed(1)
    b = theirs(x)
    assert_equal(a, b, list(ours.parameters()), list(theirs.parameters()), how(name, driver))
    assert not torch.equal(ours(x)[0], a[0])
    ours.eval(), theirs.eval()
    assert_equal(ours(x), theirs(x), list(ours.parameters()), list(theirs.parameters()), how(name, driver))


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_projections_in_every_form():
    theirs, ours = pair("LSTM", "auto", num_layers=2, bidirectional=True, proj_size=2)
    x = sequence(ours)
    assert repr(ours) == repr(theirs)
    assert_close(ours.state_dict(), theirs.state_dict(), **EXACT)
    assert_equal(ours(x), theirs(x), list(ours.parameters()), list(theirs.parameters()), EXACT)
    packed = pack_padded_sequence(x, torch.tensor([2, 5, 3]), enforce_sorted=False)
    assert_equal(dense(ours(packed)), dense(theirs(packed)), list(ours.parameters()), list(theirs.parameters()), EXACT)


@modules
@drivers
def test_a_subclass(name, driver):
    """With arguments and a forward of its own, as clients have them."""
    found = []
    for library in (nn, gatefuse):

        class Scaled(getattr(library, name)):
            def __init__(self, size, scale):
                torch.manual_seed(0)
                super().__init__(size, H, dtype=torch.float64)
                self.scale = scale

            def forward(self, x, hx=None):
                return super().forward(self.scale * x, hx)

        module = Scaled(I, 2.0)
        if library is gatefuse:
            module.driver = driver
        found.append(module)
    theirs, ours = found
    x = sequence(ours)
    assert_equal(ours(x), theirs(x), list(ours.parameters()), list(theirs.parameters()), how(name, driver))
    assert_close(flat(copy.deepcopy(ours)(x)), flat(ours(x)), **EXACT)


@modules
@pytest.mark.parametrize("driver", ["auto", "eager", "script", "aten", "llvm"])
@pytest.mark.parametrize("steps", [1, 3])
def test_results_are_fresh(name, driver, steps):
    """Changed and detached in place, without a trace in what the next call gets."""
    _, ours = pair(name, driver)
    x = sequence(ours)[:steps]
    first = ours(x)
    expected = [v.detach().clone() for v in flat(first)]
    for k, v in enumerate(flat(first)):
        v.detach_().zero_()
        for other, value in zip(flat(first)[k + 1 :], expected[k + 1 :], strict=True):
            assert torch.equal(other, value)
    for a, b in zip(flat(ours(x)), expected, strict=True):
        assert_close(a, b, **EXACT)


@layers
@drivers
def test_each_result_of_an_empty_batch_has_gradients(name, driver):
    theirs, ours = pair(name, driver)
    x = torch.randn(T, 0, I, dtype=torch.float64)
    for k in range(len(flat(ours(x)))):
        a, b = flat(ours(x))[k], flat(theirs(x))[k]
        assert_equal(a, b, list(ours.parameters()), list(theirs.parameters()), EXACT)


@pytest.mark.parametrize("driver", ["auto", "vendor"])
@pytest.mark.parametrize("name", LAYERS)
def test_dropout_of_packed_sequences(name, driver):
    theirs, ours = pair(name, driver, num_layers=2, dropout=0.5, dtype=torch.float32)
    x = pack_padded_sequence(torch.randn(T, B, I), torch.tensor([5, 5, 4]))
    results = []
    for layer in (ours, theirs):
        torch.manual_seed(1)
        results.append(dense(layer(x)))
    assert_close(*results, **EXACT)


@pytest.mark.parametrize("name", CELLS)
def test_cells_are_made_without_values_too(name):
    options = {"nonlinearity": "relu"} if name == "RNNCell" else {}
    layer = nn.utils.skip_init(getattr(gatefuse, name), I, H, driver="eager", **options)
    assert (layer.driver, layer.weight_ih.shape[1]) == ("eager", I)
    with pytest.raises(TypeError):
        getattr(gatefuse, name)(I, H, True, None, None, None, None)


@layers
@pytest.mark.parametrize("driver", ["auto", "vendor", "aten", "llvm", "eager"])
def test_another_default_device_is_nothing_to_a_layer(name, driver):
    _, ours = pair(name, driver)
    x, lengths = sequence(ours), torch.tensor([5, 2, 3])
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    calls = (lambda: ours(x), lambda: dense(ours(packed)), lambda: ours(x, lengths=[5, 0, 3]), lambda: ours(x[:1]))
    expected = [call() for call in calls]
    with torch.device("meta"):
        assert_close([call() for call in calls], expected)


def test_another_default_device_is_nothing_to_a_cell_of_one_s_own():
    with torch.device("meta"):

        @gatefuse.cell(gates="a")
        def own(x, R, h):
            return torch.tanh(x.a + R.a(h))

        layer = gatefuse.Recurrent(own, I, H, device="cpu", driver="aten")
        assert layer(torch.zeros(T, B, I, device="cpu"))[0].device.type == "cpu"
