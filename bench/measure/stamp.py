"""The stamp of a row: where and with what it was measured."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

from gatefuse._version import __version__
from gatefuse.kernels.costs import device_of_cpu
from gatefuse.kernels.runtime.cpu import cpu_name
from gatefuse.kernels.runtime.settings import tf32_allowed


@dataclass(frozen=True)
class Stamp:
    """Where and with what a row was measured; the same for all rows of a run.

    Attributes:
        device: the folder of its reports: a GPU, or a CPU with a number of threads.
        kind: ``cpu`` or ``cuda``.
        threads: that torch computes with on the CPU.
        load: of the machine when the run began, the mean number of programs that wanted a core in the minute before.
        gpu_clocks: the GPU's clocks of its multiprocessors and its memory when the run began, and the highest.
        tree: ``clean``, ``dirty`` or ``unknown``.
    """

    device: str
    kind: str
    cpu: str
    cores: int
    threads: int
    load: float
    gpu: str
    gpu_driver: str
    gpu_clocks: str
    tf32: str
    torch: str
    triton: str
    cuda: str
    cudnn: str
    python: str
    system: str
    gatefuse: str
    commit: str
    tree: str
    date: str


def take_stamp(device: torch.device) -> Stamp:
    """The stamp of this machine, process and tree."""
    on_gpu = device.type == "cuda"
    gpu = torch.cuda.get_device_name(device) if on_gpu else ""
    commit, tree = _commit()
    tf32 = f"matmul {torch.backends.cuda.matmul.fp32_precision}, layers {tf32_allowed()}"
    return Stamp(
        device=slug(gpu or device_of_cpu(cpu_name(), torch.get_num_threads())),
        kind=device.type,
        cpu=cpu_name(),
        cores=os.cpu_count() or 0,
        threads=torch.get_num_threads(),
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else float("nan"),
        gpu=gpu,
        gpu_driver=_ask_gpu("driver_version") if on_gpu else "",
        gpu_clocks=_gpu_clocks() if on_gpu else "",
        tf32=tf32 if on_gpu else "",
        torch=str(torch.__version__),
        triton=_triton(),
        cuda=str(torch.version.cuda or torch.version.hip or "") if on_gpu else "",
        cudnn=str(torch.backends.cudnn.version() or "") if on_gpu else "",
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        gatefuse=__version__,
        commit=commit,
        tree=tree,
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )


def slug(text: str) -> str:
    """``NVIDIA H100 80GB HBM3`` -> ``nvidia-h100-80gb-hbm3``."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _output(*command: str) -> str:
    """A command's output, "" if it isn't there, fails or hangs."""
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


# Not counted, as a run changes them: reports, and the folder that docs/gpu.md has results put into.
_RESULTS = ":(exclude,top)reports", ":(exclude,top)found"


def _commit() -> tuple[str, str]:
    """The commit and clean, dirty or unknown, where there is no git as the environment says."""
    root = Path(__file__).resolve().parents[2]
    # An installed copy may lie inside a repository that isn't gatefuse's.
    if (top := _output("git", "rev-parse", "--show-toplevel")) and Path(top).resolve() == root:
        changes = _output("git", "--no-optional-locks", "status", "--porcelain", "--", ":/", *_RESULTS)
        return _output("git", "rev-parse", "HEAD"), "dirty" if changes else "clean"
    tree = os.environ.get("GATEFUSE_TREE", "unknown")
    return os.environ.get("GATEFUSE_COMMIT", "unknown"), tree if tree in ("clean", "dirty") else "unknown"


def _ask_gpu(what: str) -> str:
    return _output("nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader").split("\n")[0]


def _gpu_clocks() -> str:
    """``sm 1980 of 1980 MHz, memory 2619 of 2619 MHz``; what nvidia-smi said where it said something else."""
    said = _ask_gpu("clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem")
    found = re.fullmatch(r"(\d+) MHz, (\d+) MHz, (\d+) MHz, (\d+) MHz", said)
    return "sm {} of {} MHz, memory {} of {} MHz".format(*found.groups()) if found else said


def _triton() -> str:
    try:
        import triton
    except ImportError:
        return ""
    return triton.__version__
