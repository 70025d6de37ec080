"""xlstm's sLSTM, accelerated, against the package itself; skipped where it isn't installed."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import gatefuse
from gatefuse.kernels.tolerance import allowed, error, worst
from gatefuse.models.others import xlstm
from tests.support.layers import flat, gradients

package = pytest.importorskip("xlstm.blocks.slstm.cell", reason="the package xlstm isn't there")
layers = pytest.importorskip("xlstm.blocks.slstm.layer", reason="the package xlstm isn't there")
T, B, H = 7, 3, 8
DOUBLE = {"dtype": torch.float64}


def make(heads=2, dtype=torch.float64, **options):
    torch.manual_seed(0)
    shared = {"backend": "vanilla", "dtype": "float32", "recurrent_weight_init": "standard", "bias_init": "standard"}
    config = {**shared, "hidden_size": H, "num_heads": heads, "enable_automatic_mixed_precision": False, **options}
    return package.sLSTMCell(package.sLSTMCellConfig(**config)).to(dtype)


def pair(*args, **options):
    """The package's cell, and the same one accelerated."""
    theirs, ours = make(*args, **options), make(*args, **options)
    told = gatefuse.accelerate(ours)
    assert not told.left
    assert list(told.changed) == [""]
    return theirs, ours


def values(layer, x, state=None):
    """Results, and the gradients of x, the states and all parameters."""
    given = [None if v is None else v.clone().requires_grad_() for v in (x, state)]
    found = layer(*given)
    leaves = [v for v in (*given, *layer.parameters()) if v is not None]
    return [*flat(found), *gradients(found, leaves)]


