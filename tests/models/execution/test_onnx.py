"""Layers as ONNX's standard operators, run by onnxruntime against the layer itself."""

import io

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.testing import assert_close

import gatefuse
from gatefuse import Recurrent
from gatefuse.models.onnx import translation_table
from tests.support.kernels.compiling import compiling
from tests.support.layers import flat

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

# torch's exporter uses what torch has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:.isinstance\\(treespec, LeafSpec:FutureWarning")

T, B, I, H = 5, 3, 4, 6
ANY = Dim.DYNAMIC
STANDARD = {"LSTM", "GRU", "RNN"}
LAYERS = {
    "LSTM": lambda: gatefuse.LSTM(I, H, 2, bidirectional=True),
    "LSTM without bias": lambda: gatefuse.LSTM(I, H, bias=False),
    "GRU": lambda: gatefuse.GRU(I, H, bidirectional=True),
    "RNN": lambda: gatefuse.RNN(I, H),
    "RNN with relu": lambda: gatefuse.RNN(I, H, nonlinearity="relu", batch_first=True),
    "RNN both ways": lambda: gatefuse.RNN(I, H, bidirectional=True),
    "elman_relu both ways": lambda: Recurrent("elman_relu", I, H, 2, bidirectional=True),
    "gru": lambda: Recurrent("gru", I, H),
    "gru_reset_first": lambda: Recurrent("gru_reset_first", I, H, 2),
    "peephole_lstm": lambda: Recurrent("peephole_lstm", I, H, bidirectional=True),
    "lstm with heads": lambda: Recurrent("lstm", I, H, heads=2),
    "gru with a head for each unit": lambda: Recurrent("gru", I, H, 2, heads=H),
    "peephole_lstm with a projection": lambda: Recurrent("peephole_lstm", I, H, proj_size=2),
}


class Model(nn.Module):
    def __init__(self, layer, **options):
        super().__init__()
        self.layer = layer
        self.options = options

    def forward(self, x, lengths=None, h=None, c=None):
        state = h if c is None else (h, c)
        return self.layer(x, state, lengths=lengths, **self.options)


def export(model, arguments, dynamic_shapes):
    return torch.onnx.export(
        model.eval(),
        arguments,
        dynamo=True,
        dynamic_shapes=dynamic_shapes,
        custom_translation_table=translation_table(),
        verbose=False,
    )


def run(program, arguments):
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    inputs = {spot.name: value.numpy() for spot, value in zip(session.get_inputs(), arguments, strict=True)}
    return [torch.from_numpy(value) for value in session.run(None, inputs)]


def recurrent_nodes(program):
    return [node for node in program.model.graph if node.op_type in STANDARD]


@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
def test_any_number_of_steps_and_samples(build):
    layer = build()
    program = export(Model(layer), (torch.randn(T, B, I),), ({0: ANY, 1: ANY},))
    nodes = recurrent_nodes(program)
    assert len(nodes) == layer.num_layers
    assert {node.domain for node in program.model.graph} == {""}
    for steps, samples in ((T, B), (2, 9), (33, 2)):
        x = torch.randn(*((samples, steps) if layer.batch_first else (steps, samples)), I)
        for a, b in zip(run(program, [x]), flat(layer(x)), strict=True):
            assert_close(a, b.detach())


def test_the_two_grus_differ_in_one_attribute():
    found = []
    for cell in ("gru", "gru_reset_first"):
        program = export(Model(Recurrent(cell, I, H)), (torch.randn(T, B, I),), ({0: ANY},))
        found += [node.attributes["linear_before_reset"].value for node in recurrent_nodes(program)]
    assert found == [1, 0]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_lengths_and_first_states(bidirectional):
    layer = gatefuse.LSTM(I, H, bidirectional=bidirectional)
    model = Model(layer)
    D = 1 + bidirectional

    def arguments(steps):
        return torch.randn(steps, B, I), torch.tensor([steps, 0, 2]), torch.randn(D, B, H), torch.randn(D, B, H)

    program = export(model, arguments(T), ({0: ANY}, {}, {}, {}))
    for steps in (T, 17):
        given = arguments(steps)
        for a, b in zip(run(program, given), flat(model(*given)), strict=True):
            assert_close(a, b.detach())


