"""A lock on a file that one run at a time may write; the system frees it when that process ends, however it ends."""

from __future__ import annotations

import os
import sys
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt

    def take(file: IO[bytes], wait: bool = False) -> bool:
        """Lock an open file until it is closed; False if another has it. With ``wait``, when the other is done.

        Raises:
            OSError: this file system knows no locks.
        """
        file.seek(1 << 30)  # beyond what others read, which they then could not
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

else:
    import fcntl

    def take(file: IO[bytes], wait: bool = False) -> bool:
        """Lock an open file until it is closed; False if another has it. With ``wait``, when the other is done.

        Raises:
            OSError: this file system knows no locks.
        """
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True


class Lock:
    """The right to write a file, held from here until ``release``, or until the process ends.

    What is locked is ``<file>.lock`` beside it, as the file itself may be replaced meanwhile; it says who holds it.
    Whoever reads the file needs no lock.

    Args:
        path: of the file, which need not be there; its folder is made.
        otherwise: what else a person can do than to wait for the other run's end, or to stop it.

    Raises:
        OSError: the folder or the lock can't be written.
        ValueError: another run holds it.
    """

    def __init__(self, path: Path, otherwise: str = "write another file"):
        real = Path(os.path.realpath(path))
        real.parent.mkdir(parents=True, exist_ok=True)
        place = real.with_name(f"{real.name}.lock")
        while True:
            file = place.open("a+b", buffering=0)
            try:
                free = take(file)
            except OSError as error:
                print(f"gatefuse: {path} can't be locked ({error}): see to it that one run writes it", file=sys.stderr)
                free = True
            if not free:
                who = _read(file)
                raise ValueError(
                    f"{path} must be written by one run at a time. Got {who}, which writes it now: wait for its end, "
                    f"stop it, or {otherwise}."
                )
            if _lies_at(file, place):
                break
            file.close()  # the one before has just removed it
        # Where nobody releases it: when the object goes, or the process ends in order.
        self._end = weakref.finalize(self, _remove, file, place, os.getpid())
        since = time.strftime("%Y-%m-%d %H:%M")
        with suppress(OSError):  # a full disk: it is held all the same
            file.truncate(0)
            file.write(f"process {os.getpid()} ({' '.join(sys.argv)[:200]}) since {since}".encode(errors="replace"))

    def release(self) -> None:
        """Let others write; once more does nothing."""
        self._end()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _read(file: IO[bytes]) -> str:
    with file:
        file.seek(0)
        return file.read().decode(errors="replace") or "another process"


def _lies_at(file: IO[bytes], place: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), place.stat())
    except FileNotFoundError:
        return False


def _remove(file: IO[bytes], place: Path, process: int) -> None:
    if os.getpid() == process:  # not one that was forked from it
        with suppress(OSError):
            place.unlink()  # while it is held: who opened it meanwhile sees that it lies there no more
    file.close()
