"""A model as a library in this process, beside the layers that it was made of."""

from __future__ import annotations

import ctypes
import mmap
import time

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import gatefuse
from gatefuse import GRU, LSTM, RNN, Recurrent, export_object
from gatefuse.kernels.tolerance import allowed, error, worst
from tests.support import made_up_cells
from tests.support.exported import Library
from tests.support.layers import WITHOUT_INPUTS

T, I = 9, 5


def rule(model, x, found):
    """The rule of tolerance.py for the output of layers, of which the next takes the output alone."""

    def run(module, x):
        out = module(x)
        return out[0] if isinstance(out, tuple) else out

    def through(dtype, x):
        for module in model:
            was = getattr(module, "driver", None)
            if was is not None:
                module.driver = "eager"
            module.to(dtype)
            x = run(module, x.to(dtype))
            module.to(torch.float32)
            if was is not None:
                module.driver = was
        return x.double()

    with torch.no_grad():
        reference = through(torch.float64, x)
        errors = []
        for seed in range(4):
            other = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
            for each in (x, other):
                errors.append(error(through(torch.float32, each), through(torch.float64, each)))
    assert error(found.double(), reference) <= allowed(worst(errors), torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("H", [1, 8, 20, 33])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", WITHOUT_INPUTS)
def test_states_go_on_from_call_to_call(cell, layers, H, tmp_path):
    torch.manual_seed(0)
    layer = Recurrent(cell, I, H, num_layers=layers)
    library = Library(layer, tmp_path)
    x, y = torch.randn(T, I), torch.full((T, H), float("nan"))
    library.step(x[0], y[0])
    library.run(x[1:4], y[1:4])
    library.step(x[4], y[4])
    library.run(x[5:], y[5:])
    rule([layer], x, y)
    again = torch.empty(T, H)
    library.reset()
    library.run(x, again)
    assert torch.equal(again, y)


@pytest.mark.parametrize("cell", made_up_cells.ALL, ids=lambda cell: cell.name)
def test_cells_that_ask_for_more_than_shipped_ones(cell, tmp_path):
    torch.manual_seed(0)
    layer = Recurrent(cell, I, 21, num_layers=2)
    library = Library(layer, tmp_path)
    x, y = torch.randn(T, I), torch.empty(T, 21)
    library.run(x, y)
    rule([layer], x, y)


@pytest.mark.parametrize("theirs", [nn.LSTM, nn.GRU, nn.RNN])
def test_torch_s_own_layers_and_ours(theirs, tmp_path):
    torch.manual_seed(0)
    options = {"nonlinearity": "relu"} if theirs is nn.RNN else {}
    layer = theirs(I, 12, num_layers=2, **options)
    x, y, same = torch.randn(T, I), torch.empty(T, 12), torch.empty(T, 12)
    Library(layer, tmp_path).run(x, y)
    rule([layer], x, y)
    gatefuse.accelerate(layer)
    assert type(layer) in (LSTM, GRU, RNN)
    Library(layer, tmp_path).run(x, same)
    assert torch.equal(same, y)


ACTIVATIONS = [
    *(nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.5, 0.25), nn.Tanh(), nn.Sigmoid(), nn.LogSigmoid(), nn.SiLU()),
    *(nn.Hardsigmoid(), nn.Hardswish(), nn.LeakyReLU(0.2), nn.ELU(0.7), nn.Softplus(2.0, 3.0), nn.Softsign()),
    *(nn.GELU(), nn.GELU("tanh"), nn.Identity(), nn.Dropout(0.5).eval()),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations_before_and_after(activation, tmp_path):
    torch.manual_seed(0)
    model = [activation, nn.Linear(I, 7), activation, LSTM(7, 19), activation, nn.Linear(19, 3), activation]
    library = Library(model, tmp_path)
    x, y = torch.randn(T, I) * 3, torch.empty(T, 3)
    library.run(x, y)
    rule(model, x, y)
    assert library.exported.needs == (("erff",) if str(activation) == "GELU(approximate='none')" else ())


def test_an_embedding_takes_numbers_and_refuses_others(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 6), nn.Sequential(GRU(6, 9)), nn.Linear(9, 4))
    library = Library(model, tmp_path)
    x, y = torch.randint(10, (T, 1), dtype=torch.int32), torch.zeros(T, 4)
    with torch.no_grad():
        expected = model[2](model[1][0](model[0](x[:, 0].long()))[0])
    assert library.step(x[0], y[0]) == 0
    for wrong in (10, -1, 2**31 - 1):
        bad, untouched = x[1:].clone(), y.clone()
        bad[3] = wrong
        assert library.run(bad, y[1:]) == 1
        assert library.step(bad[3], y[1]) == 1
        assert torch.equal(y, untouched)
    assert library.run(x[1:], y[1:]) == 0  # the states are what they were before
    assert_close(y, expected, rtol=1e-5, atol=1e-6)


