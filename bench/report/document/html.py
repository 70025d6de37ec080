"""Blocks -> one HTML page that needs nothing else: tables that sort by a click, plots inside, readable offline."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .blocks import Block, Heading, Items, Picture, Table

TEMPLATE = Path(__file__).with_name("page.html.jinja")
# A figure as reports print it, and what may follow it in a cell: a unit, a star, a bracket.
_FIGURE = re.compile(r"(-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?)(?:x|\*| ?%| of \d+)?(?: \(.*\)| times as long)?", re.DOTALL)
_INLINE = (
    (re.compile(r"`([^`]+)`"), r"<code>\1</code>"),
    (re.compile(r"\*\*([^*]+)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"\*([^*\s][^*]*)\*"), r"<em>\1</em>"),
)


def document(blocks: Iterable[Block]) -> str:
    """The whole page.

    Raises:
        ModuleNotFoundError: jinja2 isn't installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup, escape
    except ModuleNotFoundError:
        raise ModuleNotFoundError("a page must have jinja2: pip install 'gatefuse[report]'. It is missing.") from None

    def inline(text: str) -> Markup:
        """Markdown's marks, of which reports use three."""
        marked = str(escape(text))
        for pattern, tag in _INLINE:
            marked = pattern.sub(tag, marked)
        return Markup(marked)

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["inline"] = inline
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(parts=_parts(blocks))


def _parts(blocks: Iterable[Block]) -> list[dict[str, Any]]:
    """What the template goes through; the first section has the contents: what stands before it is the answer."""
    parts: list[dict[str, Any]] = []
    heading = ""
    for block in blocks:
        if isinstance(block, Heading):
            heading = block.text
            anchor = f"{len(parts)}-" + re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")
            parts.append({"kind": "heading", "text": heading, "level": block.level, "anchor": anchor, "contents": []})
        elif isinstance(block, Table):
            parts.append({"kind": "table", "label": heading, **_table(block)})
        elif isinstance(block, Items):
            parts.append({"kind": "items", "lines": block.lines})
        elif isinstance(block, Picture):
            parts.append({"kind": "picture", "alt": block.alt, "data": b64encode(block.svg).decode()})
        else:
            parts.append({"kind": "text", "text": block})
    sections = [part for part in parts if part.get("level") == 2]
    if sections:
        sections[0]["contents"] = sections
    return parts


def _table(block: Table) -> dict[str, Any]:
    """Columns with the way they sort, and cells with what they sort by."""
    columns = [str(name) for name in block.frame.columns]
    cells = block.frame.astype(str).to_numpy().tolist()
    keys = [sort_keys([line[k] for line in cells]) for k in range(len(columns))]
    return {
        "columns": [{"name": name, "numeric": key is not None} for name, key in zip(columns, keys, strict=True)],
        "lines": [
            [{"text": text, "key": keys[k][n] if keys[k] else None} for k, text in enumerate(line)]  # type: ignore[index]
            for n, line in enumerate(cells)
        ],
    }


def sort_keys(texts: list[str]) -> list[float | None] | None:
    """The numbers by which a column of figures sorts, None where a cell holds none; None for a column of words."""
    keys: list[float | None] = []
    for text in texts:
        found = _FIGURE.fullmatch(text)
        if not found and text not in ("", "-", "*"):
            return None
        keys.append(float(found[1].replace(",", "")) if found else None)
    return keys if any(key is not None for key in keys) else None
