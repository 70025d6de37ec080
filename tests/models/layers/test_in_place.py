"""What a layer gives may be changed in place before the backward, as torch.nn.GRU's output may."""

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence
from torch.testing import assert_close

import gatefuse
from gatefuse import Recurrent, cell_names, find_cell
from gatefuse.kernels.drivers import driver as find_driver
from gatefuse.kernels.task import Request
from tests.support.layers import beside

B, I, H = 2, 3, 4
KERNELS = ("step", "block", "grid")
DRIVERS = ("auto", "vendor", "eager", "script", "aten", "llvm", *KERNELS)


def changed(result):
    """All tensors of a result, changed in place."""
    return [tensor.mul_(2).relu_() for tensor in tensors(result)]


def tensors(result):
    if isinstance(result, torch.nn.utils.rnn.PackedSequence):
        return [result.data]
    return [result] if isinstance(result, torch.Tensor) else [t for part in result for t in tensors(part)]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def assert_may_be_changed(layer, x, **options):
    if layer.driver not in KERNELS:
        layer, x = layer.double(), x.double()
    leaves = list(layer.parameters())
    expected = [2 * tensor.relu() for tensor in tensors(layer(x, **options))]
    gradients = torch.autograd.grad(sum(e.square().sum() for e in expected), leaves)
    found = changed(layer(x, **options))
    assert_close(found, expected)
    assert_close(torch.autograd.grad(sum(f.square().sum() for f in found), leaves), gradients)


def skip_unless(driver, cell, T, **options):
    if driver != "auto":
        request = Request(find_cell(cell), torch.device("cpu"), torch.float32, T, B, H, True, **options)
        if why := find_driver(driver).refusal(request):
            pytest.skip(why)


FORMS = {
    "plain": {},
    "layers": {"num_layers": 2},
    "directions": {"num_layers": 2, "bidirectional": True},
    "batch first": {"batch_first": True},
}


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("T", [3, 20])
@pytest.mark.parametrize("driver", ["auto", "vendor", "eager", "script", "aten", "llvm"])
@pytest.mark.parametrize("cell", [name for name in cell_names() if name != "lstm"])
def test_of_every_cell(cell, driver, T, options):
    skip_unless(driver, cell, T)
    layer = Recurrent(cell, I, H, driver=driver, **options)
    x = torch.randn((B, T, I) if layer.batch_first else (T, B, I))
    dtype = torch.float32 if driver in KERNELS else torch.float64
    assert_may_be_changed(layer, x, **beside(cell, *x.shape[:2], dtype=dtype))


@pytest.mark.parametrize("driver", ["auto", "eager", "script", "aten", "llvm", *KERNELS])
def test_of_an_lstm(driver):
    """By torch's own loop in float32 oneDNN keeps the output, torch.nn's and ours alike."""
    skip_unless(driver, "lstm", 3)
    assert_may_be_changed(Recurrent("lstm", I, H, driver=driver), torch.randn(3, B, I))


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("driver", KERNELS)
def test_of_kernels(driver, options):
    skip_unless(driver, "peephole_lstm", 3)
    layer = Recurrent("peephole_lstm", I, H, driver=driver, **options)
    assert_may_be_changed(layer, torch.randn((B, 3, I) if layer.batch_first else (3, B, I)))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("driver", DRIVERS)
def test_sequences_of_all_states(driver, bidirectional):
    skip_unless(driver, "slstm", 20, all_states=True)
    T = 20 if driver not in KERNELS else 3
    layer = Recurrent("slstm", I, H, driver=driver, bidirectional=bidirectional)
    assert_may_be_changed(layer, torch.randn(T, B, I), all_states=True)
    assert_may_be_changed(layer, torch.randn(T, B, I), all_states=True, lengths=[T, 2])


@pytest.mark.parametrize("all_states", [False, True])
@pytest.mark.parametrize("units", [H, 66])
@pytest.mark.parametrize("driver", DRIVERS)
def test_each_result_has_memory_of_its_own(driver, units, all_states):
    """One that is resized, as ``out=`` does it, or saved, is nothing to another; and ``view`` takes each."""
    skip_unless(driver, "slstm", 2, all_states=all_states)
    for options in FORMS.values() if units == H else ({},):
        layer, x = Recurrent("slstm", I, units, driver=driver, **options), torch.randn(2, 2, I)
        for wanted in (True, False, False):
            with torch.set_grad_enabled(wanted):
                found = tensors(layer(x, all_states=all_states))
            assert len({t.untyped_storage().data_ptr() for t in found}) == len(found)
            if not layer.batch_first:
                assert all(t.is_contiguous() for t in found)
            copies = [t.detach().clone() for t in found]
            for k, t in enumerate(found):
                t.data.resize_(2 * t.numel()).fill_(7)
                assert_close(found[k + 1 :], copies[k + 1 :], rtol=0, atol=0)


@pytest.mark.parametrize("driver", DRIVERS)
def test_one_sequence(driver):
    skip_unless(driver, "gru_reset_first", 3)
    assert_may_be_changed(Recurrent("gru_reset_first", I, H, driver=driver), torch.randn(3, I))


@pytest.mark.parametrize("lengths", [[20, 20], [20, 7]], ids=str)
@pytest.mark.parametrize("driver", ["auto", "vendor", "eager", "script", "aten", "llvm"])
@pytest.mark.parametrize("cell", ["gru", "gru_reset_first"])
def test_packed_data(cell, driver, lengths):
    skip_unless(driver, cell, 20)
    layer = Recurrent(cell, I, H, driver=driver)
    assert_may_be_changed(layer, pack_padded_sequence(torch.randn(20, B, I), lengths))


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_of_a_cell(name, driver):
    if name == "RNNCell" and driver in ("auto", "vendor"):
        pytest.skip("torch.nn.RNNCell's own forward keeps what it gives")
    layer = getattr(gatefuse, name)(I, H, driver=driver)
    skip_unless(driver, layer.cell.name, 1)
    assert_may_be_changed(layer, torch.randn(B, I))
    assert_may_be_changed(layer, torch.randn(I))


def test_without_gradients_nothing_is_copied(monkeypatch):
    given = []
    run = find_driver("aten").run
    monkeypatch.setattr(find_driver("aten"), "run", lambda task: given.append(run(task)) or given[-1])
    layer = Recurrent("gru", I, H, driver="aten")
    with torch.no_grad():
        output, final = layer(torch.randn(20, B, I))
    assert output.data_ptr() == given[0].sequences[0].data_ptr()
    changed((output, final))
    layer.requires_grad_(False)
    assert layer(torch.randn(20, B, I))[0].data_ptr() == given[1].sequences[0].data_ptr()
