"""What a layer of a cell with sizes refuses, in words and before anything runs."""

import re

import pytest
import torch
from torch import tanh

import gatefuse
from gatefuse import Recurrent, Stepper
from tests.support.sized_cells import CELLS, UNITS

T, B, I, H = 6, 4, 3, 5
SCRN = CELLS["scrn"]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({}, ValueError, "sizes must be those of scrn (slow), all of them. Got none for slow."),
        ({"sizes": {"slow": 3, "fast": 2}}, ValueError, "sizes must be those of scrn (slow). Got fast."),
        ({"sizes": 40}, TypeError, 'sizes must be numbers by name, such as {"slow": 40}. Got 40.'),
        ({"sizes": {"slow": 2.0}}, TypeError, "size slow must be an int. Got float."),
        ({"sizes": {"slow": True}}, TypeError, "size slow must be an int. Got bool."),
        ({"sizes": {"slow": 0}}, ValueError, "size slow must be greater than zero. Got 0."),
        (
            {"sizes": {"slow": 3}, "heads": 5},
            ValueError,
            "a layer of a cell with sizes must have heads 1. Got 5 for scrn.",
        ),
        (
            {"sizes": {"slow": 3}, "proj_size": 2},
            ValueError,
            "a layer of a cell with sizes must have proj_size 0. Got 2 for scrn.",
        ),
    ],
)
def test_layers_that_are_not_made(options, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        Recurrent(SCRN, I, H, **options)


def test_sizes_of_a_cell_without():
    with pytest.raises(ValueError, match=r"^sizes must be those of gru \(none\)\. Got slow\.$"):
        Recurrent("gru", I, H, sizes={"slow": 3})
    assert Recurrent("gru", I, H, sizes={})._sized is None


def test_equations_that_no_code_can_be_made_of():
    @gatefuse.cell(gates="a b:x", sizes={"slow": "s b"})
    def competing(x, R, h, s):
        return torch.softmax(x.a + R.a(h), dim=-1), s + x.b

    rule = "a cell with sizes must be one that code can be made of, which shows the size of each of its values"
    with pytest.raises(ValueError, match=f"^{re.escape(rule)}. Got competing: .*softmax, which can't be translated"):
        Recurrent(competing, I, H, sizes={"slow": 3})
    with pytest.raises(ValueError, match=r"^recurrent_dropout must be given a cell that code can be made of"):
        gatefuse.recurrent_dropout(competing, 0.5)


@gatefuse.cell(gates="a p:R b:x", sizes={"slow": "s b gain"})
def normed(x, R, h, s, *, gain):
    s = gatefuse.layer_norm(s + x.b, gain)
    return tanh(x.a + R.a(h) + R.p(s)), s


def test_means_of_fewer_units():
    rule = "means and the largest of units must be of the largest size of a layer"
    with pytest.raises(ValueError, match=f"^{rule}. Got one of slow in normed, for hidden_size 5, slow 3.$"):
        Recurrent(normed, I, H, sizes={"slow": 3})


@pytest.mark.parametrize("driver", ["eager", "aten", "llvm"])
def test_means_of_the_most_units(driver):
    layer = Recurrent(normed, I, H, sizes={"slow": 8}, driver=driver, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64)
    W, b, (wa, wb) = layer.weight_ih_l0, layer.bias_ih_l0, (slice(H), slice(H, None))
    h, s = x.new_zeros(B, H), x.new_zeros(B, 8)
    outputs = []
    for x_t in x:
        s = torch.nn.functional.layer_norm(s + x_t @ W[wb].T + b[wb], (8,), layer.gain_l0)
        r = h @ layer.weight_hh_l0.T + s @ layer.weight_hh_slow_l0.T
        h = tanh(x_t @ W[wa].T + b[wa] + r + layer.bias_hh_l0[:H] + layer.bias_hh_l0[H:])
        outputs.append(h)
    torch.testing.assert_close(layer(x)[0], torch.stack(outputs))


def test_states_and_inputs_of_another_shape():
    layer = Recurrent(SCRN, I, H, 2, sizes=UNITS["scrn"])
    x, h, s = torch.randn(T, B, I), torch.zeros(2, B, H), torch.zeros(2, B, 3)
    resets = torch.zeros(T, B, dtype=torch.bool)
    for run in (layer, layer.plan):
        with pytest.raises(RuntimeError, match=r"^state s must have shape \(2, 4, 3\)\. Got \(2, 4, 5\)\.$"):
            run(x, (h, torch.zeros(2, B, H)))
        with pytest.raises(RuntimeError, match=r"^state h must have shape \(2, 4, 5\)\. Got \(2, 4, 3\)\.$"):
            run(x, (s, h))
        with pytest.raises(RuntimeError, match=r"^state s must have shape \(2, 3\)\. Got \(2, 5\)\.$"):
            run(x[:, 0], (h[:, 0], h[:, 0]))
        with pytest.raises(RuntimeError, match=r"^reset_state s must have shape \(2, 4, 3\)\. Got \(2, 4, 5\)\.$"):
            run(x, resets=resets, reset_state=(h, h))
    with pytest.raises(RuntimeError, match=r"^state s must have shape \(2, 4, 3\)\. Got \(2, 4, 5\)\.$"):
        Stepper(layer, B, (h, h))
    timed = Recurrent(CELLS["timed"], I, H, sizes={"slow": 8})
    inputs = {"age": torch.rand(T, B, H), "score": torch.rand(T, B)}
    text = "input age must have shape (6, 4), one number a sample, or (6, 4, 8), one a unit"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        timed(x, inputs=inputs)
    with pytest.raises(ValueError, match=r"^input age must have shape \(4,\), one number a sample, or \(4, 8\)"):
        Stepper(timed, B).step(x[0], {name: a[0] for name, a in inputs.items()})


def test_drivers_and_files(tmp_path):
    layer = Recurrent(SCRN, I, H, sizes={"slow": 3}, driver="vendor")
    with pytest.raises(RuntimeError, match=r"^driver vendor can't run this call: torch has no loop for"):
        layer(torch.randn(T, B, I))
    path = tmp_path / "never.o"
    with pytest.raises(ValueError, match=r"must have one size of states and gates\. Got scrn with sizes slow\.$"):
        gatefuse.export_object(layer.eval(), path)
    assert not path.exists()


def test_equations_that_change_what_they_multiply():
    settings = {"slow": True}

    @gatefuse.cell(gates="a p:R b:x", sizes={"slow": "s b"})
    def changing(x, R, h, s):
        s = s + x.b
        return tanh(x.a + (R.a(h) + R.p(s) if settings["slow"] else R.a(h) + R.p(h))), s

    layer, x = Recurrent(changing, I, H, sizes={"slow": 3}), torch.randn(T, B, I)
    layer(x)
    settings["slow"] = False
    text = "what R multiplies for p of changing must have size slow, as when the layer was made. Got hidden_size"
    with pytest.raises(RuntimeError, match=f"^{text}"):
        layer(x)
    with pytest.raises(RuntimeError, match=f"^{text}"):
        Stepper(layer, B)


@gatefuse.cell(gates="f n", bias="f n:x")
def one_bias(x, R, h):
    f = torch.sigmoid(x.f + R.f(h))
    return f * h + (1 - f) * tanh(x.n + R.n(h))


OF_SCRN = SCRN, {"slow": 3}
RESIZED = {
    "more rows": (OF_SCRN, "weight_ih_l0", (9, 3), (8, 3)),
    "fewer columns": (OF_SCRN, "weight_hh_slow_l0", (5, 2), (5, 3)),
    "more rows of R": (OF_SCRN, "weight_hh_l0", (10, 5), (5, 5)),
    "a longer bias": (OF_SCRN, "bias_hh_l0", (11,), (10,)),
    "a longer bias of some gates": ((one_bias, None), "bias_hh_l0", (6,), (5,)),
}


@pytest.mark.parametrize("wrong", RESIZED)
def test_parameters_that_were_given_another_shape(wrong):
    """Of which no unit more or less may be taken in silence."""
    (cell, sizes), name, shape, right = RESIZED[wrong]
    layer = Recurrent(cell, I, H, sizes=sizes)
    setattr(layer, name, torch.nn.Parameter(torch.randn(shape)))
    text = f"^{re.escape(f'{name} must have shape {right}. Got {shape}.')}$"
    x = torch.randn(T, B, I)
    for call in (layer, layer.plan, lambda x: Stepper(layer, B), lambda x: gatefuse.scripted(layer)):
        with pytest.raises(ValueError, match=text):
            call(x)
    with pytest.raises(ValueError, match=text):
        torch.func.functional_call(layer, {name: torch.randn(shape)}, (x,))
