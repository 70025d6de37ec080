"""Models that torch.jit.trace and torch.fx record: a layer's record does what a record of torch.nn's does."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.testing import assert_close

import gatefuse

I, H = 4, 6
LAYERS = ["LSTM", "GRU", "RNN"]
# torch's own tracing warns of the values that it keeps
traces = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")


class Packing(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        output, state = self.layer(packed)
        return pad_packed_sequence(output)[0], state


class Calling(nn.Module):
    """Calls a layer with these arguments after the input."""

    def __init__(self, layer, **options):
        super().__init__()
        self.layer, self.options = layer, options

    def forward(self, x, state=None):
        return self.layer(x.relu(), state, **self.options)


def pair(name, *sizes):
    theirs = getattr(nn, name)(*(sizes or (I, H)))
    ours = getattr(gatefuse, name)(*(sizes or (I, H)))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@traces
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("steps", [1, 3])
def test_a_trace_is_for_any_number_of_steps(name, steps):
    ours, theirs = pair(name)
    traced = torch.jit.trace(ours.eval(), torch.randn(steps, 2, I))
    x = torch.randn(5, 2, I)
    assert_close(traced(x), theirs(x))


@traces
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("lengths", [[5, 5, 5], [5, 2, 3]])
def test_a_trace_of_packed_input_is_for_any_lengths(name, lengths):
    ours, theirs = (Packing(layer) for layer in pair(name))
    traced = torch.jit.trace(ours, (torch.randn(5, 3, I), torch.tensor(lengths)), check_trace=False)
    for steps, others in ((5, [1, 5, 4]), (7, [7, 7, 2])):
        x = torch.randn(steps, 3, I)
        assert_close(traced(x, torch.tensor(others)), theirs(x, torch.tensor(others)))


@traces
def test_a_trace_of_padded_input_is_for_samples_without_steps():
    layer = gatefuse.Recurrent("gru_reset_first", I, H, driver="eager").requires_grad_(False)
    x, state = torch.randn(5, 2, I), torch.randn(1, 2, H)

    def run(x, state, lengths):
        return layer(x, state, lengths=lengths)

    traced = torch.jit.trace(run, (x, state, torch.tensor([5, 2])), check_trace=False)
    lengths = torch.tensor([0, 4])
    assert_close(traced(x, state, lengths), run(x, state, lengths))


@pytest.mark.parametrize("name", [*LAYERS, "LSTMCell", "GRUCell", "RNNCell"])
def test_fx_records_a_layer_as_one_node(name):
    layer, _ = pair(name)
    traced = torch.fx.symbolic_trace(Calling(layer))
    (node,) = [node for node in traced.graph.nodes if node.op == "call_module"]
    assert (node.target, len(node.args), node.kwargs) == ("layer", 2, {})
    x = torch.randn(2, I) if name.endswith("Cell") else torch.randn(5, 2, I)
    results = layer(x.relu())
    state = results if name.endswith("Cell") else results[1]
    assert_close(traced(x, state), layer(x.relu(), state))


def test_fx_records_a_layer_s_own_arguments():
    mask = torch.tensor([[0, 1], [1, 0], [0, 0]], dtype=torch.bool)
    options = {"resets": mask, "all_states": True}
    layer = gatefuse.Recurrent("gru_reset_first", I, H)
    traced = torch.fx.symbolic_trace(Calling(layer, **options), concrete_args={"state": None})
    (node,) = [node for node in traced.graph.nodes if node.op == "call_module"]
    assert (len(node.args), set(node.kwargs)) == (1, set(options))
    x = torch.randn(3, 2, I)
    assert_close(traced(x), layer(x.relu(), **options))


class Constant(nn.Module):
    """Calls a layer with constants, but for the arguments of these names."""

    def __init__(self, layer, *names):
        super().__init__()
        self.layer, self.names = layer, names

    def forward(self, value):
        x = torch.ones(2, I) if "Cell" in type(self.layer).__name__ else torch.ones(3, 2, I)
        mask = torch.zeros(3, 2, dtype=torch.bool)
        given = {"resets": mask} if "reset_state" in self.names else {}
        given |= dict.fromkeys(self.names, value)
        state = given.pop("state", None)
        return self.layer(x, state, **given)


def assert_recorded(layer, value, *names, form=lambda value: value):
    class Formed(Constant):
        def forward(self, value):
            return super().forward(form(value))

    model = Formed(layer, *names)
    traced = torch.fx.symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["layer"]
    assert_close(traced(value), model(value))


@pytest.mark.parametrize("name", [*LAYERS, "LSTMCell", "GRUCell", "RNNCell"])
def test_fx_records_a_layer_of_which_it_knows_only_the_state(name):
    layer, _ = pair(name)
    state = torch.randn(2, H) if name.endswith("Cell") else torch.randn(1, 2, H)
    assert_recorded(layer, state, "state", form=(lambda s: (s, s)) if "LSTM" in name else (lambda s: s))


@pytest.mark.parametrize("name", [*LAYERS, "Recurrent"])
@pytest.mark.parametrize("argument", ["lengths", "resets", "reset_state"])
def test_fx_records_a_layer_of_which_it_knows_only(name, argument):
    layer = gatefuse.Recurrent("lstm", I, H) if name == "Recurrent" else pair(name)[0]
    values = {
        "lengths": torch.tensor([3, 1]),
        "resets": torch.tensor([[True, False]] * 3),
        "reset_state": torch.randn(1, 2, H),
    }
    two = argument == "reset_state" and len(layer.cell.states) > 1
    assert_recorded(layer, values[argument], argument, form=(lambda s: (s, s)) if two else (lambda s: s))


@pytest.mark.parametrize("driver", ["auto", "vendor", "eager", "script", "aten", "llvm"])
@pytest.mark.parametrize("name", [*LAYERS, "slstm"])
def test_make_fx_records_operators_for_any_sizes(name, driver):
    if (name, driver) == ("slstm", "vendor"):
        pytest.skip("torch has no loop for it")
    layer = gatefuse.Recurrent(name, I, H, driver=driver) if name == "slstm" else getattr(gatefuse, name)(I, H)
    layer.driver = driver
    x = torch.randn(5, 3, I)
    options = {"tracing_mode": "symbolic", "_allow_non_fake_inputs": True}
    traced = torch.fx.experimental.proxy_tensor.make_fx(lambda x: layer(x)[0], **options)(x)
    assert_close(traced(x), layer(x)[0])


PARTED = {"heads": {"heads": 2}, "a head for each unit": {"heads": H}, "a projection": {"proj_size": 2}}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("options", PARTED.values(), ids=PARTED)
def test_traces_of_heads_and_projections_are_for_any_number_of_steps(options):
    layer = gatefuse.Recurrent("slstm", I, H, 2, dtype=torch.float64, **options)
    with torch.no_grad():
        traced = torch.jit.trace(layer, (torch.randn(5, 2, I, dtype=torch.float64),), check_trace=False)
        for steps, samples in ((5, 2), (9, 4)):
            x = torch.randn(steps, samples, I, dtype=torch.float64)
            assert_close(traced(x), layer(x))
