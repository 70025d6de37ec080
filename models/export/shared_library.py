"""A shared library of an object, for the machine at hand, made by its C compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from gatefuse.kernels.codegen.llvm.objects.object_code import ObjectCode
from gatefuse.kernels.codegen.llvm.objects.targets import Target
from gatefuse.kernels.codegen.llvm.processor import this_processor

_COMPILERS = ("cc", "gcc", "clang")
_ENDINGS = {"darwin": ".dylib", "win32": ".dll"}


def check_machine(target: Target) -> str:
    """The C compiler that can make a library of an object for the target.

    Raises:
        ValueError: the target is another kind of machine.
        RuntimeError: there is no C compiler.
    """
    here, there = (p.triple.split("-") for p in (this_processor(), target.processor))
    if here[0] != there[0] or ("linux" in here) != ("linux" in there) or not target.movable:
        raise ValueError(f"target must be this kind of machine for a shared library, as host is. Got {target.name}.")
    wanted = [os.environ["CC"]] if os.environ.get("CC") else _COMPILERS
    found = next(filter(None, map(shutil.which, wanted)), None)
    if found is None:
        raise RuntimeError(f"a shared library must have a C compiler: {', '.join(wanted)}. None is there.")
    return found


def shared_library(place: Path, made: ObjectCode, target: Target) -> tuple[Path, bytes]:
    """Where the library of the object at that place goes, and its bytes.

    Raises:
        ValueError, RuntimeError: as check_machine; or the compiler fails.
    """
    ending = _ENDINGS.get(sys.platform, ".so")
    with tempfile.TemporaryDirectory() as folder:
        source, to = Path(folder, "model.o"), Path(folder, f"model{ending}")
        source.write_bytes(made.data)
        command = [check_machine(target), "-shared", "-o", str(to), str(source), *(["-lm"] if made.needs else [])]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the C compiler must link the object. It said: {done.stderr.strip()}")
        return place.with_suffix(ending), to.read_bytes()