def test_an_accelerated_model():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(10, I)
            self.rnn = nn.GRU(I, H, 2, bidirectional=True, batch_first=True)
            self.head = nn.Linear(2 * H, 3)

        def forward(self, tokens):
            return self.head(self.rnn(self.embedding(tokens))[0])

    model = Tagger()
    gatefuse.accelerate(model)
    program = export(model, (torch.randint(10, (B, T)),), ({0: ANY, 1: ANY},))
    tokens = torch.randint(10, (2, 31))
    assert_close(run(program, [tokens])[0], model(tokens).detach())


REFUSED = {
    "a cell that ONNX does not know": (
        lambda: Model(Recurrent("slstm", I, H)),
        "cell must be one of lstm, peephole_lstm, gru, gru_reset_first, elman, elman_relu to become an operator",
    ),
    "resets": (
        lambda: Model(Recurrent("gru", I, H), resets=torch.zeros(T, B, dtype=torch.bool)),
        "resets must be None in an export to ONNX, whose operators have none. Got resets.",
    ),
    "all states": (
        lambda: Model(Recurrent("lstm", I, H), all_states=True),
        "all_states must be False in an export to ONNX, whose LSTM gives the output alone. Got True.",
    ),
}


@pytest.mark.parametrize(("build", "why"), REFUSED.values(), ids=REFUSED)
def test_what_can_not_be_exported_says_why(build, why):
    with pytest.raises(torch.onnx.OnnxExporterError) as error:
        export(build(), (torch.randn(T, B, I),), None)
    reasons = []
    cause = error.value
    while cause is not None:
        reasons.append(str(cause))
        cause = cause.__cause__
    assert why in reasons[-1]


class Packs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(I, H)

    def forward(self, x, lengths=None):
        if lengths is not None:
            x = pack_padded_sequence(x, lengths, enforce_sorted=False)
        output, state = self.layer(x)
        return (output if lengths is None else pad_packed_sequence(output)[0]), *state


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore:Exporting a model")
@pytest.mark.parametrize("lengths", [None, [2, 5, 3]], ids=["a single step", "packed"])
def test_the_exporter_that_traces_takes_an_accelerated_model_as_torch_nns(lengths):
    model = Packs().eval()
    gatefuse.accelerate(model)
    example = (torch.randn(1, B, I),) if lengths is None else (torch.randn(T, B, I), torch.full((B,), T))
    names, file = ["x", "lengths"][: len(example)], io.BytesIO()
    torch.onnx.export(model, example, file, dynamo=False, input_names=names, dynamic_axes={"x": {0: "T"}})
    session = onnxruntime.InferenceSession(file.getvalue())
    given = (torch.randn(T, B, I), *([torch.tensor(lengths)] if lengths else []))
    found = session.run(None, {name: value.numpy() for name, value in zip(names, given, strict=True)})
    assert_close([torch.from_numpy(value) for value in found], list(model(*given)))


@pytest.mark.slow
@pytest.mark.parametrize("build", ["gatefuse.LSTM(4, 6)", "gatefuse.Recurrent('slstm', 4, 6)"])
def test_an_export_without_the_table_says_how_to_give_it(build, tmp_path):
    program = f"""
import torch, gatefuse
try:
    torch.onnx.export({build}, (torch.randn(5, 3, 4),), dynamo=True, verbose=False)
except Exception as error:
    print(error)
"""
    said = "\n".join(compiling(program, tmp_path, options=("-W", "ignore")))
    rule = "must be given custom_translation_table=gatefuse.models.onnx.translation_table()"
    assert rule in said
    assert "Got no such table." in said
