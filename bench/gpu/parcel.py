"""A folder of results as one file, which is all that a borrowed machine need give back.

The folder grows file by file while a run goes on: rows, their locks, halves of what is being written. The parcel is
written whole or not at all, every few seconds, so that a run that is killed has lost that much.
"""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..storage.whole_file import write_whole

NAME = "gpu.tar"
EVERY = 15.0  # seconds
_PASSING = (".lock", ".part")  # what files are called that mean nothing elsewhere


class Parcel:
    """A folder, which may lie anywhere, and the file that holds what is in it.

    Args:
        path: of the file, a tar; its folder is made.
        folder: whose files are packed; those of its folders are not.
    """

    def __init__(self, path: Path, folder: Path):
        self.path, self.folder = path, folder
        self._writing = threading.Lock()

    def unpack(self) -> None:
        """Put what the file holds, if it is there, into the folder.

        Raises:
            ValueError: it is no such file.
        """
        if not self.path.exists():
            return
        try:
            with tarfile.open(self.path) as tar:
                for member in tar.getmembers():
                    if member.isfile() and Path(member.name).name == member.name and (held := tar.extractfile(member)):
                        write_whole(self.folder / member.name, held.read())
        except (tarfile.TarError, EOFError) as error:
            raise ValueError(f"{self.path} must be a tar of results; remove it to begin anew. Got {error}.") from None

    def pack(self) -> None:
        """Write the file anew."""
        with self._writing:
            whole = io.BytesIO()
            with tarfile.open(fileobj=whole, mode="w") as tar:
                for path in sorted(self.folder.iterdir()):
                    if path.is_file() and not path.name.endswith(_PASSING):
                        held = path.read_bytes()  # once, as it may grow meanwhile
                        member = tarfile.TarInfo(path.name)
                        member.size = len(held)
                        tar.addfile(member, io.BytesIO(held))
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, whole.getvalue())

    @contextmanager
    def kept(self, every: float = EVERY) -> Iterator[None]:
        """A context in which the file is written every so many seconds, and at its end."""
        over = threading.Event()

        def go_on() -> None:
            while not over.wait(every):
                self.pack()

        thread = threading.Thread(target=go_on, name="parcel", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.pack()
