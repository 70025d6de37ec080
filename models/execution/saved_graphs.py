"""Graphs of autograd's that an operator's forward keeps for its backward, where what it keeps is no tensor.

The operator returns a byte whose memory belongs to what it keeps: that lives as long as the byte does, in whoever's
hands, and is found by the byte's address. A copy of the byte finds nothing; then the forward must run once more.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from gatefuse.kernels.cell import Version


class _Graph(array):
    """A graph from leaves to results, and the memory of the byte that stands for it."""

    def __new__(cls, *_: object) -> Any:
        return super().__new__(cls, "B", b"\0")

    def __init__(self, leaves: Sequence[Tensor], results: Sequence[Tensor]):
        self.leaves, self.results = leaves, results


class _Promise(_Graph):
    """In place of a graph that is to be made in the backward: the equations, which must be the same then."""

    def __init__(self, version: Version):
        super().__init__((), ())
        self.version = version


_graphs: WeakValueDictionary[int, _Graph] = WeakValueDictionary()


def keep(
    inputs: Sequence[Tensor],
    wanted: Sequence[bool],
    run: Callable[[Sequence[Tensor]], list[Tensor]],
    version: Version,
) -> tuple[list[Tensor], Tensor]:
    """The results of ``run`` on the inputs, and the byte for ``back``.

    Args:
        wanted: which inputs have gradients.
        version: the equations that run.
    """
    if not _recording():
        with torch.no_grad():
            return run([t.detach() for t in inputs]), _byte(_Promise(version))
    # Copies, as a compiler may write other things where inputs and results lay, before it comes to the backward.
    leaves = [t.detach().clone().requires_grad_(want) for t, want in zip(inputs, wanted, strict=True)]
    with torch.enable_grad():
        results = run(leaves)
    return [r.detach().clone() for r in results], _byte(_Graph(leaves, results))


def _byte(graph: _Graph) -> Tensor:
    _graphs[graph.buffer_info()[0]] = graph
    return torch.frombuffer(graph, dtype=torch.uint8)


def _recording() -> bool:
    """Whether autograd records: not in a compiled operator's first call, which torch watches by a mode below it.

    What runs there as if it did would have TorchScript compile a loop without gradients, for all calls to come.
    """
    with torch.enable_grad():
        return torch.zeros(1, requires_grad=True, device="cpu").neg().requires_grad


@contextmanager
def recording() -> Iterator[None]:
    """Autograd records within, also where a mode of torch's dispatcher, to whom it is done with, runs an operator."""
    kept_out = torch._C._dispatch_tls_local_exclude_set()
    for key in ("AutogradCPU", "AutogradCUDA", "AutogradOther", "ADInplaceOrView"):
        kept_out = kept_out.remove(getattr(torch._C.DispatchKey, key))
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), kept_out), torch.enable_grad():
        yield


def back(byte: Tensor, d_results: Sequence[Tensor | None]) -> Sequence[Tensor | None] | None:
    """Gradients of the inputs that have any, from those of the results; None where the forward must run once more, as
    where the byte is a copy.

    Raises:
        RuntimeError: the forward must run, and its equations have changed.
    """
    graph = _graphs.get(byte.data_ptr())
    if isinstance(graph, _Promise):
        graph.version.unchanged()
        return None
    if graph is None:
        return None
    # the graph stays as long as the byte does: one may go back through it again
    return gradients(graph.results, graph.leaves, d_results, retain_graph=True)


def gradients(
    results: Sequence[Tensor], leaves: Sequence[Tensor], d_results: Sequence[Tensor | None], retain_graph: bool = False
) -> Sequence[Tensor | None]:
    """Of the leaves that require one, from those of the results; None where there is no way back."""
    pairs = [(r, d) for r, d in zip(results, d_results, strict=True) if d is not None and r.requires_grad]
    outputs, given = zip(*pairs, strict=True)
    wanted = [t for t in leaves if t.requires_grad]
    return torch.autograd.grad(outputs, wanted, given, retain_graph=retain_graph, allow_unused=True)
