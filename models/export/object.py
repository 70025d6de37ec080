"""export_object: a trained model as an object file that programs in C are linked with, for any processor."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from gatefuse.models.export.chain import Layer, Lookup, Operation, chain
from gatefuse.models.export.check_program import check_program
from gatefuse.models.export.files import write_together
from gatefuse.models.export.header import Face, check_name, header
from gatefuse.models.export.recording import recording

_ENDINGS = (".o", ".obj")
WEIGHTS = ("float32", "float16", "int8")


@dataclass(frozen=True)
class Exported:
    """What an export wrote; ``print`` it.

    Attributes:
        files: the object, its header, the check program, and with shared the library.
        name, target, weights: as they were asked for.
        code_bytes: of code and of the constants that are no weights.
        weight_bytes: of weights, biases and scales, all constants.
        state_bytes: of the struct that each stream has.
        needs: functions of other libraries that the object calls.
        loss: by how much weights in fewer bits move the recorded output, as a part of its largest value; 0.0 in
            float32.
        allowed: by how much the object may err beside the output of the weights that it holds.
    """

    files: tuple[Path, ...]
    name: str
    target: str
    weights: str
    code_bytes: int
    weight_bytes: int
    state_bytes: int
    needs: tuple[str, ...]
    loss: float
    allowed: float

    def __str__(self) -> str:
        lines = [
            f"{self.name} for {self.target}: {', '.join(str(f) for f in self.files)}",
            f"  code {self.code_bytes:,} bytes, weights {self.weight_bytes:,} bytes ({self.weights}), "
            f"state {self.state_bytes:,} bytes",
            f"  calls {', '.join(self.needs) or 'no library'}",
        ]
        if self.loss:
            lines.append(f"  weights in {self.weights} move its output by {self.loss:.1e} of the largest value")
        return "\n".join(lines)


def export_object(
    model: nn.Module | list[nn.Module] | tuple[nn.Module, ...],
    path: str | os.PathLike[str],
    target: str = "host",
    name: str | None = None,
    weights: str = "float32",
    cpu: str = "",
    shared: bool = False,
) -> Exported:
    """Write a model as an object file with a header and a check program, which need neither Python nor a library.

    Beside ``vad.o`` come ``vad.h``, with the struct ``vad_state`` and the functions ``vad_reset(state)``,
    ``vad_step(state, x, y)`` and ``vad_run(state, steps, x, y)``, and ``vad_check.c``, a program with recorded input
    that ends with 0 where the object gives the model's output. The model runs one stream, a step at a time.

    Args:
        model: a Recurrent, LSTM, GRU or RNN, of gatefuse's or of torch.nn's, in one direction; or an nn.Sequential or
            a list of such layers, Linear, Embedding (first) and pointwise activations, that run one after the other: of
            a recurrent layer the next takes the output alone; or a model of a class whose forward runs such modules so,
            and is run beside them to see that it does. In float32, and where there is dropout in eval mode.
        path: of the object, which ends in .o or .obj. Files of these names are replaced.
        target: a name of ``gatefuse.export.targets()``, or one of LLVM's triples, with ``cpu``.
        name: what all names in C begin with; the file's where None.
        weights: "float32"; "float16" or "int8" for as many bytes less: they are made numbers again in the products,
            which compute in float32, and each row of a matrix has a scale of its own.
        cpu: with a triple, the processor as LLVM names it.
        shared: whether a shared library is made of the object too, for this machine, by its C compiler.

    Returns:
        The files, and how many bytes of code, weights and state there are.

    Raises:
        TypeError: a module, which is named, can't be exported; an argument is of the wrong type.
        ValueError: the model can't be exported as it is; a name, path, target or form of weights is of no use.
        OSError: a file can't be written; then none was.
        ModuleNotFoundError: llvmlite is not installed.
        RuntimeError: there is no C compiler for a shared library, or it fails.
    """
    place = _checked_path(path)
    name = place.stem if name is None else name
    check_name(name)
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}. Got {weights!r}.")
    from gatefuse.kernels.codegen.llvm.objects.object_code import object_code
    from gatefuse.kernels.codegen.llvm.objects.stored import STORED
    from gatefuse.kernels.codegen.llvm.objects.targets import find_target
    from gatefuse.models.export.functions import features, model_module
    from gatefuse.models.export.layout import layout
    from gatefuse.models.export.shared_library import check_machine, shared_library

    found, stored = find_target(target, cpu), STORED[weights]
    if shared:
        check_machine(found)
    operations = chain(model)
    plan = layout(operations, stored, found.processor)
    made = object_code(model_module(name, operations, plan, stored, found), found)
    record = recording(operations, [_meant(op, stored) for op in operations], features(operations))
    constants = len(plan.floats) + len(plan.weights)
    face = Face(
        name=name,
        operations=", ".join(op.title for op in operations),
        target=f"{found.name} ({found.what})",
        weights=weights,
        inputs=features(operations),
        outputs=operations[-1].outputs,
        entries=len(operations[0].table) if isinstance(operations[0], Lookup) else 0,
        fields=plan.fields,
        sizes=(made.loaded - constants, constants),
        needs=made.needs,
    )
    files = {
        place: made.data,
        place.with_name(f"{name}.h"): header(face).encode(),
        place.with_name(f"{name}_check.c"): check_program(face, record).encode(),
    }
    if shared:
        library, data = shared_library(place, made, found)
        files[library] = data
    write_together(files)
    return Exported(
        tuple(files), name, found.name, weights, *face.sizes, face.state_bytes, made.needs, record.loss, record.allowed
    )


def _checked_path(path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a path. Got {type(path).__name__}.")
    place = Path(path)
    if place.suffix not in _ENDINGS:
        raise ValueError(f"path must end in {' or '.join(_ENDINGS)}. Got {str(path)!r}.")
    if not place.parent.is_dir():
        raise FileNotFoundError(f"path must be in a folder that is there. Got {str(path)!r}.")
    return place


def _meant(op: Operation, stored: Any) -> Operation:
    """The operation with the weights that its stored ones stand for."""
    if isinstance(op, Lookup):
        return op._replace(table=stored.meant(op.table))
    if isinstance(op, Layer):
        weights = op.weights
        return op._replace(
            weights=weights._replace(input=stored.meant(weights.input), recurrent=stored.meant(weights.recurrent))
        )
    return op
