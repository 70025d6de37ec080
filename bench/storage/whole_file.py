"""A file written whole or not at all: who is killed meanwhile, or finds the disk full, leaves what lay there before.

Written is a temporary file beside it, which then takes its place at once.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .lock import take

# Names of temporary files: whose, as far as a name may be long, and a number that no other has.
_NAME = ".{}.{}.part"
_PART = re.compile(r"\..+\.[0-9a-f]{16}\.part")


def write_whole(path: Path, content: str | bytes | Callable[[IO[bytes]], object]) -> None:
    """Write a file, whole or not at all.

    A symbolic link stays, and its target is written. A file that is replaced leaves its permissions to the new one. A
    pipe or a device is written as it is. What a write that was killed has left beside it is removed.

    Args:
        path: of the file, in a folder that is there.
        content: text, which is written in UTF-8 with the ends of lines that it has; bytes; or what writes into the
            file that it is given, opened for bytes.

    Raises:
        OSError: it can't be written. The file is then as it was, as it is after whatever else ``content`` raises.
    """
    data = content.encode() if isinstance(content, str) else content
    target = Path(os.path.realpath(path))
    if _is_stream(target):
        with target.open("wb") as file:
            _fill(file, data)
        return
    with naming(path), _part(target) as (file, part):
        _fill(file, data)
        file.flush()
        os.fsync(file.fileno())  # or a machine that goes down could keep the new name and the old nothing
        if os.name == "nt":
            file.close()  # Windows moves no open file; elsewhere its lock keeps it from being taken for a dead one's
        os.replace(part, target)


def check_writable(path: Path) -> None:
    """Find out whether ``write_whole`` can write there, without a change to what lies there.

    Raises:
        OSError: it can't.
    """
    target = Path(os.path.realpath(path))
    if not _is_stream(target):
        with naming(path), _part(target):
            pass


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the system that name no file, as one of a full disk, name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def _is_stream(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _fill(file: IO[bytes], data: bytes | Callable[[IO[bytes]], object]) -> None:
    if callable(data):
        data(file)
    else:
        file.write(data)


@contextmanager
def _part(target: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """A temporary file for what lies at target, with its permissions; removed afterwards, unless it was moved there."""
    try:
        before = target.stat()
        os.close(os.open(target, os.O_WRONLY))  # or a file that must not be written would be replaced
    except FileNotFoundError:
        before = None
    _remove_dead(target.parent)
    while True:
        part = target.with_name(_NAME.format(target.name[:50], secrets.token_hex(8)))
        try:
            with part.open("xb") as file:
                if not _is_mine(file):
                    continue
                if before:
                    with suppress(OSError, AttributeError):  # others than its owner may not, and Windows has none
                        os.chown(part, before.st_uid, before.st_gid)
                    os.chmod(part, stat.S_IMODE(before.st_mode))
                yield file, part
            return
        finally:
            with suppress(OSError):
                part.unlink()


def _is_mine(file: IO[bytes]) -> bool:
    """Lock it, which says that its writer lives; False if another has just taken it for a dead one's."""
    try:
        return take(file) and os.fstat(file.fileno()).st_nlink > 0
    except OSError:  # where there are no locks, nobody removes it either
        return True


def _remove_dead(folder: Path) -> None:
    """Remove temporary files of writes that were killed; Windows keeps them, as it removes no open file."""
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            if _PART.fullmatch(entry.name):
                with suppress(OSError), open(entry.path, "r+b") as file:
                    if take(file):
                        os.unlink(entry.path)
