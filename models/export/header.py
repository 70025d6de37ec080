"""A model's C header: sizes as macros, the struct of its states, and the functions."""

from __future__ import annotations

from typing import NamedTuple

from gatefuse._version import __version__

_WORDS = """
alignas alignof and and_eq asm atomic_cancel atomic_commit atomic_noexcept auto bitand bitor bool break case catch char
char16_t char32_t char8_t class co_await co_return co_yield compl concept const const_cast consteval constexpr constinit
continue decltype default delete do double dynamic_cast else enum explicit export extern false float for friend goto if
inline int long mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public register
reinterpret_cast requires restrict return short signed sizeof static static_assert static_cast struct switch
synchronized template this thread_local throw true try typedef typeid typename typeof typeof_unqual union unsigned using
virtual void volatile wchar_t while xor xor_eq
"""
_RESERVED = frozenset(_WORDS.split())


class Field(NamedTuple):
    """A member of the struct: an array of so many numbers, of which ``used`` mean something."""

    name: str
    numbers: int
    used: int
    what: str


class Face(NamedTuple):
    """What a header says.

    Attributes:
        name: of the model; all names in C begin with it.
        operations, target, weights: the model, the processor and the weights' form, in words.
        inputs, outputs: numbers of a step.
        entries: rows of the table that a step's one input is a number of; 0 where it is no number of a row.
        sizes: bytes of code and of constants.
        needs: functions of other libraries that the object calls.
    """

    name: str
    operations: str
    target: str
    weights: str
    inputs: int
    outputs: int
    entries: int
    fields: tuple[Field, ...]
    sizes: tuple[int, int]
    needs: tuple[str, ...]

    @property
    def state_bytes(self) -> int:
        """Of the struct."""
        return 4 * sum(field.numbers for field in self.fields)

    @property
    def input_type(self) -> str:
        """Of a step's inputs."""
        return "int32_t" if self.entries else "float"


def check_name(name: str) -> None:
    """Raises TypeError or ValueError: it is no text, or nothing in C can be named by it."""
    if not isinstance(name, str):
        raise TypeError(f"name must be text. Got {type(name).__name__}.")
    if not (name.isascii() and name.isidentifier()) or name.startswith("_"):
        raise ValueError(
            "name must be an identifier of C's: letters, digits and _, and a letter first; without name= or --name it "
            f"is the object's. Got {name!r}."
        )
    if name in _RESERVED:
        raise ValueError(f"name must be no word that C or C++ reserve. Got {name!r}.")


def header(face: Face) -> str:
    """The text of <name>.h, C99 and C++."""
    name, upper = face.name, face.name.upper()
    code, constants = face.sizes
    needs = f"Calls {', '.join(face.needs)}, which another library must bring." if face.needs else "Calls no library."
    x = f"const {face.input_type} *x"
    entries = []
    if face.entries:
        entries = [f"#define {upper}_ENTRIES ({face.entries}) /* x holds numbers from 0 to {face.entries - 1} */"]
    result, wrong = ("int32_t", ["/* 1, and nothing is done, where x holds a number out of range; else 0. */"])
    if not face.entries:
        result, wrong = "void", []
    members = [f"    float {f.name}[{f.numbers}]; /* {_told(f)} */" for f in face.fields]
    return "\n".join(
        [
            f"/* {name}: {face.operations}.",
            " *",
            f" * Made by gatefuse {__version__} for {face.target}, with weights in {face.weights}.",
            f" * Bytes: {code} of code, {constants} of constants, {face.state_bytes} of state.",
            f" * {needs} Allocates nothing; all that changes is in the state, so that streams are",
            " * independent of each other.",
            " * x, y and the state must not overlap.",
            " */",
            f"#ifndef {upper}_H",
            f"#define {upper}_H",
            "",
            "#include <stddef.h>",
            *(["#include <stdint.h>"] if face.entries else []),
            "",
            "#ifdef __cplusplus",
            'extern "C" {',
            "#endif",
            "",
            f"#define {upper}_INPUTS ({face.inputs}) /* numbers of x that a step reads */",
            f"#define {upper}_OUTPUTS ({face.outputs}) /* numbers of y that a step writes */",
            *entries,
            "",
            f"typedef struct {name}_state {{",
            *members,
            f"}} {name}_state;",
            "",
            "/* The states before the first step; to be called first, and whenever a stream begins anew. */",
            f"void {name}_reset({name}_state *state);",
            "",
            f"/* One step: x is {upper}_INPUTS numbers, y {upper}_OUTPUTS. */",
            *wrong,
            f"{result} {name}_step({name}_state *state, {x}, float *y);",
            "",
            "/* So many steps, one after the other in x and in y. */",
            f"{result} {name}_run({name}_state *state, size_t steps, {x}, float *y);",
            "",
            "#ifdef __cplusplus",
            "}",
            "#endif",
            "",
            f"#endif /* {upper}_H */",
            "",
        ]
    )


def _told(field: Field) -> str:
    if field.used and field.used < field.numbers:
        return f"{field.what}, of which the first {field.used} mean something"
    return field.what
