"""Blocks -> markdown, and figures as reports print them."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from .blocks import Block, Heading, Items, Picture, Table


def document(blocks: Iterable[Block]) -> str:
    """A whole file."""
    return "\n\n".join(_block(block) for block in blocks) + "\n"


def _block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}"
    if isinstance(block, Table):
        return markdown(block.frame)
    if isinstance(block, Items):
        return "\n".join(f"- {line}" for line in block.lines)
    if isinstance(block, Picture):
        return f"![{block.alt}]({block.name})"
    return block


def markdown(frame: pd.DataFrame) -> str:
    """A table; numbers stand as they are, a bar in a text is escaped. pandas' own needs another package."""
    cells = [list(frame.columns), ["---"] * len(frame.columns), *frame.astype(object).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in cells)
