"""Ctrl-C in the first call of a cell, wherever it comes: the next call is as if nothing had been."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Children of one process, so that each begins with all of the imports and none of the calls: a first child calls, and
# its parent imports what it imported. Python 3.11 makes a RuntimeError of what interrupts a __set_name__.
_PROGRAM = """
import importlib, os, signal, sys, time, traceback, torch, gatefuse
from torch import sigmoid, tanh

torch.set_num_threads(1)

@gatefuse.cell(gates="a b")
def unit(x, R, h):
    return tanh(x.a + R.a(h)) * sigmoid(x.b + R.b(h))

layer = gatefuse.Recurrent(unit, 3, 4, driver={driver!r})
x = torch.randn({T}, 2, 3)

def call():
    layer.zero_grad()
    output = layer(x)[0]
    output.sum().backward()
    return [output.detach(), *[p.grad for p in layer.parameters()]]

def from_interrupt(error):
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None

def child(delay):
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    interrupted = False
    try:
        signal.setitimer(signal.ITIMER_REAL, delay)
        call()
        # Inside: the signal may come once the call is over.
        signal.setitimer(signal.ITIMER_REAL, 0)
    except BaseException as error:
        if not from_interrupt(error):
            raise
        interrupted = True
    found = call()
    layer.driver = "eager"
    good = all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, call()))
    return 2 * interrupted + (not good)

def forked(delay):
    pid = os.fork()
    if not pid:
        code = 9
        try:
            code = child(delay)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def imports():
    reader, writer = os.pipe()
    if not os.fork():
        call()
        os.write(writer, " ".join(sys.modules).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as names:
        found = set(names.read().split()) - set(sys.modules)
    os.wait()
    for name in found:
        importlib.import_module(name)
    return found

imports()
assert not imports()
start = time.perf_counter()
assert forked(100.0) == 0
whole = time.perf_counter() - start
codes = [forked(whole * (k + 1) / 25) for k in range(25)]
print(sum(code == 2 for code in codes), [code for code in codes if code not in (0, 2)])
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("driver", "T"), [("auto", 3), ("eager", 3), ("aten", 20), ("llvm", 20), ("script", 20)])
def test_an_interrupted_first_call_leaves_nothing_behind(driver, T):
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PROGRAM.format(driver=driver, T=T)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
    )
    assert run.returncode == 0, run.stderr
    interrupted, broken = run.stdout.strip().splitlines()[-1].split(" ", 1)
    assert broken == "[]", run.stdout + run.stderr
    assert int(interrupted) > 3
