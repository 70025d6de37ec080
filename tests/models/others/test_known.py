"""Which layers of other packages accelerate finds, without these packages: they are looked up, never imported."""

import subprocess
import sys
from types import ModuleType

import pytest
from torch import nn

import gatefuse
from gatefuse.models.others import known, speechbrain, xlstm
from gatefuse.models.others.counterpart import digest, plain, watched

EACH = (*speechbrain.COUNTERPARTS, *xlstm.COUNTERPARTS)


@pytest.fixture(params=EACH, ids=[each.name for each in EACH])
def impostor(request, monkeypatch):
    """A counterpart, and a class of the package's name that computes something else."""
    module = ModuleType(request.param.module)
    kind = type(request.param.name, (nn.Linear,), {"__module__": request.param.module})
    setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, request.param.module, module)
    return request.param, kind


def test_other_code_under_the_same_name_is_left(impostor):
    counterpart, kind = impostor
    layer = kind(2, 2)
    told = gatefuse.accelerate(nn.Sequential(layer))
    why = f"the code of its time loop is another than that of {counterpart.release}, with which gatefuse was compared"
    assert (told.changed, told.left) == ({}, {"0": why})
    assert type(layer) is kind


def test_a_driver_of_torchs_is_refused(impostor):
    told = gatefuse.accelerate(impostor[1](2, 2), driver="vendor")
    assert told.left == {"": "torch's own loops, which driver vendor is, are of torch.nn's layers alone"}


def test_what_it_becomes_is_derived_of_it(impostor):
    counterpart, kind = impostor
    ours = known.pairs()[kind]
    assert issubclass(ours, kind)
    assert ours is counterpart.loaded() is known.pairs()[kind]
    assert (ours.__name__, ours.__module__) == (kind.__name__, counterpart.methods.__module__)


def test_a_package_that_nobody_imported_is_not_asked_for(monkeypatch):
    for each in EACH:
        monkeypatch.delitem(sys.modules, each.module, raising=False)
    assert known.pairs() == {}
    assert known.refusal(nn.Linear(2, 2), "auto") is None


def test_no_package_is_imported():
    program = (
        "import sys, torch, gatefuse\n"
        "gatefuse.restore(m) if gatefuse.accelerate(m := torch.nn.GRU(2, 3)).changed else None\n"
        "print(sorted({'speechbrain', 'xlstm'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_digest_is_of_the_code_but_for_blanks():
    def one(a):
        return a + 1

    def other(a):
        return a + 2

    assert digest([one]) == digest([one])
    assert digest([one]) != digest([other])
    assert digest([len]) == digest([None]) == ""


def test_watched_and_plain():
    module = nn.Linear(2, 2)
    assert not watched(module)
    module.register_full_backward_hook(lambda *_: None)
    assert watched(module)
    assert plain(module.weight, module.weight.detach())
    assert not plain(module.weight, None)
