"""Memory that calls of compiled code are given again: never what somebody still reads."""

import pytest
import torch

import gatefuse
from gatefuse.kernels.runtime import scratch

NUMBERS = 100_000


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    """Memory is given again, which filling it would undo, and none is kept of other tests."""
    torch.use_deterministic_algorithms(False)
    monkeypatch.setattr(scratch, "_kept", scratch._Kept())


def take(numbers=NUMBERS, dtype=torch.float32):
    return scratch.until_freed(torch.empty(0, dtype=dtype), numbers)


def kept():
    return scratch._kept.blocks


def test_what_is_freed_is_given_again():
    first = take()
    at = first.data_ptr()
    del first
    smaller = take(NUMBERS // 2)
    assert (smaller.data_ptr(), smaller.shape) == (at, (NUMBERS // 2,))


@pytest.mark.parametrize("part", [lambda t: t, lambda t: t[5:], lambda t: t.detach(), lambda t: t.untyped_storage()])
def test_what_somebody_holds_is_not(part):
    holder = part(take())
    at = kept()[0].data_ptr()
    assert take().data_ptr() != at
    assert len(kept()) == 2
    del holder
    assert take().data_ptr() == at


def test_the_smallest_that_fits_is_given():
    both = take(2 * NUMBERS), take()
    large, small = (block.data_ptr() for block in both)
    del both
    now = take(), take(2 * NUMBERS)
    assert [block.data_ptr() for block in now] == [small, large]


def test_growing_calls_leave_one_block():
    sizes = range(NUMBERS, 2 * NUMBERS, NUMBERS // 7)
    for numbers in sizes:
        take(numbers)
    assert [len(block) for block in kept()] == [sizes[-1]]


def test_no_thread_keeps_more_than_it_may(monkeypatch):
    monkeypatch.setattr(scratch, "_MOST", 10 * NUMBERS)
    blocks = [take() for _ in range(4)]
    assert sum(block.nbytes for block in kept()) == 8 * NUMBERS
    assert len({block.data_ptr() for block in blocks}) == 4
    take(3 * NUMBERS)  # too large by itself
    assert len(kept()) == 2


def test_another_dtype_has_memory_of_its_own():
    single, double = take(), take(dtype=torch.float64)
    assert single.data_ptr() != double.data_ptr()
    del single, double
    take(dtype=torch.float64)
    assert {block.dtype for block in kept()} == {torch.float32, torch.float64}


def test_small_blocks_and_such_as_are_filled_are_not_kept():
    take(100)
    torch.use_deterministic_algorithms(True)
    assert take().isnan().all()
    assert not kept()


@pytest.mark.parametrize("hooked", [False, True])
def test_a_backward_reads_what_its_own_forward_kept(hooked):
    """Also where others of the same sizes came between, and where a hook alone holds what was kept."""
    layer = gatefuse.LSTM(16, 32, driver="llvm")
    inputs = [torch.randn(40, 8, 16, requires_grad=True) for _ in range(3)]

    def gradient(x):
        return torch.autograd.grad(layer(x)[0].square().sum(), x)[0]

    expected = [gradient(x) for x in inputs]
    assert len(kept()) == 1
    held = []

    def pack(tensor):
        held.append(tensor)
        return len(held) - 1

    if hooked:
        with torch.autograd.graph.saved_tensors_hooks(pack, held.__getitem__):
            outputs = [layer(x)[0] for x in inputs]
    else:
        outputs = [layer(x)[0] for x in inputs]
    assert len(kept()) == 3
    for k in (2, 0, 1):
        found = torch.autograd.grad(outputs[k].square().sum(), inputs[k])[0]
        assert torch.equal(found, expected[k])
    held.clear()
    assert all(scratch._holders(block) == scratch._ALONE for block in kept())


def test_an_exception_within_leaves_the_memory_to_the_system():
    with pytest.raises(KeyboardInterrupt), scratch.Scratch(NUMBERS, torch.float32):
        raise KeyboardInterrupt
    assert not scratch._kept.memory
    with scratch.Scratch(NUMBERS, torch.float32) as memory, scratch.Scratch(NUMBERS, torch.float32) as within:
        assert within.data_ptr() != memory.data_ptr()
