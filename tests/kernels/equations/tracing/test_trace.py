"""What the trace reads off the equations, and what it refuses, in words."""

import pytest
import torch
from torch import sigmoid, tanh

from gatefuse import cell, cell_names, find_cell, operator_names
from gatefuse.kernels.equations.expression import walk
from gatefuse.kernels.equations.operators import PRIMITIVES, TranslationError
from tests.support import made_up_cells


def slots(name):
    return [slot.name for slot in find_cell(name).program.slots]


def test_gates_used_as_a_sum_are_one_slot():
    assert slots("lstm") == ["a_i", "a_f", "a_g", "a_o"]
    assert slots("gru") == ["a_r", "a_z", "x_n", "r_n"]
    assert slots("article_peephole_lstm") == ["a_i", "a_f", "x_g", "a_o"]


def test_stages_and_products():
    lstm, first = find_cell("lstm").program, find_cell("gru_reset_first").program
    assert [(p.state, p.gates, p.stage) for p in lstm.products] == [(0, (0, 1, 2, 3), 1)]
    assert [(p.state, p.gates, p.stage) for p in first.products] == [(0, (0, 1), 1), (-1, (2,), 2)]
    assert made_up_cells.three_stages.program.stages == 3
    assert made_up_cells.indrnn.program.stages == 0
    assert [p.state for p in made_up_cells.two_vectors.program.products] == [1, 0]


def test_the_product_takes_what_the_equations_give_it():
    assert find_cell("article_peephole_lstm").program.products[0].state == 1
    assert find_cell("article_peephole_lstm").program.products[0].gates == (0, 1, 3)


def test_only_sums_in_the_weights_order_share_their_gradients():
    additive = {name for name in cell_names() if find_cell(name).program.additive}
    others = {
        "gru",
        "article_peephole_lstm",
        "ind_rnn",
        "min_gru",
        "min_lstm",
        "sru",
        "layer_norm_lstm",
        "layer_norm_gru",
        "augru",
        "gru_d",
        "cfc",
    }
    assert additive == set(cell_names()) - others


@pytest.mark.parametrize(("name", "count"), [("lstm", 5), ("gru", 3), ("elman", 1), ("gru_reset_first", 3)])
def test_backward_has_no_more_transcendentals_than_forward(name, count):
    program = find_cell(name).program

    def transcendentals(roots):
        return sum(PRIMITIVES[e.op].transcendental for e in walk(roots) if e.op in PRIMITIVES)

    assert transcendentals(program.new_states) <= count
    assert transcendentals([*program.d_slots, *program.d_states]) == count


def test_traced_once():
    assert find_cell("lstm").program is find_cell("lstm").program


def refuse(equations, match, gates="a"):
    with pytest.raises(TranslationError, match=match):
        _ = cell(gates=gates)(equations).program


def test_an_operator_that_cannot_be_translated_is_named_as_it_was_written():
    rule = r"^an operator in a cell must be one that gatefuse.operator_names\(\) lists(; for .*)?\. Got {}, "
    place = r"which can't be translated \(.*test_trace.py, line \d+\)$"
    refuse(lambda x, R, h: torch.softmax(x.a + R.a(h), -1), rule.format("softmax") + place)
    refuse(lambda x, R, h: torch.nn.functional.mish(x.a + R.a(h)), rule.format("mish") + place)
    refuse(lambda x, R, h: torch.nn.functional.dropout(x.a + R.a(h)), rule.format("dropout") + place)
    refuse(lambda x, R, h: x.a + R.a(h.T.T), rule.format("T") + place)
    assert {"clamp", "tanh", "where"} < set(operator_names())
    assert "softmax" not in operator_names()
    refuse(lambda x, R, h: tanh(x.a + R.a(h)) - h.amin(-1, keepdim=True), r"Got amin, which can't be translated")
    refuse(lambda x, R, h: tanh(x.a + R.a(h))[:, [2, 1, 0]], "Got ")


def test_control_flow_on_values_is_refused_in_plain_words():
    def branch(x, R, h):
        return tanh(x.a + R.a(h)) if h.sum() > 0 else h

    def loop(x, R, h):
        while (h < 1).all():
            h = h + 1
        return h

    def number(x, R, h):
        return h * h.max().item()

    for equations in (branch, loop, number):
        refuse(equations, "no if, while or .item\\(\\) on a tensor; use torch.where")


def test_shapes_stay():
    refuse(lambda x, R, h: tanh(R.a(h)).t(), r"Got (\(3, 2\)|t)")
    refuse(lambda x, R, h: 1.0, "new state h of .* must be a tensor. Got float")
    refuse(lambda x, R, h: R.a(2.0), "what R multiplies of .* must be a tensor. Got float")


def test_tensors_from_outside_are_refused():
    outside = torch.ones(3)
    refuse(lambda x, R, h: tanh(x.a + R.a(h)) * outside, "use outside from outside, a tensor, whose values may change")


def test_rounding_modes_and_odd_powers_are_refused():
    refuse(lambda x, R, h: torch.div(h, x.a, rounding_mode="trunc"), "rounding_mode None or 'floor'. Got 'trunc'")
    refuse(lambda x, R, h: h**2.5, "whole number from -2 to 4. Got 2.5")


def test_the_eager_driver_runs_what_kernels_refuse():
    from gatefuse.kernels.drivers import driver, eager
    from gatefuse.kernels.task import Request
    from tests.support.oracle import make_task

    @cell(gates="a")
    def normed(x, R, h):
        return tanh(torch.nn.functional.layer_norm(x.a + R.a(h), h.shape[-1:]))

    assert eager.run(make_task(normed, 2, 3, 5)).sequences[0].shape == (2, 3, 5)
    request = Request(normed, torch.device("cpu"), torch.float32, 2, 3, 5)
    assert "layer_norm" in driver("script").refusal(request)
    assert "layer_norm" in driver("step").refusal(request)


def test_constants_fold_and_common_parts_are_one():
    @cell(gates="a")
    def wordy(x, R, h):
        a = x.a + R.a(h)
        return (sigmoid(a) * 1.0 + 0.0) - (-sigmoid(a))

    assert repr(wordy.program.new_states[0]) == "add(sigmoid(a_a), sigmoid(a_a))"
