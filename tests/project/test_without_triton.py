"""What a machine has on which Triton is not installed: everything but the kernels, and words where those are asked for.

Each program is a process of its own, since this one has Triton.
"""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOW = "must have Triton: pip install 'gatefuse[triton]'. It is not installed."


def without_triton(program, *arguments, rc=0):
    """What a program prints, to stdout if it ends well and to stderr if not."""
    begin = "import sys; sys.modules['triton'] = None  # as if it were not there\nimport torch, gatefuse\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", begin + dedent(program), *arguments],
        cwd=ROOT,
        # With the interpreter on, only the missing Triton is in the kernels' way.
        env={**os.environ, "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == rc, done.stdout + done.stderr
    return done.stderr if rc else done.stdout


@pytest.mark.slow
def test_layers_run_and_train_by_every_driver_for_a_cpu():
    program = """
        x = torch.randn(5, 2, 3, requires_grad=True)
        expected, _ = torch.nn.LSTM(3, 4)(x)
        for driver in ("auto", "eager", "aten", "llvm", "vendor"):
            output, _ = gatefuse.LSTM(3, 4, driver=driver)(x)
            output.sum().backward()
            print(driver, tuple(output.shape))
        output, _ = gatefuse.Recurrent("peephole_lstm", 3, 4)(x)
        output.sum().backward()
        model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.GRU(3, 4))
        gatefuse.accelerate(model)
        model(x)[0].sum().backward()
    """
    assert without_triton(program).splitlines() == [
        f"{driver} (5, 2, 4)" for driver in ("auto", "eager", "aten", "llvm", "vendor")
    ]


def test_source_prints_triton_s_text():
    printed = without_triton("print(gatefuse.source('lstm'))")
    assert "@triton.jit" in printed
    assert "def update(" in printed


@pytest.mark.parametrize("driver", ["step", "block", "grid"])
def test_a_driver_of_kernels_is_refused(driver):
    said = without_triton(f"gatefuse.LSTM(3, 4, driver={driver!r})(torch.randn(5, 2, 3))", rc=1)
    assert said.splitlines()[-1] == f"RuntimeError: driver {driver} can't run this call: Triton is not installed."


@pytest.mark.parametrize(
    ("what", "program"),
    [
        (
            "the step loop",
            """
            from gatefuse.kernels.loops.operator import forward
            key, none = gatefuse.find_cell("lstm").key, torch.zeros(0, 4)
            inputs = torch.zeros(5, 2, 16), torch.zeros(2, 2, 4), torch.zeros(16, 4), None, none, None, None, None
            forward(*inputs, key, "step", "forward", False, False)
            """,
        ),
        (
            "device functions",
            """
            from gatefuse.kernels.codegen.device_functions import device_functions
            device_functions(gatefuse.find_cell("lstm"), 8)
            """,
        ),
        (
            "compiling ahead",
            """
            from gatefuse.kernels.runtime.launcher import compile_only
            with compile_only(None):
                pass
            """,
        ),
        (
            "reading what was compiled",
            """
            from gatefuse.bench.resources.compilation import cuobjdump
            cuobjdump()
            """,
        ),
    ],
    ids=lambda value: value if len(value) < 40 else "",
)
def test_what_needs_it_says_so(what, program):
    assert without_triton(program, rc=1).splitlines()[-1] == f"ModuleNotFoundError: {what} {HOW}"


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path):
    program = """
        import pytest
        options = ["-q", "-p", "no:cacheprovider", "--benchmark", "--sweep", "smoke"]
        sys.exit(pytest.main([*options, f"--reports={sys.argv[1]}"]))
    """
    without_triton(program, str(tmp_path))
    assert list(tmp_path.glob("*/smoke.md"))


def test_tests_are_refused():
    program = "import pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', 'tests/kernels/test_cell.py']))"
    said = without_triton(program, rc=4)
    how = "tests must have Triton, whose interpreter runs kernels: pip install 'gatefuse[test]'. It is not installed."
    assert said.strip() == f"ERROR: {how}"
