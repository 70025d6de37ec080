"""What a call of the drivers with kernels costs the host, in a process without Triton's interpreter."""

import pytest

from tests.support.kernels.compiling import compiling

TABLE = """
import torch
from gatefuse.bench.measure import host
torch.set_num_threads(1)
print(host.table(rounds=20))
"""
# Functions of Python that a call may call: what was counted when it was written, and an eighth more. With an operator a
# layer, and tiles and options found in each call, grid called 314 and 585; with forms that were looked through anew in
# each call 160 and 348.
MOST = {
    ("gatefuse step", "forward"): 90, ("gatefuse step", "training"): 198,
    ("gatefuse block", "forward"): 83, ("gatefuse block", "training"): 187,
    ("gatefuse grid", "forward"): 97, ("gatefuse grid", "training"): 217,
}  # fmt: skip


@pytest.mark.slow
def test_a_call_costs_the_host_little(tmp_path):
    _, *lines = compiling(TABLE, tmp_path)
    assert len(lines) == 2 * 4 * 2
    for line in lines:
        kind, mode, *name, us, ratio, functions, launches = line.split()
        key = " ".join(name), mode
        if key[0] == "torch.nn":
            assert (ratio, launches) == ("1.00x", "0")
            continue
        assert int(functions) <= MOST[key], line
        # generous, as others are at work
        assert float(us) < 1500, line
        assert float(ratio.removesuffix("x")) < 6, line
        steps, ways = (2 if key[0] == "gatefuse step" else 1), (2 if mode == "training" else 1)
        assert int(launches) == steps * ways, f"{kind}: {line}"
