"""torch.func's transforms and forward-mode differentiation through layers and cells: right, whoever was to run them."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.testing import assert_close

import gatefuse
from gatefuse import Recurrent
from tests.support.layers import CLOSE, flat

N, T, B, I, H = 3, 4, 2, 2, 3
DOUBLE = {"dtype": torch.float64}
LAYERS = {
    "Recurrent": lambda **options: Recurrent("lstm", I, H, 2, bidirectional=True, **options),
    "Recurrent, a cell of ours": lambda **options: Recurrent("peephole_lstm", I, H, **options),
    "LSTM": lambda **options: gatefuse.LSTM(I, H, 2, **options),
    "GRU": lambda **options: gatefuse.GRU(I, H, batch_first=True, **options),
    "RNN": lambda **options: gatefuse.RNN(I, H, bidirectional=True, **options),
    "LSTMCell": lambda **options: gatefuse.LSTMCell(I, H, **options),
    "GRUCell": lambda **options: gatefuse.GRUCell(I, H, **options),
    "RNNCell": lambda **options: gatefuse.RNNCell(I, H, **options),
}
layers = pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)


def pair(build, driver="auto"):
    """The layer, and one with the same weights that nobody needs to protect from transforms."""
    layer, oracle = build(driver=driver, **DOUBLE), build(driver="eager", **DOUBLE)
    oracle.load_state_dict(layer.state_dict())
    return layer, oracle


def draw(layer, *before):
    return torch.randn(*before, *((B, I) if isinstance(layer, torch.nn.RNNCellBase) else (T, B, I)), **DOUBLE)


def loss(result):
    return sum(part.square().sum() for part in flat(result))


@pytest.mark.parametrize("driver", ["auto", "vendor", "script", "aten", "llvm"])
@layers
def test_vmap_over_inputs(build, driver):
    layer, oracle = pair(build, "auto" if driver == "vendor" and "peephole" in repr(build(**DOUBLE)) else driver)
    x = draw(layer, N)
    found = flat(vmap(layer)(x))
    for a, b in zip(found, zip(*[flat(oracle(sample)) for sample in x], strict=True), strict=True):
        assert_close(a, torch.stack(b), **CLOSE)


@layers
def test_gradients_of_each_sample(build):
    layer, oracle = pair(build)
    x = draw(layer, N)
    weights = {name: p.detach() for name, p in layer.named_parameters()}
    found = vmap(grad(lambda w, sample: loss(functional_call(layer, w, (sample,)))), in_dims=(None, 0))(weights, x)
    for k, sample in enumerate(x):
        expected = torch.autograd.grad(loss(oracle(sample)), list(oracle.parameters()))
        assert_close([found[name][k] for name, _ in oracle.named_parameters()], list(expected), **CLOSE)


@layers
def test_products_with_jacobians_and_hessians(build):
    layer, oracle = pair(build)
    x, direction = draw(layer).requires_grad_(), draw(layer)
    jacobian = torch.autograd.functional.jacobian(lambda x: flat(oracle(x))[0], x)
    assert_close(jacrev(lambda x: flat(layer(x))[0])(x), jacobian, **CLOSE)
    value, change = jvp(lambda x: flat(layer(x))[0], (x,), (direction,))
    assert_close(value, flat(oracle(x))[0], **CLOSE)
    assert_close(change, torch.tensordot(jacobian, direction, x.dim()), **CLOSE)

    _, product = jvp(grad(lambda x: loss(layer(x))), (x,), (direction,))
    (slope,) = torch.autograd.grad(loss(oracle(x)), x, create_graph=True)
    assert_close(product, torch.autograd.grad(slope, x, direction)[0], **CLOSE)


@layers
def test_forward_mode_without_torch_func(build):
    layer, oracle = pair(build)
    x, direction = draw(layer), draw(layer)
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(flat(layer(forward_ad.make_dual(x, direction)))[0]).tangent
    _, expected = torch.autograd.functional.jvp(lambda x: flat(oracle(x))[0], x, direction)
    assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("build", [LAYERS["Recurrent"], LAYERS["LSTM"]])
def test_lengths_resets_and_states_of_each_sample(build):
    layer, oracle = pair(build)
    x, resets = draw(layer, N), torch.rand(N, T, B) < 0.4
    lengths = torch.tensor([[T, 0], [2, 3], [1, T]])
    states = torch.randn(2, N, layer.num_layers * (1 + layer.bidirectional), B, H, **DOUBLE)

    def call(x, h, c, lengths, resets, layer=layer):
        return layer(x, (h, c), lengths=lengths, resets=resets)

    found = vmap(call)(x, *states, lengths, resets)
    for k in range(N):
        expected = call(x[k], *states[:, k], lengths[k], resets[k], layer=oracle)
        for a, b in zip(flat(found), flat(expected), strict=True):
            assert_close(a[k], b, **CLOSE)


@pytest.mark.parametrize("driver", ["auto", "vendor"])
@pytest.mark.parametrize("name", ["Recurrent", "LSTM", "GRUCell"])
def test_the_plan_says_so_and_forgets_it(name, driver):
    layer = LAYERS[name](driver=driver, **DOUBLE)
    plans = []

    def call(x):
        plans.append(layer.plan(x))
        return flat(layer(x))[0]

    x = draw(layer, N)
    before = layer.plan(x[0])
    vmap(call)(x)
    assert plans[0].driver == "eager"
    assert str(plans[0]).startswith("eager: a transform of torch.func or forward-mode differentiation is at work,")
    assert "not vendor: no transform can look into it." in str(plans[0])
    assert layer.plan(x[0]) == before != plans[0]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_projections_stay_torchs():
    layer = gatefuse.LSTM(I, H, proj_size=2, **DOUBLE)
    with pytest.raises(RuntimeError, match="Batching rule not implemented for aten::lstm"):
        vmap(layer)(draw(layer, N))
    with pytest.raises(RuntimeError, match="Batching rule not implemented for aten::lstm"):
        vmap(layer)(torch.randn(N, 20, B, I, **DOUBLE))  # which compiled code would take


@pytest.mark.parametrize("name", ["Recurrent", "Recurrent, a cell of ours", "GRUCell"])
def test_compiled_transforms(name):
    """Not as one operator, whose gradients no transform would find."""
    layer, oracle = pair(LAYERS[name])
    torch.compiler.reset()
    x = draw(layer, N)
    compiled = torch.compile(vmap(grad(lambda x: loss(layer(x)))), backend="eager", fullgraph=True)
    expected = [torch.autograd.grad(loss(oracle(s)), s)[0] for s in x.clone().requires_grad_().unbind()]
    assert_close(compiled(x), torch.stack(expected), **CLOSE)


def test_a_compiled_jvp():
    """Once: torch 2.13 can't compile a second jvp in a process, not even a Linear's."""
    layer, oracle = pair(LAYERS["Recurrent"])
    torch.compiler.reset()
    x, direction = draw(layer), draw(layer)
    compiled = torch.compile(lambda x, v: jvp(lambda x: layer(x)[0], (x,), (v,))[1], backend="eager")
    _, expected = torch.autograd.functional.jvp(lambda x: oracle(x)[0], x, direction)
    assert_close(compiled(x, direction), expected, **CLOSE)
