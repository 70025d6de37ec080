"""The operators behind the step driver: torch's own checks, double backward, errors before any launch."""

import re

import pytest
import torch

import gatefuse
from gatefuse import find_cell
from gatefuse.kernels.drivers import eager, step
from gatefuse.kernels.loops.buffers import buffer_shapes
from gatefuse.kernels.loops.operator import sequence_backward, sequence_forward
from gatefuse.kernels.loops.registry import LOOPS
from tests.support import made_up_cells, opcheck
from tests.support.oracle import cast, make_task

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CELLS = (find_cell("lstm"), find_cell("gru_reset_first"), find_cell("peephole_lstm"), made_up_cells.warm_start)


def arguments(cell, *, order="forward", T=3, B=2, H=4, masks=True, save=True, loop="step"):
    G, S, P = len(cell.gates), len(cell.states), len(cell.parameters)
    W = 2 * H if order == "both" else H

    def leaf(*shape):
        return torch.randn(*shape, device=DEVICE).mul_(0.5).requires_grad_(save)

    restarts = (torch.rand(T, B) < 0.5).to(DEVICE) if masks else None
    live = (torch.arange(T)[:, None] < torch.tensor([T, 1])).to(DEVICE) if masks else None
    return [
        leaf(T, B, G * W),
        leaf(S, B, W).detach().abs().requires_grad_(save),
        leaf(G * W, H),
        leaf(G * W),
        leaf(P, W),
        restarts if restarts is None or order != "both" else torch.stack([restarts, ~restarts]),
        leaf(S, B, W).detach().abs().requires_grad_(save) if masks else None,
        live,
        cell.key,
        loop,
        order,
        save,
        True,
    ]


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_torch_checks_the_forward_operator(cell, masks, loop):
    _ = cell.program
    opcheck.check(sequence_forward, tuple(arguments(cell, masks=masks, loop=loop)))


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["step", "block", "grid"])
def test_torch_checks_both_directions(loop):
    _ = CELLS[1].program
    opcheck.check(sequence_forward, tuple(arguments(CELLS[1], order="both", loop=loop)))


@pytest.mark.slow
@pytest.mark.parametrize("order", ["forward", "both"])
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_torch_checks_the_backward_operator(cell, order):
    with torch.no_grad():
        args = arguments(cell, order=order)
        kept = sequence_forward(*args)
        tensors = [a.detach() if isinstance(a, torch.Tensor) else a for a in args[:8]]
        d = [torch.randn_like(kept[k]) for k in range(3)]
    opcheck.check(sequence_backward, (*tensors, *kept, *d, cell.key, "step", order))


def test_buffers_are_as_large_as_promised():
    for cell in CELLS:
        for save in (True, False):
            args = arguments(cell, save=save)
            _, rest, _, saved, fed = sequence_forward(*args)
            shapes = buffer_shapes(cell, 3, 2, 4, save, True)
            assert tuple(tuple(v.shape) for v in (rest, saved, fed)) == shapes


@pytest.mark.parametrize("name", ["lstm", "gru_reset_first", "peephole_lstm"])
def test_gradients_have_gradients(name):
    def penalty(driver, task):
        """A gradient penalty, as WGAN-GP has, and its gradients."""
        output = driver.run(task).sequences[0]
        (d_x,) = torch.autograd.grad(output.square().sum(), task.x, create_graph=True)
        leaves = [task.x, task.weights.recurrent, task.weights.input, task.states[0]]
        return torch.autograd.grad(d_x.square().sum(), leaves)

    task = cast(make_task(find_cell(name), 3, 2, 4, lengths=True), torch.float32, DEVICE)
    for got, expected in zip(penalty(step, task), penalty(eager, task), strict=True):
        torch.testing.assert_close(got, expected)


def test_without_save_there_is_no_backward():
    args = arguments(CELLS[0])
    args[11] = False
    with pytest.raises(
        RuntimeError, match=r"must be called with save=True where gradients are wanted. Got save=False."
    ):
        sequence_forward(*args)