def assert_same(theirs, ours, x, state=None):
    for a, b in zip(values(ours, x, state), values(theirs, x, state), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert_close(a, b, rtol=1e-11, atol=1e-12)


def begun(**options):
    """States as steps leave them: a positive normalizer."""
    state = torch.randn(4, B, H, **DOUBLE, **options)
    state[2] = state[2].abs() + 0.1
    return state


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("heads", [1, 2, 4, H])
def test_as_the_package(heads, training, here):
    theirs, ours = pair(heads)
    for cell in (theirs, ours):
        cell.train(training)
    zeros = torch.zeros(4, B, H, **DOUBLE)
    for state in (None, zeros, begun()):
        assert_same(theirs, ours, torch.randn(B, T, 4 * H, **DOUBLE), state)
    assert len(here) == 3


@pytest.mark.parametrize("driver", ["eager", "aten", "llvm", "script"])
@pytest.mark.parametrize("heads", [1, 2, H])
def test_every_driver(heads, driver, here):
    theirs, ours = make(heads), make(heads)
    gatefuse.accelerate(ours, driver=driver)
    assert_same(theirs, ours, torch.randn(B, T, 4 * H, **DOUBLE), begun())
    assert here


@pytest.mark.parametrize("output", ["BNSH", "SBH", "BSH", "SBNH"])
@pytest.mark.parametrize("given", ["BSGNH", "SBGNH"])
def test_every_form(given, output, here):
    theirs, ours = pair(2, input_shape=given, output_shape=output)
    shape = (B, T, 4 * H) if given[0] == "B" else (T, B, 4 * H)
    assert_same(theirs, ours, torch.randn(shape, **DOUBLE))
    assert here


@pytest.mark.parametrize("heads", [1, 2])
def test_float32_errs_no_more_than_the_package(heads, here):
    (theirs, ours), exact = pair(heads, torch.float32), make(heads)
    exact.load_state_dict(theirs.state_dict())
    errs: tuple[list, list] = ([], [])
    for _ in range(5):  # the package's worst in several inputs, as one of them may suit it
        x = torch.randn(B, T, 4 * H)
        exactly = values(exact, x.double())
        for each, cell in zip(errs, (theirs, ours), strict=True):
            each += [error(a.detach().double(), b.detach()) for a, b in zip(values(cell, x), exactly, strict=True)]
    assert len(here) == 5
    assert worst(errs[1]) <= allowed(worst(errs[0]), torch.finfo(torch.float32).eps)


def test_no_gradients_wanted(here):
    theirs, ours = pair()
    x = torch.randn(B, T, 4 * H, **DOUBLE)
    with torch.no_grad():
        assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
    assert here


def mixed():
    state = begun()
    state[2, 0, :3] = 0
    return state


def negative():
    state = begun()
    state[2, 0, 0] = -1
    return state


@pytest.mark.parametrize("state", [mixed, negative])
def test_normalizers_of_no_sequence_run_the_packages_loop(state, here):
    """It asks whether all of a batch's are zero; gatefuse asks of each."""
    theirs, ours = pair()
    x, state = torch.randn(B, T, 4 * H, **DOUBLE), state()
    for a, b in zip(values(ours, x, state), values(theirs, x, state), strict=True):
        assert torch.equal(a, b)
    assert not here


def test_a_sequence_in_parts(here):
    theirs, ours = pair(output_shape="BSH")
    x = torch.randn(B, T, 4 * H, **DOUBLE)
    first, state = ours(x[:, :3])
    second, state = ours(x[:, 3:], state)
    assert_close((torch.cat([first, second], 1), state), theirs(x), rtol=1e-11, atol=1e-12)
    assert len(here) == 2


def test_the_layer_around_it(here):
    """With its convolution, its norm and its state."""
    config = {"embedding_dim": H, "num_heads": 2, "backend": "vanilla", "dtype": "float32"}
    torch.manual_seed(0)
    theirs = layers.sLSTMLayer(layers.sLSTMLayerConfig(**config, recurrent_weight_init="standard")).double()
    theirs.reset_parameters()
    ours = layers.sLSTMLayer(layers.sLSTMLayerConfig(**config)).double()
    ours.load_state_dict(theirs.state_dict())
    told = gatefuse.accelerate(nn.Sequential(ours))
    name, module = "sLSTMCell_vanilla", "gatefuse.models.others.xlstm"
    assert told.changed == {"0.slstm_cell": f"xlstm.blocks.slstm.cell.{name} -> {module}.{name}"}
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    x = torch.randn(B, T, H, **DOUBLE)
    assert_same(theirs, ours, x)
    assert_close(ours(x, return_last_state=True), theirs(x, return_last_state=True), rtol=1e-11, atol=1e-12)
    assert len(here) == 2
    before = theirs(x)
    gatefuse.restore(ours)
    assert type(ours.slstm_cell) is package.sLSTMCell_vanilla
    assert torch.equal(ours(x), before)


def test_one_step_and_what_is_reset_are_the_packages():
    theirs, ours = pair()
    x, state = torch.randn(B, 1, 4 * H, **DOUBLE), begun()
    assert_close(ours.step(x, state), theirs.step(x, state), rtol=0, atol=0)
    torch.manual_seed(1)
    theirs.reset_parameters()
    torch.manual_seed(1)
    ours.reset_parameters()
    x = torch.randn(B, T, 4 * H, **DOUBLE)
    assert_same(theirs, ours, x)


def test_a_class_for_pickles():
    ours = pair()[1]
    assert xlstm.sLSTMCell_vanilla is type(ours)
    with pytest.raises(AttributeError, match="has no attribute 'sLSTMCell_other'"):
        _ = xlstm.sLSTMCell_other


def lstm():
    return make(function="lstm")


def for_cuda():
    return package.sLSTMCell_cuda(make().config, skip_backend_init=True)


def pointwise():
    cell = make()
    cell.pointwise = lambda *args, **options: None
    return cell


def permuted():
    cell = make()
    cell._permute_output = lambda x: x
    return cell


LEFT = {
    "lstm": (lstm, "its function is lstm, and slstm alone was compared"),
    "cuda": (for_cuda, "its backend is cuda, the package's own kernels in dtypes of their own"),
    "pointwise": (pointwise, "pointwise was replaced on this very object"),
    "a method": (permuted, "_permute_output was replaced on this very object"),
}


@pytest.mark.parametrize(("build", "why"), LEFT.values(), ids=LEFT.keys())
def test_what_is_left_and_why(build, why):
    cell = build()
    kind, told = type(cell), gatefuse.accelerate(cell)
    assert not told.changed
    assert told.left[""].startswith(why)
    assert type(cell) is kind


@pytest.mark.parametrize(
    ("owner", "name"), [("sLSTMCell_vanilla", "_impl"), ("sLSTMCellBase", "forward"), (None, "slstm_forward")]
)
def test_other_code_is_left(owner, name, monkeypatch):
    cell = make()
    monkeypatch.setattr(package if owner is None else getattr(package, owner), name, lambda *args: None)
    why = "the code of its time loop is another than that of xlstm 2.0.6, with which gatefuse was compared"
    assert gatefuse.accelerate(cell).left == {"": why}


def autocast(cell, x):
    with torch.autocast("cpu", torch.bfloat16):
        return cell(x.float())


def half(cell, x):
    return copy.copy(cell).bfloat16()(x.bfloat16())


def forward_mode(cell, x):
    return torch.func.jvp(lambda v: cell(v)[0], (x.float(),), (torch.ones_like(x).float(),))[1]


@pytest.mark.parametrize("how", [autocast, half, forward_mode])
def test_elsewhere_it_is_the_packages_loop(how, here):
    theirs, ours = pair(2, torch.float32)
    x = torch.randn(B, T, 4 * H)
    for a, b in zip(flat(how(ours, x)), flat(how(theirs, x)), strict=True):
        assert torch.equal(a, b)
    assert not here


# where the compiler looks at what its code has between two breaks, accelerated or not
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_within_a_compiled_model():
    """Its code asks for values in each step, where graphs break; whoever runs the pieces, the results are the same."""
    torch.compiler.reset()
    theirs, ours = pair(2)
    x = torch.randn(B, T, 4 * H, **DOUBLE)
    for state in (None, begun()):
        found = torch.compile(ours, backend="eager")(x, state)
        assert_close(found, theirs(x, state), rtol=1e-11, atol=1e-12)
