"""python -m gatefuse.export model.pt vad.o: a saved model as an object file with a C header, for any processor."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gatefuse.kernels.cells import cell_names, find_cell
from gatefuse.kernels.noise.recurrent_dropout import dropped
from gatefuse.kernels.noise.zoneout import zoned_out
from gatefuse.models.export.chain import KNOWN
from gatefuse.models.export.object import WEIGHTS, export_object

__all__ = ["load", "main", "targets"]


def targets() -> dict[str, str]:
    """The processors that ``export_object`` knows by name, and the machines that each is for."""
    from gatefuse.kernels.codegen.llvm.objects import targets as known

    return known.targets()


def load(path: str | Path, trust: bool = False) -> Any:
    """A model that ``torch.save(model, path)`` wrote, on the CPU and in eval mode.

    Args:
        path: the file.
        trust: whether classes other than those that can be exported are loaded too; a file can then run any code.

    Raises:
        OSError: there is no such file.
        ValueError: it holds no model, or classes that need trust.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"model must be a file. Got {str(path)!r}.")
    cells: list[Any] = [(find_cell(name), f"{find_cell(name).__module__}.{name}") for name in cell_names()]
    made_of_cells = zoned_out, dropped
    with torch.serialization.safe_globals([*KNOWN, nn.Sequential, nn.ModuleList, *cells, *made_of_cells]):
        try:
            model = torch.load(path, map_location="cpu", weights_only=not trust)
        except Exception as error:  # of as many types as a broken file has places
            found = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
            reason = f" with {found[1]}" if found else f": {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            rule = "of classes that can be exported; a file with others, which can run any code, is read with --trust"
            if trust:
                rule = "of classes that can be imported here; in the script that defines them, call "
                rule += "gatefuse.export_object(model, path)"
            raise ValueError(
                f"model must be what torch.save(model, path) wrote, {rule}. Got {str(path)!r}{reason}."
            ) from error
    for module in model if isinstance(model, (list, tuple)) else [model]:
        if not isinstance(module, nn.Module):
            kind = type(module).__name__
            raise ValueError(
                f"model must be a whole model, as torch.save(model, path) writes it, or a list of modules. Got {kind}."
            )
        module.eval()
    return model


def main(arguments: Sequence[str] | None = None) -> int:
    """Export by these arguments of the command line; the code that the process ends with."""
    parser = argparse.ArgumentParser(prog="python -m gatefuse.export", description=__doc__)
    parser.add_argument("model", nargs="?", help="a file that torch.save(model, path) wrote")
    parser.add_argument("object", nargs="?", help="the object, such as vad.o; vad.h and vad_check.c come beside it")
    parser.add_argument("--target", default="host", help="a name that --targets lists, or a triple of LLVM's")
    parser.add_argument("--cpu", default="", help="with a triple, the processor as LLVM names it")
    parser.add_argument("--name", help="what all names in C begin with (default: the object's name)")
    parser.add_argument("--weights", default="float32", choices=WEIGHTS)
    parser.add_argument("--shared", action="store_true", help="a shared library too, by this machine's C compiler")
    parser.add_argument("--trust", action="store_true", help="read classes of any kind: such a file can run any code")
    parser.add_argument("--targets", action="store_true", help="list the processors known by name")
    given = parser.parse_args(arguments)
    if given.targets:
        for name, what in targets().items():
            print(f"{name:15} {what}")
        return 0
    if given.model is None or given.object is None:
        parser.error("a model and an object file must be given, or --targets.")
    try:
        model = load(given.model, given.trust)
        print(
            export_object(model, given.object, given.target, given.name, given.weights, given.cpu, shared=given.shared)
        )
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
