"""What auto picks: on a GPU by measured and predicted costs, with its limits and drivers made up, and on a CPU."""

import pytest
import torch

from bench.report import measured_costs as bench_costs
from gatefuse import Recurrent, find_cell
from gatefuse.kernels import costs
from gatefuse.kernels.drivers import block, common, driver, grid, llvm
from gatefuse.kernels.plan import choose, explain
from gatefuse.kernels.runtime.device import Limits
from gatefuse.kernels.task import Request
from tests.support.made_up_rows import make_rows

DEVICE = torch.device("cuda", 0)
TRIED = "its code is made for Linux, on x86_64 and aarch64"


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A GPU called Some GPU with the limits of an H100, of which nothing was measured; returns its table of costs."""
    path = tmp_path / "measured.csv"
    path.write_text(",".join(costs.COLUMNS) + "\n")
    held = Limits(232_448, 132)
    monkeypatch.setattr(costs, "MEASURED", path)
    monkeypatch.setattr(costs, "_device_name", lambda device: "Some GPU")
    monkeypatch.setattr(costs, "ceilings", lambda device, of=costs.ceilings: of(torch.device("cpu")))
    monkeypatch.setattr(common, "interpreted", lambda: False)
    for module in (costs, block, grid):
        monkeypatch.setattr(module, "limits", lambda device: held)
    monkeypatch.setattr("gatefuse.kernels.plan.limits", lambda device: held)
    costs._table.cache_clear()
    yield path
    costs._table.cache_clear()


def request(cell="peephole_lstm", H=128, B=16, dtype=torch.bfloat16, **flags):
    return Request(find_cell(cell), DEVICE, dtype, 100, B, H, **flags)


def test_without_measurements_torch_comes_first_for_cells_it_knows(gpu):
    plan = choose(request("lstm", H=64))
    assert plan.driver == "vendor"
    assert plan.refused == {
        "grid": "its barrier between programs was not measured on this device; driver='grid' asks for it"
    }


def test_own_drivers_are_ranked_by_prediction(gpu):
    small, large = choose(request(H=128)), choose(request(H=512, needs_grad=True))
    assert (small.driver, large.driver) == ("block", "step")
    assert small.costs["block"].us < small.costs["step"].us
    assert {cost.source for cost in small.costs.values()} == {"predicted"}
    assert "block" not in large.costs
    # A step with its backward costs more.
    assert choose(request(H=512)).costs["step"].us < large.costs["step"].us


def test_a_large_batch_that_block_takes_in_turns_goes_to_step(gpu):
    assert choose(request(H=128, B=16)).driver == "block"
    assert choose(request(H=128, B=400_000)).driver == "step"


def test_the_plan_says_costs_and_tiles(gpu):
    text = str(choose(request(H=128, needs_grad=True)))
    assert text.startswith("block: one kernel for all steps")
    assert "forward: Tiles(HP=128, BB=16, warps=8)." in text
    assert "backward: Tiles(HP=128, BB=16, warps=8)." in text
    assert "us a step (predicted)." in text
    assert "not vendor: torch has no loop for the cell peephole_lstm." in text


def test_a_plan_that_was_asked_for_shows_its_tiles(gpu):
    plan = explain(request(H=512, needs_grad=True), "grid")
    assert plan.reason == "asked for"
    assert [type(cut).__name__ for cut in plan.tiles] == ["GridTiles", "GridBackwardTiles"]
    assert "H must be at most 128" in plan.refused["block"]


def measure(table, tmp_path, **changes):
    csv = tmp_path / "rows.csv"
    make_rows(**changes).to_csv(csv, index=False)
    costs._table.cache_clear()
    return bench_costs.write([csv], table)


def test_measured_costs_decide(gpu, tmp_path):
    """The made-up rows: torch 3 + 0.03 H us, block 1 + 0.06 H, grid 5 + 0.01 H."""
    measure(gpu, tmp_path)
    small, middle, large = (choose(request("lstm", H=H, B=32)) for H in (64, 256, 1024))
    assert (small.driver, middle.driver, large.driver) == ("block", "grid", "grid")
    assert str(large.costs["grid"]).endswith("us a step (measured)")
    # Away from what was measured, torch's own comes first again.
    assert choose(request("lstm", H=600, B=32)).driver == "vendor"
    assert choose(request("lstm", H=64, B=32, dtype=torch.float16)).driver == "vendor"
    # Once grid was measured on a device, predictions may pick it for cells that weren't.
    assert choose(request("peephole_lstm", H=512)).driver == "grid"


def test_the_table_keeps_other_devices_and_takes_rows_that_count(gpu, tmp_path):
    measure(gpu, tmp_path)
    before = gpu.read_text().splitlines()
    measure(gpu, tmp_path, gpu="Other GPU", H=(64,), modes=("forward",))
    after = gpu.read_text().splitlines()
    assert set(before) <= set(after)
    assert {line.partition(",")[0] for line in after[1:]} == {"Some GPU", "Other GPU"}
    with pytest.raises(ValueError, match=r"on full samples\. Got none"):
        measure(gpu, tmp_path, layers=2)
    assert gpu.read_text().splitlines() == after


def test_the_shipped_table_can_be_read():
    costs._table.cache_clear()
    assert isinstance(costs._table(), dict)
    assert costs.MEASURED.read_text().startswith(",".join(costs.COLUMNS))


def test_on_a_cpu_nothing_is_counted():
    plan = Recurrent("lstm", 3, 4).plan(torch.zeros(2, 1, 3))
    assert (plan.driver, plan.costs, plan.tiles) == ("llvm", {}, ())


def test_on_a_cpu_without_llvm_torch_comes_first(without_llvm, cpu):
    plan = Recurrent("lstm", 3, 4).plan(torch.zeros(2, 1, 3))
    assert (plan.driver, plan.costs, plan.tiles) == ("vendor", {}, ())
    assert plan.refused == {"llvm": "llvmlite is not installed"}


def test_kernels_refuse_more_values_of_a_step_than_they_can_number(gpu):
    """Beyond, an element's number of 32 bits would be another's, or none."""
    for name, H, B, flags in (
        ("step", 512, 2**20, {}),
        ("block", 128, 2**22, {}),
        ("grid", 512, 2**20, {}),
        ("grid", 512, 2**19, {"needs_grad": True}),  # sums of a product in 8 slices
    ):
        why = driver(name).refusal(request("lstm", H, B, **flags))
        assert why.startswith(
            "its kernels number the values of a step in 31 bits, so there must be at most 2,147,483,647"
        )
        assert why.endswith(", not 2,147,483,648")
        assert driver(name).refusal(request("lstm", H, B - 1, **flags)) == ""
    assert driver("block").both_refusal(request("lstm", 128, 2**21)).endswith(", not 2,147,483,648")
    assert driver("block").both_refusal(request("lstm", 128, 2**21 - 1)) == ""
    assert driver("grid").both_refusal(request("lstm", 256, 2**20)).endswith(", not 2,147,483,648")


def cpu_request(cell="lstm", T=100, B=32, H=64, dtype=torch.float32, **flags):
    return Request(find_cell(cell), torch.device("cpu"), dtype, T, B, H, **flags)


def test_on_a_cpu_llvm_runs_what_it_can_and_others_the_rest(cpu):
    assert choose(cpu_request("peephole_lstm", needs_grad=True)).driver == "llvm"
    assert choose(cpu_request(dtype=torch.float64, resets=True, all_states=True)).driver == "llvm"
    for dtype in (torch.bfloat16, torch.float16):
        assert choose(cpu_request("slstm", dtype=dtype)).driver == "llvm"
        assert choose(cpu_request("gru", dtype=dtype, needs_grad=True)).driver == "llvm"
    plan = choose(cpu_request(dtype=torch.complex64))
    assert plan.driver == "eager"
    assert plan.refused["llvm"] == "its code computes in float32 and float64, not in torch.complex64"


def test_an_lstm_in_bfloat16_is_left_to_instructions_for_it(cpu, monkeypatch):
    monkeypatch.setattr(llvm, "onednn_has", lambda dtype: True)
    plan = choose(cpu_request(dtype=torch.bfloat16, H=256))
    assert plan.driver == "vendor"
    for threads, taken in ((1, "vendor"), (2, "llvm")):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert choose(cpu_request(dtype=torch.bfloat16)).driver == taken
    assert plan.refused == {"llvm": "this processor multiplies bfloat16 itself, which torch's own loop has it do"}
    for other in (
        cpu_request(dtype=torch.bfloat16, B=1),
        cpu_request(dtype=torch.bfloat16, B=1, H=256, needs_grad=True),
        cpu_request(dtype=torch.bfloat16, H=1024, needs_grad=True),
        cpu_request(dtype=torch.bfloat16, lengths=True),
        cpu_request(dtype=torch.bfloat16, resets=True),
        cpu_request(dtype=torch.float16),
        cpu_request("gru", dtype=torch.bfloat16),
    ):
        assert choose(other).driver == "llvm"
    assert choose(cpu_request(dtype=torch.bfloat16, B=1, H=256)).driver == "vendor"
    monkeypatch.setattr(llvm, "onednn_has", lambda dtype: False)
    assert choose(cpu_request(dtype=torch.bfloat16)).driver == "llvm"


def test_one_step_in_16_bits_is_torchs_own(cpu):
    for dtype in (torch.float16, torch.bfloat16):
        plan = choose(cpu_request("gru", T=1, dtype=dtype))
        assert plan.driver == "vendor"
        assert plan.refused == {"llvm": "a single step takes less time than to make the weights float32"}
        assert choose(cpu_request("gru", T=1, dtype=dtype, resets=True)).driver == "llvm"
        assert choose(cpu_request("slstm", T=1, dtype=dtype)).driver == "llvm"


def test_llvm_says_where_its_code_can_t_run(monkeypatch):
    assert llvm.refusal(request("lstm", dtype=torch.float32)) == "its code runs on a CPU, not on cuda"
    monkeypatch.setattr(llvm, "_MACHINE", "riscv64")
    assert llvm.refusal(cpu_request()) == f"{TRIED}, and not for linux, riscv64"
    monkeypatch.undo()
    monkeypatch.setattr(llvm.sys, "platform", "darwin")
    assert llvm.refusal(cpu_request()).startswith(f"{TRIED}, and not for darwin")


@pytest.fixture
def cpu(monkeypatch, tmp_path):
    """A CPU called Some CPU, of two threads, of which nothing was measured; returns its table of costs."""
    path = tmp_path / "measured.csv"
    path.write_text(",".join(costs.COLUMNS) + "\n")
    monkeypatch.setattr(costs, "MEASURED", path)
    monkeypatch.setattr(costs, "cpu_name", lambda: "Some CPU")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    costs._table.cache_clear()
    yield path
    costs._table.cache_clear()


def put(table, *rows):
    """Costs of lstm in float32, of 32 samples: device, driver, H, microseconds."""
    lines = [f'"{device}",{driver},lstm,float32,forward,{H},32,{us}' for device, driver, H, us in rows]
    table.write_text("\n".join([",".join(costs.COLUMNS), *lines]) + "\n")
    costs._table.cache_clear()


def test_on_a_cpu_another_runs_what_it_was_measured_to_be_faster_at(cpu):
    here = costs.device_of_cpu("Some CPU", 2)
    assert here == "Some CPU, 2 threads"
    put(cpu, (here, "llvm", 64, 5.0), (here, "vendor", 64, 7.0), (here, "llvm", 512, 90.0), (here, "vendor", 512, 60.0))
    small, large = choose(cpu_request(H=64)), choose(cpu_request(H=512))
    assert (small.driver, large.driver) == ("llvm", "vendor")
    assert large.costs == {"llvm": (90.0, "measured"), "vendor": (60.0, "measured")}
    # Nothing was measured of these.
    assert choose(cpu_request(H=2048)).driver == choose(cpu_request(H=512, needs_grad=True)).driver == "llvm"
    assert choose(cpu_request("gru", H=512)).driver == "llvm"


def test_another_cpu_s_costs_say_nothing_of_this_one(cpu):
    for device in ("Other CPU, 2 threads", costs.device_of_cpu("Some CPU", 1)):
        put(cpu, (device, "llvm", 512, 90.0), (device, "vendor", 512, 60.0))
        assert choose(cpu_request(H=512)).driver == "llvm"


@pytest.mark.parametrize("name", ["step", "block", "grid"])
def test_predictions_are_positive_and_grow_with_the_backward(gpu, name):
    forward, training = (costs.predicted(name, request(H=128, needs_grad=flag)) for flag in (False, True))
    assert 0 < forward < training
    assert costs.predicted("eager", request()) is None


@pytest.mark.parametrize(
    ("T", "B", "H", "driver", "why"),
    [
        (16, 8, 256, "aten", ""),
        (15, 8, 64, "eager", "in so few steps it doesn't make up for what it costs to begin"),
        (16, 9, 256, "eager", "at this size products take nearly all of the time"),
    ],
)
def test_on_a_cpu_generated_operators_run_what_they_are_faster_at(without_llvm, T, B, H, driver, why):
    plan = choose(Request(find_cell("peephole_lstm"), torch.device("cpu"), torch.float32, T, B, H))
    assert plan.driver == driver
    assert plan.refused.get("aten", "").startswith(why)
