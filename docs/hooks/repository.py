"""Hook of mkdocs: pages and files outside docs/ become part of the site, and links lead to them in both places.

A page in docs/ links to ../reports/clients.md, as a reader of the repository needs it. In the site docs/ is the root,
and reports/ lies within, so links are written anew from where both ends are in the repository.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Reports with their plots and rows, and what pages link to.
_KINDS = ("md", "svg", "csv")
OUTSIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "examples/*.py", *(f"reports/**/*.{kind}" for kind in _KINDS))
REPORTS = "Reports"  # the title in mkdocs.yml's nav under which the reports are listed
_TEST = re.compile(r"(?<![`\w])(tests/\w+\.py::)")
_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)")


def outside() -> list[str]:
    """Paths in the repository of what comes from outside docs/."""
    return sorted(path.relative_to(ROOT).as_posix() for glob in OUTSIDE for path in ROOT.glob(glob))


def on_config(config: Any) -> Any:
    """List all reports there are, by folder, first the page that compares them."""
    folders: dict[str, list[str]] = {}
    for path in outside():
        if path.startswith("reports/") and path.endswith(".md"):
            folders.setdefault(dirname(path).removeprefix("reports").strip("/"), []).append(path)
    listed: list[Any] = folders.pop("")
    listed.sort(key=lambda path: path != "reports/README.md")
    listed += [{folder: pages} for folder, pages in folders.items()]
    for entry in config.nav:
        if isinstance(entry, dict) and REPORTS in entry:
            entry[REPORTS] = listed
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add what lies outside docs/."""
    from mkdocs.structure.files import File

    for path in outside():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Write the page's links anew, and let the long names of tests be broken in narrow columns."""
    return relink(_TEST.sub(r"\1<wbr>", markdown), page.file.src_uri)


def relink(markdown: str, page: str) -> str:
    """A page's text, with links from one place in the repository to another made links within the site.

    Args:
        page: where it is in the site.
    """
    here = page if page in outside() else join("docs", page)

    def replace(link: re.Match[str]) -> str:
        target = normpath(join(dirname(here), link[1])).removeprefix("docs/")
        return f"]({relpath(target, dirname(page) or '.')}"

    return _LINK.sub(replace, markdown)
