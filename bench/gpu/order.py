"""The jobs of a run on a GPU, in the order of what they tell: the first minutes decide which of the rest are worth it.

Kernels are compiled by all cores before anything waits for one. Then come, in one process each, what must be right
before a time means anything, the times that are wanted most, and what takes long to show; the rest waits for a later
call where the budget is short.
"""

from __future__ import annotations

import sys
from math import inf
from pathlib import Path

from gatefuse.bench.gpu.jobs import Job

# Seconds without a word after which a test, or a contender of a sweep, hangs: each may have to compile something.
_SILENCE = {"tests": 60.0, "sweep": 120.0}

# What torch or Triton warns of on that machine alone is no fault of a kernel's. gatefuse's own are RuntimeWarnings: a
# kernel that doesn't fit, a recording that failed.
WARNINGS = ("-o", "filterwarnings=default\nerror::RuntimeWarning:gatefuse", "--disable-warnings")
_PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *WARNINGS)
SWEEPS = ("first", "quick", "regimes", "real", "lengths", "full")

_DRIVERS, _GPU = "tests/kernels/drivers/test_drivers.py", "tests/kernels/drivers/test_gpu.py"
_RECORDING = "tests/kernels/runtime/graphs/test_recording.py"
# A first call of torch.compile takes about as long as a test that hangs may be silent: it must cost no other its time.
_COMPILED = "compiled_calls"
_THREE_CELLS = "({0}-lstm-plain or {0}-gru_reset_first-all or {0}-slstm-plain)"
# What shows a fault of the barrier, or of what is captured, in seconds.
_SHORT = "(come_late or two_streams or graph_capture)"


def make_jobs(out: Path) -> list[Job]:
    """All jobs, the most telling first.

    Args:
        out: the folder that gets the rows of the sweeps.
    """
    cells = f"{_DRIVERS} tests/kernels/drivers/test_own_cell.py"
    step, block, grid = (_THREE_CELLS.format(f"cuda-{driver}") for driver in ("step", "block", "grid"))
    long = f"test_gpu and not {_SHORT}"
    own_loop = " ".join(
        f"tests/kernels/drivers/test_{part}.py" for part in ("vendor", "eval_backward", "double_backward")
    )
    return [
        Job("kernels", "compile", (sys.executable, "-m", "gatefuse.bench.gpu.kernels"), 60, 0.2, expected=25),
        _tests(
            "right at all: the barrier, three cells, streams, capture",
            f"tests/bench/measure/test_barrier_loop.py {_DRIVERS} {_GPU}",
            (
                "test_barrier_loop",
                f"{step} or {block}",
                f"test_gpu and {_SHORT} and not grid",
                grid,
                f"test_gpu and {_SHORT}",
            ),
            120,
            0.4,
            expected=85,
        ),
        _sweep("first", out, 110, 0.6, expected=60),
        _tests(
            "recorded steps, both directions, real sizes",
            f"{_RECORDING} tests/kernels/loops/test_directions.py {_GPU}",
            (
                f"test_recording and not {_COMPILED}",
                "test_directions and not grid",
                f"{long} and not grid",
                "test_directions",
                long,
            ),
            170,
            0.85,
            expected=130,
        ),
        _sweep("quick", out, 140, expected=120),
        _tests("torch's own loop", own_loop, (), 60, expected=30),
        _tests("recorded steps beside torch.compile's graphs", _RECORDING, (_COMPILED,), 120, expected=50),
        *(_tests(f"{d}, all cells", cells, (f"cuda-{d}",), 300, 0.7, expected=90) for d in ("block", "step")),
        _tests("grid, all cells", cells, (), 300, 0.7, expected=90, marks="gpu and grid"),
        *(_tests(f"{d}, all cells", cells, (f"cuda-{d}",), 300, 0.7, expected=60) for d in ("script", "aten")),
        _memcheck(),
        *(_sweep(name, out, inf, expected=300) for name in SWEEPS[2:]),
    ]


def _tests(
    name: str,
    paths: str,
    picks: tuple[str, ...],
    seconds: float,
    until: float = 1.0,
    *,
    expected: float,
    marks: str = "gpu",
) -> Job:
    """Tests of some files with those marks, all of them or those picked, in the order of the picks."""
    order = tuple(f"--in-order={pick}" for pick in picks)
    command = (*_PYTEST, "-m", marks, "-v", "--tb=short", *paths.split(), *order)
    return Job(name, "tests", command, seconds, until, _SILENCE["tests"], expected)


def _sweep(name: str, out: Path, seconds: float, until: float = 1.0, *, expected: float) -> Job:
    command = ("--benchmark", f"--sweep={name}", f"--rows={out / name}.csv", "--resume", "--benchmark-quiet", "-vs")
    return Job(f"sweep {name}", "sweep", (*_PYTEST, *command), seconds, until, _SILENCE["sweep"], expected)


def _memcheck() -> Job:
    # Each tensor has an allocation of its own: within torch's large ones nothing beyond a tensor is out of bounds.
    # Errors of calls to the driver, which torch and Triton try and handle, are no kernel's.
    alone = ("env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", "compute-sanitizer", "--tool", "memcheck")
    memcheck = (*alone, "--report-api-errors", "no", "--error-exitcode", "66", *_PYTEST, "-m", "gpu", "-x")
    sanitized = " or ".join(f"cuda-{driver}-lstm-all" for driver in ("step", "block"))
    return Job("memcheck", "sanitizer", (*memcheck, _DRIVERS, f"--in-order={sanitized}"), 90, expected=60)
