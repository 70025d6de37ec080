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
from gatefuse.bench.limits import Floor
from gatefuse.bench.measure import Samples
from gatefuse.bench.sweeps import Group

NAN = float("nan")


@dataclass
class Row:
    """One contender in one group.

    Attributes:
        status: ``ok``; ``failed``, then note holds the error; ``left out``, then note says why it can't run that.
        driver: the gatefuse driver that ran, of the contenders that are gatefuse's.
        fill: the mean length of the samples over T; 1.0 where all are full.
        p20, p50, p80: quantiles of the samples, seconds a call; on a GPU the device's time, with a flushed L2 cache.
        wall_p50: median of the host's clock from the call until the device is done, the caches as they are.
        graph_p50: median of the device's time for the same call replayed from a CUDA graph; NaN where it is long, can't
            be captured, or there is no GPU.
        us_per_step: p50 in microseconds over T.
        tokens_per_second: steps of all samples over p50.
        baseline: the contender that the speed-up is over.
        speedup: the baseline's p50 over this one's.
        peak_memory_bytes: what a call holds at most beyond weights and input; NaN on a CPU.
        error: against float64, the largest difference over the largest value: of the output (forward), of the gradient
            of the input (training).
        first_call_seconds: the first call in this process at this shape, compilation included.
        compile_seconds: what the calls before the first sample took beyond as many calls of p50: compiling, loading,
            and what else is done once. See Samples.
        flop, bytes: that a call needs at least; see traffic.py.
        matrix_rate, copy_rate, barrier_seconds: what this device did in this run: operations a second of a large
            product, bytes a second of a large copy, seconds of one barrier; see limits.py.
        floor_seconds, floor_share, floor_by: the least time a call could take, that over p50, and which of ``matrix``,
            ``bytes`` and ``barrier`` is the largest part of it.
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
    fill: float
    status: str
    note: str = ""
    driver: str = ""
    samples: int = 0
    p20: float = NAN
    p50: float = NAN
    p80: float = NAN
    wall_p50: float = NAN
    graph_p50: float = NAN
    us_per_step: float = NAN
    tokens_per_second: float = NAN
    baseline: str = ""
    speedup: float = NAN
    peak_memory_bytes: float = NAN
    error: float = NAN
    first_call_seconds: float = NAN
    compile_seconds: float = NAN
    flop: float = NAN
    bytes: float = NAN
    matrix_rate: float = NAN
    copy_rate: float = NAN
    barrier_seconds: float = NAN
    floor_seconds: float = NAN
    floor_share: float = NAN
    floor_by: str = ""

    @classmethod
    def of(cls, group: Group, contender: str, status: str, note: str = "", driver: str = "") -> Row:
        """A row without figures."""
        s = group.shape
        return cls(
            s.cell, contender, group.mode, group.dtype, s.I, s.H, s.B, s.T, s.layers, s.bidirectional, s.name,
            s.fill, status=status, note=note, driver=driver,
        )  # fmt: skip

    def take(self, samples: Samples) -> None:
        """Take over what was measured."""
        self.first_call_seconds = samples.first_call
        if samples.failure:
            self.status, self.note = "failed", samples.failure
            return
        self.samples = len(samples.seconds)
        self.p20, self.p50, self.p80 = pd.Series(samples.seconds).quantile([0.2, 0.5, 0.8])
        self.wall_p50, self.graph_p50 = _median(samples.wall), _median(samples.graph)
        self.compile_seconds = samples.compiling
        self.us_per_step = self.p50 * 1e6 / self.T
        self.tokens_per_second = self.B * self.T * self.fill / self.p50
        self.peak_memory_bytes = samples.peak_memory

    def bound(self, floor: Floor) -> None:
        """Take over the least time that the call could take."""
        for name, value in floor._asdict().items():
            setattr(self, name, value)
        self.floor_share = self.floor_seconds / self.p50


def _median(seconds: list[float]) -> float:
    return float(pd.Series(seconds).median()) if seconds else NAN


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
    tf32 = f"matmul {torch.get_float32_matmul_precision()}, cudnn {torch.backends.cudnn.allow_tf32}"
    return Stamp(
        device=slug(gpu) if on_gpu else device.type,
        kind=device.type,
        cpu=_cpu_model(),
        cores=os.cpu_count() or 0,
        threads=torch.get_num_threads(),
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else NAN,
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
