"""speechbrain's layers to compare, where the package is installed."""

import copy
from importlib import import_module
from typing import Any

import torch

import gatefuse

try:
    package: Any = import_module("speechbrain.nnet.RNN")
except (ImportError, OSError):  # the other of torchaudio's library, where it is of another torch than is there
    package = None

T, B, I, H = 7, 3, 5, 4
FORMS = {
    "LiGRU": {"normalization": "batchnorm"},
    "LiGRU layernorm": {"normalization": "layernorm"},
    "LiGRU none": {"normalization": "none", "bias": False},
    "SLiGRU": {"ff_normalization": "batchnorm"},
    "SLiGRU affine": {"ff_normalization": "layernorm", "recurrent_elementwise_affine": True},
}


def make(form, dtype=torch.float64, **options):
    torch.manual_seed(0)
    layer = getattr(package, form.split()[0])(H, (B, T, I), **FORMS[form], **options).to(dtype)
    with torch.no_grad():  # biases and gains are 0 and 1 at first
        for parameter in layer.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) / 4)
    return layer


def pair(form, dtype=torch.float64, **options):
    """The package's layer, and a copy of it that is accelerated."""
    theirs = make(form, dtype, **options)
    ours = copy.deepcopy(theirs)
    told = gatefuse.accelerate(ours)
    assert not told.left
    assert len(told.changed) == theirs.num_layers
    return theirs, ours
