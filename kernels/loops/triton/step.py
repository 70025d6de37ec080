"""The step driver's time loop: launch by launch, or in parts of fixed lengths that are recorded once and then replayed.

Up to some size of the states, the host takes longer to start a step's kernels than a GPU to run them. From the second
call of a shape on, a sequence is therefore cut into parts, each a sequence that goes on where the one before ended, and
parts are replayed as CUDA graphs (see recording.py). Shapes as in loops/inputs.py.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from gatefuse.kernels.loops.buffers import Backward, Forward, Gradients, Upstream
from gatefuse.kernels.loops.directions import FORWARD, GRADIENTS, UPSTREAM, dense, halves, inputs_of, join
from gatefuse.kernels.loops.inputs import Sequence
from gatefuse.kernels.loops.triton import step_launches
from gatefuse.kernels.loops.weight_gradients import finish
from gatefuse.kernels.runtime.graphs import recording
from gatefuse.kernels.tiling.segments import Part, parts, worth_recording

# Inputs of a part that are the same in all parts of a call: weight, bias, parameters, fresh.
_SHARED = frozenset((2, 3, 4, 6))

Inputs = tuple[Tensor | None, ...]


def forward(loop: Sequence, save: bool, all_states: bool) -> Forward:
    """Run the steps; with save, keep what the backward needs. Two directions run one after the other."""
    if loop.order == "both":
        found = [forward(each, save, all_states) for each in _apart(loop)]
        return Forward(*join(list(zip(*found, strict=True)), FORWARD, loop.H))
    key = _wanted(loop, "forward", save, all_states)
    if key is None:
        return step_launches.forward(loop, save, all_states).result()

    def run(*inputs: Any) -> Forward:
        return step_launches.forward(Sequence(loop.cell, *[*inputs, loop.order]), save, all_states)

    kept = loop.buffers(save, all_states)
    with recording.lock:
        for part, replay in _replays(parts(loop.T, loop.reverse), key, run, _SHARED):
            found = replay(_inputs(loop, part, kept.finals))
            kept.output[part.steps] = found.output
            for whole, piece in ((kept.rest, found.rest), (kept.saved, found.saved), (kept.fed, found.fed)):
                if whole.shape[1] == loop.T:  # without save, fed is that of a single step
                    whole[:, part.steps] = piece
            kept.finals.copy_(found.finals)
    return kept.result()


def backward(loop: Sequence, kept: Forward, upstream: Upstream) -> Gradients:
    """Run the steps backward, then the products over all steps; ``kept`` is what forward returned with save."""
    if loop.order == "both":
        each = [
            backward(
                part,
                Forward(*dense(halves(kept, FORWARD, d, loop.H))),
                Upstream(*dense(halves(upstream, UPSTREAM, d, loop.H))),
            )
            for d, part in enumerate(_apart(loop))
        ]
        return Gradients(*join(list(zip(*each, strict=True))[: len(GRADIENTS)], GRADIENTS, loop.H))
    key = _wanted(loop, "backward", upstream.rest is not None)
    if key is None:
        return finish(loop, kept, step_launches.backward(loop, kept, upstream))

    def run(*tensors: Any) -> Backward:
        *inputs, output, rest, saved, fed, d_output, d_rest, d_finals = tensors
        piece = Sequence(loop.cell, *[*inputs, loop.order])
        before = Forward(output, rest, piece.states, saved, output[:0] if fed is None else fed)
        return step_launches.backward(piece, before, Upstream(d_output, d_rest, d_finals))

    # Where every slot is saved, no kernel reads x.
    unread = {0} if all(block >= 0 for block in loop.shape.SAVED) else set()
    d = loop.gradients(upstream.finals)
    with recording.lock:
        for part, replay in _replays(parts(loop.T, loop.reverse, "backward")[::-1], key, run, _SHARED | unread):
            steps = part.steps
            d_rest = None if upstream.rest is None else upstream.rest[:, steps]
            fed = kept.fed[:, steps] if loop.shape.TIES else None
            found = replay((
                *_inputs(loop, part, _before(loop, kept, part)), kept.output[steps], kept.rest[:, steps],
                kept.saved[:, steps], fed, upstream.output[steps], d_rest, d.states,
            ))  # fmt: skip
            d.x[steps] = found.x
            if d.r is not d.x:
                d.r[steps] = found.r
            d.states.copy_(found.states)
            d.parameters.add_(found.parameters)
            if d.fresh is not None:
                d.fresh.add_(found.fresh)
    return finish(loop, kept, d)


def _apart(loop: Sequence) -> list[Sequence]:
    """Each direction's sequence."""
    inputs = loop.x, loop.states, loop.weight, loop.bias, loop.parameters, loop.restarts, loop.fresh, loop.live
    found = []
    for d, order in enumerate(("forward", "reverse")):
        found.append(Sequence(loop.cell, *[*dense(inputs_of(inputs, d)), order]))
    return found


def _wanted(loop: Sequence, way: str, *flags: bool) -> Hashable | None:
    """Where this call is cut into recorded parts, their key; else None."""
    if not worth_recording(loop.T, loop.B, loop.H, way) or not recording.possible(loop.x.device):
        return None
    key = _key(loop, way, *flags)
    return key if recording.again(key) else None


def _key(loop: Sequence, *flags: Any) -> Hashable:
    """All that a part's kernels depend on, but for its length."""
    given = loop.bias is not None, loop.restarts is not None, loop.live is not None
    return loop.cell.key, loop.x.dtype, loop.B, loop.H, loop.order, given, flags, _products()


def _products() -> Hashable:
    """What torch's user may ask of products, by which torch picks the kernel that a recording keeps."""
    matmul = torch.backends.cuda.matmul
    return (
        # allow_tf32 and get_float32_matmul_precision raise an error where the user has set this one.
        matmul.fp32_precision,
        matmul.allow_fp16_reduced_precision_reduction,
        matmul.allow_bf16_reduced_precision_reduction,
        matmul.allow_fp16_accumulation,
        torch.are_deterministic_algorithms_enabled(),
    )


def _replays(parts: list[Part], key: Hashable, run: Callable[..., Any], shared: frozenset[int]) -> Any:
    """Each part, and what runs it on its inputs; recordings get the shared ones once."""
    loaded: set[int] = set()
    for part in parts:
        length = part.last - part.first

        def replay(inputs: Inputs, part: Part = part, length: int = length) -> Any:
            recorded = recording.find((key, length), run, inputs) if part.recorded else None
            if recorded is None:
                return run(*dense(inputs))
            if length in loaded:
                inputs = tuple([None if k in shared else v for k, v in enumerate(inputs)])
            loaded.add(length)
            return recorded(inputs)

        yield part, replay


def _inputs(loop: Sequence, part: Part, states: Tensor) -> Inputs:
    """A part's inputs, in the order of Sequence's."""
    restarts, live = (None if mask is None else mask[part.steps] for mask in (loop.restarts, loop.live))
    return loop.x[part.steps], states, loop.weight, loop.bias, loop.parameters, restarts, loop.fresh, live


def _before(loop: Sequence, kept: Forward, part: Part) -> Tensor:
    """The states that a part began with, (S, B, H)."""
    t = part.last if loop.reverse else part.first - 1
    if not 0 <= t < loop.T:
        return loop.states
    return torch.cat([kept.output[t].unsqueeze(0), kept.rest[:, t]])
