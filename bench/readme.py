"""The README's figures, written from a report's CSV between two marks; nobody types them."""

from __future__ import annotations

from pathlib import Path

from .report import summary
from .table import read

START, END = "<!-- report:start -->", "<!-- report:end -->"


def fill(readme: Path, csv: Path, root: Path = Path()) -> None:
    """Put a CSV's summary between the marks, with a link that is relative to root.

    Raises:
        ValueError: the marks are not there, once each and in order.
    """
    text = readme.read_text(encoding="utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end or START in rest or END in after:
        raise ValueError(f"{readme.name} must hold {START} and {END} once each, in this order.")
    page = csv.with_suffix(".md")
    page = page.relative_to(root) if page.is_absolute() else page
    body = f"{summary(read(csv), csv.stem)}\n\nAll of it: [{page.as_posix()}]({page.as_posix()})."
    readme.write_text(f"{before}{START}\n{body}\n{END}{after}", encoding="utf-8")
