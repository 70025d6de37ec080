"""What only a GPU shows: the same bits every time, streams side by side, graph capture, very long sequences."""

import pytest
import torch

from gatefuse import Recurrent, find_cell
from gatefuse.kernels.drivers import driver, eager
from gatefuse.kernels.drivers.common import run
from gatefuse.kernels.loops.operator import sequence_forward
from gatefuse.kernels.task import Request
from gatefuse.kernels.tolerance import allowed, error
from tests.support.oracle import cast, change, check, errors, make_task, results

pytestmark = pytest.mark.gpu
LOOPS = ("step", "block", "grid")


class ByLoop:
    """A loop in the form that tests/support/oracle.py takes."""

    def __init__(self, loop):
        self.loop = loop

    def run(self, task):
        return run(task, self.loop)


@pytest.mark.grid
@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_reset_first"])
@pytest.mark.parametrize(("H", "B"), [(128, 16), (256, 16), (512, 64), (768, 16), (1024, 64), (512, 300)])
def test_grid_is_right_at_real_sizes(H, B, cell):
    check(
        ByLoop("grid"),
        make_task(find_cell(cell), 8, B, H, lengths=True, resets=True, fresh=True),
        torch.bfloat16,
        "cuda",
    )


@pytest.mark.grid
@pytest.mark.parametrize(("H", "B", "gradients"), [(650, 64, False), (450, 80, True)])
def test_grid_is_right_where_other_threads_store_than_load(H, B, gradients):
    """At these sizes Triton spreads the store and the load of the own states over the threads differently."""
    task = make_task(find_cell("lstm"), 32, B, H, seed=1)
    task = cast(change(task, lambda value: value * 0.1), torch.bfloat16, "cuda")
    with torch.set_grad_enabled(gradients):
        found = {k: run(task, "grid").sequences[0].detach().double() for k in range(100)}
    exact = eager.run(cast(task, torch.float64, "cuda")).sequences[0].detach()
    plain = eager.run(task).sequences[0].detach().double()
    most = allowed(error(plain, exact), torch.finfo(torch.bfloat16).eps)
    assert max(errors(found, dict.fromkeys(found, exact)).values()) <= most


@pytest.mark.parametrize("cell", ["gru", "lstm", "article_peephole_lstm"])
@pytest.mark.parametrize("H", [64, 128])
@pytest.mark.parametrize("loop", ["block", "step"])
def test_fresh_states_get_all_of_their_gradients(loop, H, cell):
    """Sums over steps that begin anew; at these sizes a store and a load are spread over the threads differently."""
    task = make_task(find_cell(cell), 12, 16, H, resets=True, fresh=True)
    for _ in range(5):
        check(ByLoop(loop), task, torch.bfloat16, "cuda")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_thousand_times_the_same_bits(loop):
    H = 128 if loop == "block" else 256
    task = cast(make_task(find_cell("gru_reset_first"), 12, 16, H, resets=True), torch.bfloat16, "cuda")
    first = results(ByLoop(loop), task)
    for _ in range(1000 if loop != "step" else 50):
        again = results(ByLoop(loop), task)
        assert all(torch.equal(again[name], value) for name, value in first.items())


@pytest.mark.grid
@pytest.mark.parametrize(("H", "B"), [(256, 16), (512, 16), (512, 300)])
def test_grid_s_programs_may_come_late(monkeypatch, H, B):
    """In debug mode buffers start as NaN, and programs pause before each barrier."""
    task = cast(make_task(find_cell("gru_reset_first"), 12, B, H, resets=True), torch.bfloat16, "cuda")
    first = results(ByLoop("grid"), task)
    monkeypatch.setenv("GATEFUSE_DEBUG", "1")
    for _ in range(20):
        again = results(ByLoop("grid"), task)
        assert all(torch.equal(again[name], value) for name, value in first.items())


def check_two_streams(loop, B, H):
    tasks = [cast(make_task(find_cell("lstm"), 64, B, H, seed=k), torch.bfloat16, "cuda") for k in range(2)]
    with torch.no_grad():
        alone = [run(task, loop).sequences[0] for task in tasks]
        streams = [torch.cuda.Stream() for _ in tasks]
        torch.cuda.synchronize()
        for _ in range(20):
            found = []
            for task, stream in zip(tasks, streams, strict=True):
                with torch.cuda.stream(stream):
                    found.append(run(task, loop).sequences[0])
            torch.cuda.synchronize()
            assert all(torch.equal(a, b) for a, b in zip(alone, found, strict=True))


@pytest.mark.parametrize("loop", LOOPS)
def test_two_streams_at_once(loop):
    check_two_streams(loop, 16, 128)


@pytest.mark.grid
def test_two_streams_of_grids_that_have_no_room_beside_each_other():
    """Neither may begin with a part of its programs, which would wait for the rest while they take their place."""
    check_two_streams("grid", 64, 1024)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_launch_inside_graph_capture(loop):
    task = cast(make_task(find_cell("lstm"), 16, 16, 128), torch.bfloat16, "cuda")
    with torch.no_grad():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run(task, loop)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = run(task, loop).sequences[0]
        task.x.copy_(torch.randn_like(task.x))
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(output, run(task, loop).sequences[0])


@pytest.mark.parametrize("cell", ["lstm", "gru_reset_first"])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_forward_and_a_backward_inside_graph_capture(loop, cell):
    """With biases; nothing in either waits for the device, or capturing fails."""
    task = cast(make_task(find_cell(cell), 16, 16, 128), torch.bfloat16, "cuda")
    leaves = [task.x, *task.weights[:4]]
    given = torch.randn(16, 16, 128, device="cuda", dtype=torch.bfloat16)

    def gradients():
        return torch.autograd.grad(run(task, loop).sequences[0], leaves, given)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        gradients()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = gradients()
    given.copy_(torch.randn_like(given))
    graph.replay()
    torch.cuda.synchronize()
    again = dict(enumerate(gradients()))
    assert max(errors(dict(enumerate(found)), again).values()) <= torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("loop", ["block", "grid"])
def test_seventy_thousand_steps(loop):
    T, B, H = 70_000, 64, 128
    cell = find_cell("lstm")
    torch.manual_seed(0)
    x = torch.randn(T, B, 4 * H, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(4 * H, H, device="cuda", dtype=torch.bfloat16).mul_(0.05)
    states = torch.zeros(2, B, H, device="cuda", dtype=torch.bfloat16)
    parameters = torch.empty(0, H, device="cuda", dtype=torch.bfloat16)
    shared = states, weight, None, parameters, None, None, None, cell.key
    finals = sequence_forward(x, *shared, loop, "forward", False, False)[2]
    # Forgetting makes the last states those of the last steps alone.
    tail = sequence_forward(x[-512:], *shared, "step", "forward", False, False)[2]
    assert errors({"finals": finals.double()}, {"finals": tail.double()})["finals"] < 0.05


def test_auto_runs_own_cells_by_kernels():
    layer = Recurrent("peephole_lstm", 8, 64, device="cuda")
    assert layer.plan(torch.zeros(4, 2, 8, device="cuda")).driver in ("block", "step")


@pytest.mark.grid
def test_grid_s_refusal_says_how_much_shared_memory_there_is():
    request = Request(find_cell("lstm"), torch.device("cuda"), torch.bfloat16, 4, 16, 16_384)
    assert "bytes of shared memory" in driver("grid").refusal(request)
