"""A language model over any recurrent layer or scratch network, and text that it writes.

    python -m gatefuse.models.language train --text FILE
    python -m gatefuse.models.language generate --prefix "time traveller"

says the rest with --help. The model is the RNNModel of A. Zhang et al., Dive into Deep Learning, section 8.6 (edition
2.0): one-hot tokens, a recurrent network, and one linear layer from each step's output to the next token's logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, softmax

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.cells import cell_names, find_cell
from gatefuse.models.language.text import UNKNOWN, Vocabulary, join
from gatefuse.models.layers.recurrent import Recurrent
from gatefuse.models.scratch import D2LGRU, D2LLSTM, FusedLSTM, NaiveLSTM

_SCRATCH: dict[str, Callable[[int, int], nn.Module]] = {
    "scratch-d2l-lstm": lambda V, H: D2LLSTM(V, H, V),
    "scratch-d2l-gru": lambda V, H: D2LGRU(V, H, V),
    "scratch-lstm-8-products": NaiveLSTM,
    "scratch-lstm-2-products": FusedLSTM,
}


def network_names() -> list[str]:
    """What make_network knows by name: shipped cells that see tokens alone, and networks from scratch."""
    return [*(name for name in cell_names() if not find_cell(name).inputs), *_SCRATCH]


def check_network(name: str | Cell) -> None:
    """Raises ValueError: no network has that name, or the cell needs more than tokens."""
    if isinstance(name, str) and name not in network_names():
        raise ValueError(f"network must be one of {', '.join(network_names())}. Got {name!r}.")
    if isinstance(name, Cell) and name.inputs:
        raise ValueError(f"network must be a cell without inputs beside its gates. Got {name.name}.")


def make_network(name: str | Cell, inputs: int, hidden: int, layers: int = 1, driver: str = "auto") -> nn.Module:
    """A layer of a cell, or a scratch network.

    Args:
        name: one of network_names(), or a cell.
        inputs: features of a token: the vocabulary's size where tokens are one-hot.
        hidden: units H.
        layers: L; the scratch networks have one.
        driver: as Recurrent's.

    Raises:
        ValueError: an unknown name, or more of a scratch network than it has.
    """
    check_network(name)
    if not isinstance(name, str) or name not in _SCRATCH:
        return Recurrent(name, inputs, hidden, layers, driver=driver)
    if layers != 1 or driver != "auto":
        raise ValueError(f"{name} must have one layer and the driver auto. Got {layers} and {driver}.")
    return _SCRATCH[name](inputs, hidden)


class LanguageModel(nn.Module):
    """The next token's logits at each step.

    Args:
        network: a Recurrent, a layer of gatefuse's or torch.nn's, or a scratch network. One that runs in both
            directions sees the tokens that it is to tell, so that its perplexity says nothing.
        vocabulary_size: tokens V.
        embedding: whether tokens become learned vectors of the network's input size, instead of one-hot ones of size V.

    Raises:
        TypeError: network is none of these.
        ValueError: its sizes don't fit V.
    """

    def __init__(self, network: nn.Module, vocabulary_size: int, embedding: bool = False):
        super().__init__()
        V = vocabulary_size
        inputs, outputs, self._finished = _sizes(network)
        if inputs != V and not embedding:
            raise ValueError(f"network must take {V} inputs, one for each token, or embeddings. Got {inputs}.")
        if self._finished and outputs != V:
            raise ValueError(f"network must have {V} outputs, one for each token, or none. Got {outputs}.")
        self.vocabulary_size = V
        self.network = network
        self.embedding = nn.Embedding(V, inputs) if embedding else None
        self.head = None if self._finished else nn.Linear(outputs, V)
        scratch = isinstance(network, (NaiveLSTM, FusedLSTM))
        self._batch_first = scratch or bool(getattr(network, "batch_first", False))

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Read tokens.

        Args:
            tokens: (B, T) int64, from 0 to V - 1.
            state: what a call before returned, of the same B; the network's own first state where None.

        Returns:
            Logits (B, T, V), and the state after the last token.
        """
        B, T = tokens.shape
        if not self._batch_first:
            tokens = tokens.T
        if self.embedding is not None:
            x = self.embedding(tokens)
        else:
            x = one_hot(tokens, self.vocabulary_size).to(next(self.network.parameters()).dtype)
        output, state = self.network(x, state)
        logits = output if self.head is None else self.head(output)
        if self._finished:
            logits = logits.view(T, B, -1)  # these networks give (T * B, V)
        return logits if self._batch_first else logits.transpose(0, 1), state


