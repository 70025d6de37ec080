"""Real programs around torch.nn's layers, run with them, accelerated, and accelerated onto gatefuse's own loop.

`python -m tests.clients` writes reports/clients.md; the programs are the extra `clients` of pyproject.toml.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

import gatefuse
from gatefuse.bench.report.document.blocks import Heading, Items, Table
from gatefuse.bench.report.document.figures import digits
from gatefuse.bench.report.document.markdown import document
from gatefuse.bench.storage.whole_file import write_whole
from gatefuse.kernels.tolerance import error, worst
from gatefuse.models.accelerate import Exchange

REPORT = Path(__file__).parents[1] / "reports" / "clients.md"
Change = Callable[[nn.Module], Exchange]
Found = tuple[Exchange, list[Tensor]]


@dataclass(frozen=True)
class Client:
    """A program: its distribution, its modules, what of it runs, and how, with a layer's change put in.

    Attributes:
        run: makes the program's model, changes it, runs the program, and gives what came out of it.
    """

    package: str
    modules: tuple[str, ...]
    what: str
    run: Callable[[Change], Found]

    @property
    def missing(self) -> str:
        """A module that is not installed, or ""."""
        return next((name for name in self.modules if find_spec(name) is None), "")


@dataclass(frozen=True)
class Outcome:
    """What was changed in a client, and how far results, relative to the largest, are from those with torch.nn."""

    told: Exchange
    vendor: float
    auto: float
    eager: float


def nothing(model: nn.Module) -> Exchange:
    """The layers as they are."""
    return Exchange()


def measure(client: Client) -> Outcome:
    """Run a client four times from the same seed."""
    results = []
    for change in (nothing, *[partial(gatefuse.accelerate, driver=driver) for driver in ("vendor", "auto", "eager")]):
        torch.manual_seed(0)
        results.append(client.run(change))
    (_, plain), (_, vendor), (told, auto), (_, eager) = results
    return Outcome(told, *[distance(found, plain) for found in (vendor, auto, eager)])


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference of any result, as a part of that result's largest value."""
    return worst(error(a, b) for a, b in zip(found, expected, strict=True) if b.abs().max() > 0)


def recurrent_ppo(change: Change) -> Found:
    """Two LSTMs of stable-baselines3-contrib's policy, in rollouts and in training."""
    from sb3_contrib import RecurrentPPO

    options = {"n_steps": 64, "batch_size": 64, "n_epochs": 2, "policy_kwargs": {"lstm_hidden_size": 32}}
    agent = RecurrentPPO("MlpLstmPolicy", "CartPole-v1", seed=0, device="cpu", **options)
    told = change(agent.policy)
    agent.learn(256)
    return told, [p.detach() for p in agent.policy.parameters()]


def rsl_rl(change: Change) -> Found:
    """An LSTM actor and a GRU critic of rsl_rl, whose states are zeroed in place under inference mode."""
    from rsl_rl.runners import OnPolicyRunner

    from tests.support.vector_env import PointEnv

    shared = {"class_name": "rsl_rl.models.RNNModel", "hidden_dims": [16], "rnn_hidden_dim": 16}
    noise = {"class_name": "rsl_rl.modules.GaussianDistribution", "init_std": 1.0}
    config = {
        "num_steps_per_env": 12,
        "save_interval": 100,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "algorithm": {"class_name": "rsl_rl.algorithms.PPO", "num_learning_epochs": 2, "num_mini_batches": 2},
        "actor": {**shared, "rnn_type": "lstm", "distribution_cfg": noise},
        "critic": {**shared, "rnn_type": "gru", "rnn_num_layers": 2},
    }
    with contextlib.redirect_stdout(io.StringIO()):
        runner = OnPolicyRunner(PointEnv(), config)
        model = nn.ModuleDict({"actor": runner.alg.actor, "critic": runner.alg.critic})
        told = change(model)
        runner.learn(3)
    return told, [p.detach() for p in model.parameters()]