def test_weights_in_fewer_bits_are_near(tmp_path):
    torch.manual_seed(0)
    model = [LSTM(16, 64), nn.Linear(64, 8)]
    x, y, sizes = torch.randn(50, 16), {}, {}
    for weights, most in (("float32", 1e-6), ("float16", 1e-3), ("int8", 3e-2)):
        library = Library(model, tmp_path, weights=weights)
        y[weights], sizes[weights] = torch.empty(50, 8), library.exported.weight_bytes
        library.run(x, y[weights])
        assert error(y[weights].double(), y["float32"].double()) <= most
        assert (library.exported.loss > 0) == (weights != "float32")
        assert library.exported.loss < most
    assert sizes["float16"] < 0.55 * sizes["float32"]
    assert sizes["int8"] < 0.3 * sizes["float32"]


def test_rows_of_zeros_and_of_very_different_sizes(tmp_path):
    """Scales are of rows: a large one takes nothing from a small one."""
    for weights in ("float16", "int8"):
        layer = RNN(4, 6, bias=False)
        with torch.no_grad():
            layer.weight_ih_l0[0] = 0.0
            layer.weight_ih_l0[1] *= 1e-6
            layer.weight_ih_l0[2] *= 1e5
            layer.weight_hh_l0.zero_()
        library = Library(layer, tmp_path, weights=weights)
        x, y = torch.randn(1, 4), torch.empty(1, 6)
        library.run(x, y)
        expected = layer(x)[0].detach()
        assert y[0, 0] == 0
        assert_close(y, expected, rtol=3e-2, atol=0)


def test_streams_are_independent(tmp_path):
    torch.manual_seed(0)
    library = Library([Recurrent("gru_reset_first", I, 11)], tmp_path)
    x, alone = torch.randn(2, T, I), torch.empty(2, T, 11)
    for s in range(2):
        library.reset()
        library.run(x[s], alone[s])
    first, second = library._state.clone(), library._state.clone()
    together = torch.empty_like(alone)
    for state in (first, second):
        library._state = state
        library.reset()
    for t in range(T):
        for s, state in enumerate((first, second)):
            library._state = state
            library.step(x[s, t], together[s, t])
    assert torch.equal(together, alone)


class Edge:
    """Numbers that end where memory that may be touched ends."""

    def __init__(self, like):
        page, size = mmap.PAGESIZE, like.numel() * like.element_size()
        pages = -(-size // page) + 1
        self._map = mmap.mmap(-1, pages * page)
        begin = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        end = begin + (pages - 1) * page
        protect = ctypes.CDLL(None).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        assert protect(end, page, 0) == 0
        self._at = end - size
        ctypes.memmove(self._at, like.data_ptr(), size)
        self.read = lambda: ctypes.string_at(self._at, size)

    def data_ptr(self):
        return self._at


@pytest.mark.parametrize("H", [1, 7, 33])
@pytest.mark.parametrize("first", [[], [nn.Tanh()]], ids=["layer first", "activation first"])
def test_nothing_beyond_x_y_and_the_state_is_touched(first, H, tmp_path):
    library = Library([*first, LSTM(I, H), nn.Linear(H, 3)], tmp_path)
    x, y = torch.randn(I), torch.zeros(3)
    library.step(x, y)
    library._state = Edge(library._state)
    at_x, at_y = Edge(x), Edge(y)
    library.reset()
    library.step(at_x, at_y)
    assert at_y.read() == y.numpy().tobytes()


def test_an_export_is_quick(tmp_path):
    least = min(_seconds(lambda: export_object(LSTM(128, 128), tmp_path / "net.o")) for _ in range(3))
    assert least < 2


def test_a_step_is_as_quick_as_a_stepper_s(tmp_path):
    """By turns, the least of many: at most 1.1 times as long."""
    layer = LSTM(128, 128)
    library, stepper = Library(layer, tmp_path), gatefuse.Stepper(layer, 1)
    x, y = torch.randn(1, 128), torch.empty(1, 128)
    took: dict[str, float] = {"object": 1.0, "stepper": 1.0}
    for _ in range(200):
        took["object"] = min(took["object"], _seconds(lambda: [library.step(x, y) for _ in range(20)]))
        took["stepper"] = min(took["stepper"], _seconds(lambda: [stepper.step(x) for _ in range(20)]))
    assert took["object"] <= 1.1 * took["stepper"]


def _seconds(call):
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
