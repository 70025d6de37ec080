"""Programs that compile kernels without running them, in a process of their own: Triton reads TRITON_INTERPRET once."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def compiling(program, cache, *arguments, options=(), timeout=600, **environment):
    """The lines that a program prints without Triton's interpreter.

    Args:
        cache: a folder for what is compiled.
        arguments: the program's.
        options: of Python.

    Raises:
        AssertionError: it failed; what it said of that.
    """
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env |= {"TRITON_CACHE_DIR": str(cache), **environment}
    command = [sys.executable, *options, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