def _sizes(network: nn.Module) -> tuple[int, int, bool]:
    """Inputs, outputs, and whether the outputs are logits already."""
    if isinstance(network, (D2LLSTM, D2LGRU)):
        if network.num_outputs is None:
            return network.num_inputs, network.num_hiddens, False
        return network.num_inputs, network.num_outputs, True
    if isinstance(network, nn.RNNCellBase) or not hasattr(network, "input_size") or not hasattr(network, "hidden_size"):
        raise TypeError(f"network must be a recurrent layer or a scratch network. Got {type(network).__name__}.")
    directions = 2 if getattr(network, "bidirectional", False) else 1
    return network.input_size, directions * _features(network), False  # type: ignore


def _features(network: Any) -> int:
    """Of the output of a direction."""
    return (
        network.output_size
        if isinstance(network, Recurrent)
        else getattr(network, "proj_size", 0) or network.hidden_size
    )


def detach(state: Any) -> Any:
    """The state without its history, so that the next batch's gradients end where it begins."""
    return state.detach() if isinstance(state, Tensor) else tuple(map(detach, state))


def split_prefix(prefix: str, kind: str) -> list[str]:
    """A prefix's tokens, in lower case.

    Raises:
        ValueError: there are none.
    """
    tokens = list(prefix.lower()) if kind == "char" else prefix.lower().split()
    if not tokens:
        raise ValueError(f"prefix must have at least one token. Got {prefix!r}.")
    return tokens


def unknown_tokens(tokens: Iterable[str], vocabulary: Vocabulary) -> list[str]:
    """Those that the vocabulary lacks, each once."""
    return [token for token in dict.fromkeys(tokens) if token not in vocabulary and token != UNKNOWN]


def generate(
    model: LanguageModel,
    vocabulary: Vocabulary,
    prefix: str,
    count: int,
    kind: str = "char",
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> str:
    """The prefix and what the model writes after it. Errors are stream's.

    Tokens of the prefix that the vocabulary lacks are read, and stand in the answer, as ``<unk>``.

    Args:
        model: one that reads in one direction.
        vocabulary: that it was trained with.
        prefix: text, of at least one token.
        count: how many tokens to write.
        kind: of token, char or word.
        temperature: 0 for the likeliest token each time; else tokens are drawn, the logits divided by it.
        generator: draws them; on the CPU.
    """
    tokens = split_prefix(prefix, kind)
    known = vocabulary.decode(vocabulary.encode(tokens))
    return join([*known, *stream(model, vocabulary, tokens, count, temperature, generator)], kind)


def stream(
    model: LanguageModel,
    vocabulary: Vocabulary,
    prefix: list[str],
    count: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[str]:
    """The tokens that the model writes after a prefix, one by one: each costs one step, since the state is kept.

    Args:
        model: one that reads in one direction.
        vocabulary: that it was trained with.
        prefix: tokens.
        count: how many to write.
        temperature: 0 for the likeliest token each time; else tokens are drawn, the logits divided by it.
        generator: draws them; on the CPU.

    Raises:
        ValueError: no prefix, a temperature or count below zero or without end, or a model that reads both ways.
    """
    if not prefix:
        raise ValueError("prefix must have at least one token. Got none.")
    if count < 0 or not 0 <= temperature < float("inf"):
        raise ValueError(f"count and temperature must be finite and not negative. Got {count} and {temperature}.")
    if getattr(model.network, "bidirectional", False):
        raise ValueError("a model that writes must read in one direction. Got one of both.")
    return _stream(model, vocabulary, prefix, count, temperature, generator)


@torch.no_grad()
def _stream(
    model: LanguageModel,
    vocabulary: Vocabulary,
    prefix: list[str],
    count: int,
    temperature: float,
    generator: torch.Generator | None,
) -> Iterator[str]:
    device = next(model.parameters()).device
    tokens, state = vocabulary.encode(prefix), None
    for _ in range(count):
        logits, state = model(tokens.view(1, -1).to(device), state)
        last = logits[0, -1].cpu()
        if temperature:
            # The largest becomes 0, so that no temperature, however low, makes infinities whose difference is none.
            scaled = (last - last.max()).double() / temperature
            tokens = torch.multinomial(softmax(scaled, 0), 1, generator=generator)
        else:
            tokens = last.argmax()
        yield vocabulary.names[int(tokens)]
