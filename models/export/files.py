"""Files that are written together, whole, or none of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write all of these files, in place of what has their names.

    Raises:
        OSError: one can't be written; then nothing was changed.
    """
    parts = {path: path.with_name(f"{path.name}.{os.getpid()}.part") for path in files}
    try:
        for path, data in files.items():
            if path.is_dir():
                raise IsADirectoryError(f"{path} must be a file. It is a folder.")
            parts[path].write_bytes(data)
        for path, part in parts.items():
            part.replace(path)
    finally:
        for part in parts.values():
            with suppress(OSError):
                part.unlink()
