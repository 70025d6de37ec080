"""DistributedDataParallel and FSDP2 train the layers: two processes give what one gives with the whole batch."""

import copy
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

import gatefuse
from tests.support.layers import CLOSE, B, H, I, T

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
ROOT = Path(__file__).parents[2]


class Model(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.rnn = layer
        self.head = nn.Linear(H, 2)

    def forward(self, x):
        if x.dim() == 3:
            return self.head(self.rnn(x)[0][-1])
        return self.head(self.rnn(x, self.rnn(x)))  # two steps of a cell


def accelerated(layer):
    gatefuse.accelerate(layer)
    return layer


LAYERS = {
    "accelerated": lambda: accelerated(nn.LSTM(I, H, 2)),
    "LSTM by eager": lambda: gatefuse.LSTM(I, H, driver="eager"),
    "GRUCell": lambda: gatefuse.GRUCell(I, H, driver="eager"),
    "Recurrent": lambda: gatefuse.Recurrent("gru", I, H, 2),
    "Recurrent, a cell of ours": lambda: gatefuse.Recurrent("peephole_lstm", I, H),
}


def by_ddp(model):
    return DistributedDataParallel(model)


def by_fsdp(model):
    fully_shard(model.rnn)
    return fully_shard(model)


def by_fsdp_accelerated_late(model):
    """What is sharded already can be accelerated, and restored, between two steps."""
    gatefuse.restore(model)
    model = by_fsdp(model)
    gatefuse.accelerate(model)
    return model


def start(name):
    torch.manual_seed(0)
    return Model(LAYERS[name]()).double()


def batch(name):
    generator = torch.Generator().manual_seed(1)
    shape = (2 * B, I) if "Cell" in name else (T, 2 * B, I)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def train(model, x):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def worker(rank, distribute, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found = {}
    for name in LAYERS:
        model = start(name)
        distributed = distribute(model)
        whole = batch(name)
        train(distributed, whole.narrow(whole.dim() - 2, rank * B, B))
        found[name] = {key: getattr(p, "full_tensor", p.detach)() for key, p in model.named_parameters()}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
    time.sleep(0.2)  # as in the example


@pytest.mark.slow
@pytest.mark.parametrize("distribute", [by_ddp, by_fsdp, by_fsdp_accelerated_late])
def test_two_processes_are_one_with_the_whole_batch(distribute, tmp_path):
    mp.spawn(worker, (distribute, tmp_path), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name in LAYERS:
        model = start(name)
        before = copy.deepcopy(model.state_dict())
        train(model, batch(name))
        after = dict(model.named_parameters())
        assert all(not torch.equal(after[key], before[key]) for key in after), name
        for part in found:
            assert_close(part[name], {key: p.detach() for key, p in after.items()}, **CLOSE)


@pytest.mark.slow
def test_the_example():
    """torchrun: one process and two, by either way, have the same losses, and they fall."""
    losses = []
    for processes, by in (("1", "ddp"), ("2", "ddp"), ("2", "fsdp")):
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
        ran = subprocess.run(
            [sys.executable, *launch, "examples/distributed.py", "--by", by],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ran.returncode == 0, ran.stderr
        losses.append([float(value) for value in re.findall(r"loss ([\d.]+)", ran.stdout)])
    assert losses[1] == pytest.approx(losses[0], abs=2e-5)
    assert losses[2] == pytest.approx(losses[0], abs=2e-5)
    assert losses[0][0] > 2 * losses[0][-1]
