"""A row, and the stamp that says where and with what it was measured. table.py writes them."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd
import torch

from gatefuse._version import __version__
from gatefuse.bench.measure import Samples
from gatefuse.bench.sweeps import Group

NAN = float("nan")


@dataclass
class Row:
    """One contender in one group.

    Attributes:
        status: ``ok``; ``failed``, then note holds the error; ``left out``, then note says why it can't run that.
        driver: the gatefuse driver that ran, of the contenders that are gatefuse's.
        p20, p50, p80: quantiles of the samples, seconds a call.
        us_per_step: p50 in microseconds over T.
        tokens_per_second: B * T / p50.
        baseline: the contender that the speed-up is over.
        speedup: the baseline's p50 over this one's.
        peak_memory_bytes: what a call holds at most beyond weights and input; NaN on a CPU.
        error: against float64, the largest difference over the largest value: of the output (forward), of the gradient
            of the input (training).
        first_call_seconds: the first call in this process at this shape, compilation included.
    """

    cell: str
    contender: str
    mode: str
    dtype: str
    I: int
    H: int
    B: int
    T: int
    layers: int
    bidirectional: bool
    shape_name: str
    status: str
    note: str = ""
    driver: str = ""
    samples: int = 0
    p20: float = NAN
    p50: float = NAN
    p80: float = NAN
    us_per_step: float = NAN
    tokens_per_second: float = NAN
    baseline: str = ""
    speedup: float = NAN
    peak_memory_bytes: float = NAN
    error: float = NAN
    first_call_seconds: float = NAN

    @classmethod
    def of(cls, group: Group, contender: str, status: str, note: str = "", driver: str = "") -> Row:
        """A row without figures."""
        s = group.shape
        return cls(
            s.cell, contender, group.mode, group.dtype, s.I, s.H, s.B, s.T, s.layers, s.bidirectional, s.name,
            status=status, note=note, driver=driver,
        )  # fmt: skip

    def fill(self, samples: Samples) -> None:
        """Take over what was measured."""
        self.first_call_seconds = samples.first_call
        if samples.failure:
            self.status, self.note = "failed", samples.failure
            return
        self.samples = len(samples.seconds)
        self.p20, self.p50, self.p80 = pd.Series(samples.seconds).quantile([0.2, 0.5, 0.8])
        self.us_per_step = self.p50 * 1e6 / self.T
        self.tokens_per_second = self.B * self.T / self.p50
        self.peak_memory_bytes = samples.peak_memory


def compare(rows: list[Row], baseline: str) -> None:
    """Fill in the speed-up of a group's rows over the baseline's; it stays NaN where the baseline has no figure."""
    base = next((row.p50 for row in rows if row.contender == baseline), NAN)
    for row in rows:
        row.baseline, row.speedup = baseline, base / row.p50


@dataclass(frozen=True)
class Stamp:
    """Where and with what a row was measured; the same for all rows of a run.

    Attributes:
        kind: ``cpu`` or ``cuda``.
        threads: that torch computes with on the CPU.
        load: of the machine when the run began, the mean number of programs that wanted a core in the minute before.
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
    tf32 = f"matmul {torch.get_float32_matmul_precision()}, cudnn {torch.backends.cudnn.allow_tf32}"
    return Stamp(
        device=slug(gpu) if on_gpu else device.type,
        kind=device.type,
        cpu=_cpu_model(),
        cores=os.cpu_count() or 0,
        threads=torch.get_num_threads(),
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else NAN,
        gpu=gpu,
        gpu_driver=_gpu_driver() if on_gpu else "",
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


def _commit() -> tuple[str, str]:
    """The commit and clean, dirty or unknown. Reports aren't counted: a run changes them."""
    root = Path(__file__).resolve().parents[1]
    # An installed copy may lie inside a repository that isn't gatefuse's.
    if (top := _output("git", "rev-parse", "--show-toplevel")) and Path(top).resolve() == root:
        changes = _output("git", "--no-optional-locks", "status", "--porcelain", "--", ":/", ":(exclude,top)reports")
        return _output("git", "rev-parse", "HEAD"), "dirty" if changes else "clean"
    return os.environ.get("GATEFUSE_COMMIT", "unknown"), "unknown"


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _gpu_driver() -> str:
    return _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0]


def _triton() -> str:
    try:
        import triton
    except ImportError:
        return ""
    return triton.__version__
