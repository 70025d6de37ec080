"""Triton's interpreter beside a numpy that it can't run with, made up by the versions that are said to be installed."""

import re

import pytest
import torch

import gatefuse
from gatefuse import find_cell
from gatefuse.kernels.drivers import driver
from gatefuse.kernels.loops.operator import sequence_forward
from gatefuse.kernels.runtime import requirement
from gatefuse.kernels.runtime.settings import interpreted
from gatefuse.kernels.task import Request

pytestmark = pytest.mark.skipif(not interpreted(), reason="Triton's interpreter is off")


@pytest.fixture
def installed(monkeypatch):
    """Puts versions in the place of those that are installed."""

    def clear():
        requirement.require_triton.cache_clear()
        for holder in (find_cell("gru"), find_cell("gru").current()):
            holder.made.pop("plans", None)

    def install(**versions):
        monkeypatch.setattr(requirement, "version", versions.__getitem__)
        clear()

    yield install
    monkeypatch.undo()
    clear()


RULE = "the interpreter of Triton 3.6.0 must have numpy below 2.4: pip install 'numpy<2.4'. Got 2.5.1."


@pytest.mark.parametrize("name", ["step", "block", "grid"])
def test_every_way_to_a_kernel_is_refused_in_words(installed, name):
    installed(triton="3.6.0", numpy="2.5.1")
    assert driver(name).refusal(Request(find_cell("gru"), torch.device("cpu"), torch.float32, 2, 2, 3)) == RULE
    with pytest.raises((RuntimeError, ValueError), match=re.escape(RULE)):
        gatefuse.Recurrent("gru", 3, 4, driver=name)(torch.zeros(2, 2, 3))
    zeros = torch.zeros
    given = zeros(2, 2, 9), zeros(1, 2, 3), zeros(9, 3), None, zeros(0, 3), None, None, None, find_cell("gru").key
    with pytest.raises(RuntimeError, match=re.escape(RULE)):
        sequence_forward(*given, name, "forward", False, False)


@pytest.mark.parametrize(("triton", "numpy"), [("3.6.0", "2.3.5"), ("3.7.1", "2.5.1"), ("3.10.0+git1", "2.4.0rc1")])
def test_others_run(installed, triton, numpy):
    installed(triton=triton, numpy=numpy)
    assert requirement.interpreter_refusal() == ""
    request = Request(find_cell("gru"), torch.device("cpu"), torch.float32, 2, 2, 3)
    assert driver("step").refusal(request) == ""
