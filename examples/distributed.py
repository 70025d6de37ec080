"""Train a recurrent network in several processes, by DistributedDataParallel or by FSDP2.

    torchrun --nproc-per-node 2 examples/distributed.py
    torchrun --nproc-per-node 2 examples/distributed.py --by fsdp

Every process takes its part of each batch; losses and weights are those of one process with the whole batch. On GPUs
there is one process for each, on a CPU gloo connects as many as are asked for.
"""

from __future__ import annotations

import argparse
import os
import time

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import gatefuse

STEPS, T, B, I, H = 30, 20, 32, 8, 32


class Model(nn.Module):
    """The mean of the first feature over time, from the last state of a stack of GRUs."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = gatefuse.Recurrent("gru", I, H, num_layers=2)
        self.head = nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x (T, B, I) -> (B, 1)."""
        output, _ = self.rnn(x)
        return self.head(output[-1])


def distribute(model: nn.Module, by: str) -> nn.Module:
    """The model for training in all processes."""
    if by == "ddp":
        return DistributedDataParallel(model)
    for part in model.children():  # what is gathered together while it is needed
        fully_shard(part)
    return fully_shard(model)


def train(device: torch.device, by: str) -> None:
    """Train, and say the loss over all processes from time to time."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)  # so that all processes begin with the same weights, and draw the same batches
    model = distribute(Model().to(device), by)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(STEPS):
        x = torch.randn(T, B, I)
        mine = slice(rank * B // ranks, (rank + 1) * B // ranks)
        x, target = x[:, mine].to(device), x[:, mine, 0].mean(0).to(device)
        loss = (model(x).squeeze(1) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total = loss.detach()
        dist.all_reduce(total)
        if rank == 0 and (step + 1) % 10 == 0:
            print(f"step {step + 1}: loss {total.item() / ranks:.5f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--by", choices=("ddp", "fsdp"), default="ddp")
    by = parser.parse_args().by
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        dist.init_process_group("nccl")
    else:
        device = torch.device("cpu")
        dist.init_process_group("gloo")
    train(device, by)
    dist.barrier()  # a process that leaves while another still talks takes the other's call down with it
    dist.destroy_process_group()
    time.sleep(0.2)  # FSDP2's meshes keep gloo's threads, which abort if Python ends as they let go of the last call


if __name__ == "__main__":
    main()