def silero_vad(change: Change) -> Found:
    """A detector of speech, which comes as TorchScript: left as it is."""
    from silero_vad import load_silero_vad

    model = load_silero_vad()
    told = change(model)
    with torch.no_grad():
        return told, [model(chunk, 16000) for chunk in 0.1 * torch.randn(4, 1, 512)]


class Tagger(nn.Module):
    """Tokens (B, T) -> scores (B, T, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.rnn = nn.GRU(8, 16, 2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(32, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.score(self.embedding(tokens))

    def score(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


def captum(change: Change) -> Found:
    """Integrated gradients of a tagger in eval mode."""
    from captum.attr import IntegratedGradients

    model = Tagger().eval()
    told = change(model)
    x = model.embedding(torch.randint(20, (2, 9))).detach()
    explained = IntegratedGradients(lambda x: model.score(x)[:, -1])
    return told, [explained.attribute(x, target=k, n_steps=8) for k in range(3)]


def onnxruntime(change: Change) -> Found:
    """A tagger, exported to ONNX where it was changed, for any length."""
    from onnxruntime import InferenceSession
    from torch.export import Dim

    from gatefuse.models.onnx import translation_table

    model = Tagger().eval()
    told = change(model)
    example, tokens = torch.randint(20, (2, 9)), torch.randint(20, (3, 40))
    if not told.changed:
        return told, [model(tokens).detach()]
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: Dim.DYNAMIC, 1: Dim.DYNAMIC},),
        custom_translation_table=translation_table(),
        verbose=False,
    )
    session = InferenceSession(program.model_proto.SerializeToString())
    (scores,) = session.run(None, {session.get_inputs()[0].name: tokens.numpy()})
    return told, [torch.from_numpy(scores)]


CLIENTS = (
    Client("sb3-contrib", ("sb3_contrib",), "RecurrentPPO, 256 steps of CartPole, 2 epochs each", recurrent_ppo),
    Client("rsl-rl-lib", ("rsl_rl",), "PPO with an LSTM actor and a GRU critic, 3 iterations", rsl_rl),
    Client("captum", ("captum",), "integrated gradients of a tagger in eval mode", captum),
    Client(
        "onnxruntime", ("onnxruntime", "onnxscript"), "a tagger exported to ONNX, run at another length", onnxruntime
    ),
    Client("silero-vad", ("silero_vad",), "a TorchScript model", silero_vad),
)


def row(client: Client, outcome: Outcome) -> dict[str, str]:
    """The client's line of the report."""
    left = {why.split(";")[0] for why in outcome.told.left.values()}
    return {
        "client": f"{client.package} {version(client.package)}",
        "what runs": client.what,
        "replaced": ", ".join(f"`{name}` {what.split('.')[-1]}" for name, what in outcome.told.changed.items()) or "-",
        "left": "; ".join(f"{len(outcome.told.left)} layers: {why}" for why in left) or "-",
        "vendor differs by": digits(outcome.vendor),
        "auto differs by": digits(outcome.auto),
        "eager differs by": digits(outcome.eager),
    }


def main() -> None:
    torch.set_num_threads(1)
    blocks = [
        Heading("Programs of others, accelerated", 1),
        "Each program runs four times from one seed: with torch.nn's layers, after `gatefuse.accelerate(model)`, which "
        'runs compiled code of the equations on a CPU, with `driver="vendor"`, which leaves the layers to torch\'s own '
        'loop, and with `driver="eager"`, which runs every step in a Python loop.',
        Table(pd.DataFrame([row(client, measure(client)) for client in CLIENTS])),
        Items(
            (
                "They differ by: the largest difference of any result (trained weights, gradients, scores) from that "
                "with torch.nn, as a part of the result's largest value, in float32.",
                f"torch {torch.__version__}, CPU. `python -m tests.clients` writes this file.",
            )
        ),
    ]
    write_whole(REPORT, document(blocks))


if __name__ == "__main__":
    main()
