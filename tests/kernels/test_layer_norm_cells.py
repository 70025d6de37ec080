"""The cells with layer normalization, against the paper's equations written out again, and gatefuse.layer_norm."""

import pytest
import torch
from torch import sigmoid, tanh
from torch.testing import assert_close

import gatefuse
from gatefuse import Recurrent, cell, cell_names, find_cell, layer_norm
from gatefuse.kernels.codegen.constexpr import cell_shape
from gatefuse.kernels.equations.gates import Gates
from gatefuse.kernels.tiling.tiles import block_tiles

T, B, I, H = 7, 3, 4, 5
DRIVERS = ("eager", "script", "aten", "llvm")


def normalized(v, gain, bias):
    """LN of Ba et al. 2016, equation 4: by the mean and the deviation, which divides by the number of units."""
    mean = v.sum(1) / v.shape[1]
    deviation = ((v - mean[:, None]) ** 2).sum(1) / v.shape[1]
    return (v - mean[:, None]) / torch.sqrt(deviation + 1e-5)[:, None] * gain + bias


def drawn(name):
    """A layer whose gains and biases are all different."""
    torch.manual_seed(0)
    layer = Recurrent(name, I, H, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return layer, {key.removesuffix("_l0"): value for key, value in layer.named_parameters()}


def joined(p, form, gates):
    return torch.cat([p[form.format(gate)] for gate in gates])


def lstm_by_hand(p, x, h, c):
    """Equations 20 to 22."""
    outputs = []
    for x_t in x:
        of_h = normalized(h @ p["weight_hh"].T, joined(p, "h_gain_{}", "ifgo"), 0)
        of_x = normalized(x_t @ p["weight_ih"].T, joined(p, "x_gain_{}", "ifgo"), 0)
        i, f, g, o = (of_h + of_x + joined(p, "b_{}", "ifgo")).chunk(4, 1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(normalized(c, p["c_gain"], p["c_b"]))
        outputs.append(h)
    return torch.stack(outputs), h, c


def gru_by_hand(p, x, h):
    outputs = []
    W_rz, W_n = p["weight_ih"].split((2 * H, H))
    R_rz, R_n = p["weight_hh"].split((2 * H, H))
    for x_t in x:
        of_h = normalized(h @ R_rz.T, joined(p, "h_gain_{}", "rz"), joined(p, "b_{}", "rz"))
        of_x = normalized(x_t @ W_rz.T, joined(p, "x_gain_{}", "rz"), 0)
        r, z = sigmoid(of_h + of_x).chunk(2, 1)
        n = tanh(
            normalized(x_t @ W_n.T, p["x_gain_n"], p["b_n"]) + r * normalized(h @ R_n.T, p["h_gain_n"], p["h_b_n"])
        )
        h = (1 - z) * h + z * n
        outputs.append(h)
    return torch.stack(outputs), h


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(("name", "by_hand"), [("layer_norm_lstm", lstm_by_hand), ("layer_norm_gru", gru_by_hand)])
def test_equals_its_paper(name, by_hand, driver):
    layer, p = drawn(name)
    layer.driver = driver
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    states = [torch.randn(1, B, H, dtype=torch.float64, requires_grad=True) for _ in layer.cell.states]
    output, finals = layer(x, tuple(states) if len(states) > 1 else states[0])
    expected, *last = by_hand(p, x, *[s[0] for s in states])
    finals = finals if isinstance(finals, tuple) else (finals,)
    assert_close(output, expected)
    assert_close([f[0] for f in finals], last)
    leaves = [x, *states, *[v for key, v in p.items() if v.numel()]]
    probe = torch.randn_like(output)
    found, truth = (torch.autograd.grad(v, leaves, probe) for v in (output, expected))
    assert_close(found, truth)


@pytest.mark.parametrize("name", ["layer_norm_lstm", "layer_norm_gru"])
def test_gains_begin_with_1_and_biases_with_0(name):
    layer = Recurrent(name, I, H)
    for key, value in layer.named_parameters():
        if "gain" in key:
            assert value.eq(1).all()
        elif not key.startswith("weight"):
            assert value.eq(0).all()


def test_it_is_torch_s_of_a_vector_and_of_all_gates_side_by_side():
    torch.manual_seed(0)
    parts = [torch.randn(B, H, dtype=torch.float64) for _ in range(3)]
    gains, biases = ([torch.randn(H, dtype=torch.float64) for _ in range(3)] for _ in range(2))
    whole = torch.nn.functional.layer_norm(torch.cat(parts, 1), (3 * H,), torch.cat(gains), torch.cat(biases))
    assert_close(layer_norm(tuple(parts), gains, biases), tuple(whole.chunk(3, 1)))
    found = layer_norm(Gates(("a", "b", "c"), parts=parts), gains, biases)
    assert_close(tuple(found), tuple(whole.chunk(3, 1)))
    assert_close(found.b, whole.chunk(3, 1)[1])
    packed = layer_norm(Gates(("a", "b", "c"), torch.cat(parts, 1)))
    assert_close(torch.cat(tuple(packed), 1), torch.nn.functional.layer_norm(torch.cat(parts, 1), (3 * H,)))
    one = torch.nn.functional.layer_norm(parts[0], (H,), gains[0], biases[0], 1e-2)
    assert_close(layer_norm(parts[0], gains[0], biases[0], 1e-2), one)


def test_what_it_is_not_given():
    v = torch.randn(B, H)
    with pytest.raises(TypeError, match=r"^v must be a vector, values by gate or a tuple of vectors. Got list.$"):
        layer_norm([v, v])
    with pytest.raises(ValueError, match=r"^gain must be a parameter for each of 2 vectors, in their order. Got 1.$"):
        layer_norm((v, v), v[0])
    with pytest.raises(ValueError, match=r"^bias must be one parameter for one vector. Got 2.$"):
        layer_norm(v, bias=(v[0], v[0]))


def test_the_equations_line_is_named():
    unit = cell(gates="a b")(lambda x, R, h, *, p: tanh(layer_norm(x + R(h), p).a))
    assert "must be a parameter for each of 2 vectors, in their order. Got 1 (" in unit.refusal
    assert "test_layer_norm_cells.py, line" in unit.refusal


def test_by_a_module_s_name_too():
    unit = cell(gates="a")(lambda x, R, h, *, p: tanh(gatefuse.layer_norm(x.a + R.a(h), p)))
    assert unit.refusal == ""
    assert [p.reduces for p in unit.program.products] == ["", "mean", "mean"]


def test_stages():
    """The input's, R's and the memory's: each a mean, and a mean of what is apart from it."""
    assert [sum(bool(p.reduces) for p in find_cell(f"layer_norm_{n}").program.products) for n in ("lstm", "gru")] == [
        6,
        8,
    ]


def test_many_values_have_more_warps():
    for name in ("layer_norm_lstm", "layer_norm_gru"):
        assert block_tiles(64, "backward", find_cell(name).program).warps == 8
    for name in ("lstm", "peephole_lstm", "slstm"):
        assert block_tiles(64, "backward", find_cell(name).program) == block_tiles(64)
    assert block_tiles(64).warps == 4


def test_addresses_of_many_values_are_found_where_they_are_used():
    many = {name for name in cell_names() if cell_shape(find_cell(name)).MANY_VALUES}
    assert many == {"layer_norm_lstm", "layer_norm_gru"}