@pytest.mark.parametrize(
    ("index", "value", "error", "match"),
    [
        (
            0,
            torch.zeros(3, 2, 16, dtype=torch.float64),
            TypeError,
            "x must be float32, float16 or bfloat16, or float64 for the loops aten, llvm. Got torch.float64.",
        ),
        (0, torch.zeros(3, 2, 15), ValueError, r"x must have shape \(T, B, 4 \* H\). Got \(3, 2, 15\)."),
        (1, torch.zeros(1, 2, 4), ValueError, r"states must have shape \(2, 2, 4\). Got \(1, 2, 4\)."),
        (2, torch.zeros(4, 16), ValueError, r"weight must have shape \(16, 4\). Got \(4, 16\)."),
        (2, torch.zeros(16, 4).half(), TypeError, "weight must be torch.float32. Got torch.float16."),
        (5, torch.zeros(3, 2), TypeError, "restarts must be torch.bool. Got torch.float32."),
        (5, None, ValueError, "restarts and fresh must be given together. Got fresh without restarts."),
        (6, None, ValueError, "restarts and fresh must be given together. Got restarts without fresh."),
        (6, torch.zeros(1, 2, 4), ValueError, r"fresh must have shape \(2, 2, 4\). Got \(1, 2, 4\)."),
        (7, torch.ones(2, 3, dtype=torch.bool), ValueError, r"live must have shape \(3, 2\). Got \(2, 3\)."),
        (10, "sideways", ValueError, "order must be one of forward, reverse, both. Got 'sideways'."),
        (10, "both", ValueError, r"weight must have shape \(16, 2\). Got \(16, 4\)."),
        (0, torch.zeros(3, 2, 24), ValueError, r"states must have shape \(2, 2, 6\). Got \(2, 2, 4\)."),
        (9, "slow", ValueError, "loop must be one of aten, llvm, step, block, grid. Got 'slow'."),
        (8, "nobody", ValueError, "cell must be the key of a cell defined in this process. Got 'nobody'."),
    ],
)
def test_errors_come_before_any_launch(index, value, error, match):
    args = arguments(find_cell("lstm"), save=False)
    args[index] = value.to(DEVICE) if isinstance(value, torch.Tensor) else value
    with pytest.raises(error, match=match):
        sequence_forward(*args)


def test_no_steps():
    task = cast(make_task(find_cell("lstm"), 0, 2, 4), torch.float32, DEVICE)
    outcome = step.run(task)
    assert outcome.sequences[0].shape == (0, 2, 4)
    for final, first in zip(outcome.finals, task.states, strict=True):
        assert torch.equal(final, first)
    outcome.finals[0].sum().backward()
    assert torch.equal(task.states[0].grad, torch.ones_like(task.states[0]))


def test_a_kernel_that_does_not_fit_falls_back_and_says_so_once(monkeypatch):
    from triton.runtime.errors import OutOfResources

    from gatefuse.kernels.loops import registry
    from gatefuse.kernels.loops.triton import block

    def too_large(*_):
        raise OutOfResources(300_000, 232_448, "shared memory")

    args = arguments(find_cell("lstm"), loop="block")
    expected = sequence_forward(*args)
    monkeypatch.setattr(block, "forward", too_large)
    registry._say_once.cache_clear()
    with pytest.warns(
        RuntimeWarning, match="lstm: the block driver's forward kernel does not fit, step runs in its place"
    ):
        output = sequence_forward(*args)[0]
    tf32 = {} if DEVICE == "cpu" else {"rtol": 2**-8, "atol": 2**-8}
    torch.testing.assert_close(output, expected[0], **tf32)
    assert torch.equal(sequence_forward(*args)[0], output)


TOO_MANY = "Triton Error [CUDA]: too many blocks in cooperative launch"


@pytest.mark.parametrize("way", ["forward", "backward"])
def test_programs_that_cannot_all_be_resident_leave_it_to_step_and_that_is_said_once(monkeypatch, way):
    from gatefuse.kernels.loops import registry
    from gatefuse.kernels.loops.triton import block

    def crowded(*_):
        raise RuntimeError(TOO_MANY)

    x, states, *rest = arguments(find_cell("lstm"), loop="block", save=True)

    def run():
        leaf = x.detach().clone().requires_grad_()
        output = sequence_forward(leaf, states, *rest)[0]
        output.sum().backward()
        return output.detach(), leaf.grad

    expected = run()
    monkeypatch.setattr(block, way, crowded)
    registry._say_once.cache_clear()
    said = f"lstm: the block driver's {way} kernel does not fit, step runs in its place: {re.escape(TOO_MANY)}"
    with pytest.warns(RuntimeWarning, match=said):
        found = run()
    tf32 = {} if DEVICE == "cpu" else {"rtol": 2**-8, "atol": 2**-8}
    torch.testing.assert_close(found, expected, **tf32)
    run()  # a second warning would be an error


@pytest.mark.parametrize(
    "error", [RuntimeError("Triton Error [CUDA]: device kernel image is invalid"), ValueError(TOO_MANY)]
)
def test_other_errors_of_a_launch_go_on_up(monkeypatch, error):
    from gatefuse.kernels.loops.triton import block

    def fails(*_):
        raise error

    monkeypatch.setattr(block, "forward", fails)
    with pytest.raises(type(error), match=re.escape(str(error))):
        sequence_forward(*arguments(find_cell("lstm"), loop="block"))


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["step", "block", "grid"])
def test_layers_compile_as_one_graph_with_dynamic_sizes(loop):
    @gatefuse.cell(gates="a b")
    def fresh(x, R, h):  # one that nobody has traced before torch.compile meets it
        return torch.tanh(x.a + R.a(torch.sigmoid(x.b + R.b(h)) * h))

    layer = gatefuse.Recurrent(fresh, 3, 8, num_layers=2, bidirectional=True, driver=loop, device=DEVICE)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for T, B in ((4, 2), (6, 3)):
        x = torch.randn(T, B, 3, device=DEVICE, requires_grad=True)
        gradients = []
        for run in (compiled, layer):
            output, _ = run(x)
            gradients.append((output, *torch.autograd.grad(output.square().sum(), [x, *layer.parameters()])))
        for got, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(got, expected)
