"""Text between two marks of a page, which is generated and put in the place of what stood there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...storage.whole_file import write_whole

# A mark that a part begins with, and the one that it ends with.
Marks = tuple[str, str]


def marks(name: str) -> Marks:
    """Those of a part of that name, which no reader of the page sees."""
    return f"<!-- {name}:start -->", f"<!-- {name}:end -->"


def fill(page: Path, parts: Mapping[str, str]) -> Path:
    """Put each part, by its name, between its marks.

    Raises:
        OSError: the page can't be read or written.
        ValueError: marks are not there, once each and in order; the page is then left as it is.
    """
    text = page.read_text(encoding="utf-8")
    for name, part in parts.items():
        start, end = marks(name)
        before, found, rest = text.partition(start)
        _, ended, after = rest.partition(end)
        if not found or not ended or start in rest or end in after:
            raise ValueError(f"{page.name} must hold {start} and {end} once each, in this order.")
        text = f"{before}{start}\n{part.rstrip()}\n{end}{after}"
    write_whole(page, text)
    return page
