"""Files that are written together, each whole, and none where one of them can't be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gatefuse.bench.storage.whole_file import check_writable, write_whole


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write all of these files, in place of what has their names.

    Raises:
        OSError: one can't be written. Where that shows before the first is written, none is.
    """
    for path in files:
        if path.is_dir():
            raise IsADirectoryError(f"{path} must be a file. It is a folder.")
        check_writable(path)
    for path, data in files.items():
        write_whole(path, data)
