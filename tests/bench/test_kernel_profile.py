"""The profile behind `make tune`: by ncu where it counts, else by torch's profiler."""

import pytest
import torch

from gatefuse.bench.gpu.jobs import Finished
from gatefuse.bench.tuning import kernel_profile
from gatefuse.bench.tuning import trial as trials
from gatefuse.bench.tuning.variant import Place
from gatefuse.kernels.loops.triton import block, grid

COUNTED = "==PROF== Connected to process 7\ngrid_forward_kernel\n==PROF== Disconnected from process 7\n"


class Machine:
    def __init__(self, *ends):
        self.ends, self.ran = list(ends), []

    def execute(self, command, seconds, silence):
        self.ran.append((command[0], command[-1], seconds))
        status, output = self.ends.pop(0)
        return Finished(status, output, 4.0)


def test_ncu_s_counts_are_the_page_and_are_taken_once(tmp_path):
    machine = Machine((0, COUNTED))
    said = kernel_profile.write(tmp_path / "out", "Some GPU; commit c0ffee", 45.0, machine.execute)
    path = tmp_path / "out" / "profile.txt"
    assert said == f"{path}: by ncu:"
    assert path.read_text() == f"Some GPU; commit c0ffee\nby ncu:\n{COUNTED}"
    assert (
        kernel_profile.write(tmp_path / "out", "Some GPU; commit c0ffee", 45.0, machine.execute) == f"{path} is there"
    )
    assert [ran[:2] for ran in machine.ran] == [("ncu", "--launch")]


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ((127, "[Errno 2] No such file or directory: 'ncu'"), "ncu ended with 127: [Errno 2] No such file"),
        ((1, "==ERROR== ERR_NVGPUCTRPERM\n"), "ncu ended with 1: ==ERROR== ERR_NVGPUCTRPERM"),
        ((0, "==WARNING== No kernels were profiled.\n"), "ncu ended with 0: ==WARNING== No kernels were profiled."),
        ((None, ""), "ncu ended with None: it said nothing"),
    ],
)
def test_where_ncu_counts_nothing_torch_s_profiler_says_how_long_kernels_took(tmp_path, end, said):
    machine = Machine(end, (0, "grid_forward_kernel 70 us\n"))
    assert said in kernel_profile.write(tmp_path, "Some GPU", 45.0, machine.execute)
    assert "which ended with 0:\ngrid_forward_kernel 70 us\n" in (tmp_path / "profile.txt").read_text()
    assert [ran[1] for ran in machine.ran] == ["--launch", "--times"]
    assert machine.ran[1][2] == 41.0


def test_what_is_profiled_is_launched_twice_in_one_order(monkeypatch):
    """ncu skips the first half of the launches, in which kernels are compiled."""
    launched = []
    for loop in (block, grid):
        name = loop.__name__.rpartition(".")[2]
        monkeypatch.setattr(loop, "forward", lambda *_, name=name: launched.append(f"{name} forward"))
        monkeypatch.setattr(loop, "backward", lambda *_, name=name: launched.append(f"{name} backward"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    inputs = trials.make_inputs(Place("lstm", 8, 2, "float32"), 3, torch.device("cpu"))
    monkeypatch.setattr(trials, "make_inputs", lambda place, T, device: inputs)
    kernel_profile.launch()
    once = ["grid forward", "grid backward", "block forward"]
    assert launched == 2 * once
    skipped = kernel_profile._NCU[kernel_profile._NCU.index("--launch-skip") + 1]
    assert int(skipped) == len(once)
