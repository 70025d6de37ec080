"""docs/seeds.md: no row is missing, and what shows it exists."""

import re

from tests.support import doc_tables

PAGE = doc_tables.ROOT / "docs" / "seeds.md"
ROWS = ["S0a", "S0b", "S0c", "S1a", "S1b", "S1c", "S1d", "S2a", "S2b", "S2c", "S3a", "S3b", "S3c", "S4a", "S4b", "card"]


def rows():
    return doc_tables.rows(PAGE, ("row",))


def test_no_row_is_missing():
    assert list(dict.fromkeys(row[0] for row in rows())) == ROWS
    for row in rows():
        assert len(row) == 4, row
        assert row[1], row
        assert row[2] == "shown" or row[2].startswith("in part: "), row


def test_what_shows_them_exists():
    for name, _, _, shown in rows():
        for what in shown.split(", "):
            link = re.fullmatch(r"\[[^\]]+\]\(([^)#]+)(#[^)]+)?\)", what)
            if link:
                assert (PAGE.parent / link[1]).exists(), f"{name}: {what}"
            else:
                doc_tables.check_test(name, what)


def test_links_exist():
    doc_tables.check_links(PAGE)


def test_what_readers_ask_is_answered():
    text = (PAGE.parent / "questions.md").read_text(encoding="utf-8")
    headings = " ".join(re.findall(r"^## (.+)$", text, flags=re.MULTILINE))
    for asked in ("num_steps", "vocab_size", "d?", "gradient explode", "tanh around c", "GRU come from", "Words"):
        assert asked in headings, asked
