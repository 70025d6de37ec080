"""ELF object files, read and set where LLVM leaves something unsaid."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_SYMBOLS, _ARM_ATTRIBUTES = 2, 0x70000003  # kinds of sections
_ARM = 40  # the machine
# Arm's attributes: of the last two the values are text, as those of all odd ones from 32 on.
_EXCEPTIONS, _FLOAT_ARGUMENTS, _TEXTS = 21, 28, (4, 5)
BY_REGISTER, BY_NEITHER = 1, 3  # how floats are passed: as the convention "hard" does; not at all


class _Section(NamedTuple):
    kind: int
    offset: int
    size: int
    link: int


def is_elf(data: bytes) -> bool:
    return data.startswith(b"\x7fELF")


def undefined(data: bytes) -> set[str]:
    """Symbols that a file needs: LLVM calls functions of the compiler's library, too, that no text names."""
    sections, wide = _sections(data), _wide(data)
    form = "<IBBHQQ" if wide else "<IIIBBH"
    found = set()
    for section in sections:
        if section.kind != _SYMBOLS:
            continue
        names, each = sections[section.link].offset, struct.calcsize(form)
        for place in range(section.offset + each, section.offset + section.size, each):  # the first is none
            fields = struct.unpack_from(form, data, place)
            if not fields[3 if wide else 5]:
                begin = names + fields[0]
                found.add(data[begin : data.index(b"\0", begin)].decode())
    return found


def with_float_arguments(data: bytes, how: int) -> bytes:
    """An object for Arm that says how its functions take floats, without which linkers take it for soft float.

    The attribute takes the place of one that says what holds anyway (that exceptions aren't used), as long as it.
    """
    (machine,) = struct.unpack_from("<H", data, 18)
    changed = bytearray(data)
    for section in _sections(data) if machine == _ARM else ():
        if section.kind == _ARM_ATTRIBUTES:
            for place, tag in _attributes(data, section):
                if tag == _EXCEPTIONS:
                    changed[place : place + 2] = bytes([_FLOAT_ARGUMENTS, how])
    return bytes(changed)


def _attributes(data: bytes, section: _Section) -> Iterator[tuple[int, int]]:
    """Where each of a file's attributes lies, and its tag."""
    # a version, the length and name of a maker, then the file's own part with its tag and length
    place = data.index(b"\0", section.offset + 5) + 6
    while place < section.offset + section.size:
        tag = data[place]
        yield place, tag
        place += 1
        if tag in _TEXTS or (tag > 32 and tag % 2):
            place = data.index(b"\0", place) + 1
        else:
            while data[place] & 0x80:  # seven bits a byte
                place += 1
            place += 1


def _wide(data: bytes) -> bool:
    return data[4] == 2


def _sections(data: bytes) -> list[_Section]:
    wide = _wide(data)
    (table,) = struct.unpack_from("<Q" if wide else "<I", data, 0x28 if wide else 0x20)
    each, count = struct.unpack_from("<HH", data, 0x3A if wide else 0x2E)
    headers = (
        struct.unpack_from("<IIQQQQIIQQ" if wide else "<IIIIIIIIII", data, table + k * each) for k in range(count)
    )
    return [_Section(h[1], h[4], h[5], h[6]) for h in headers]
