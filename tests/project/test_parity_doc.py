"""docs/parity.md: every row has a verdict and names tests that exist."""

from tests.support import doc_tables

PAGE = doc_tables.ROOT / "docs" / "parity.md"


def rows():
    return doc_tables.rows(PAGE, ("argument or behaviour", "behaviour"))


def test_rows_are_whole():
    assert len(rows()) > 50
    for row in rows():
        assert len(row) == 4, row
        assert row[2] in ("same", "better", "different"), row[0]
        assert row[2] == "same" or row[1], f"{row[0]}: a row that is not the same must say what is"


def test_the_tests_exist():
    for what, _, _, tests in rows():
        for test in tests.split(", "):
            doc_tables.check_test(what, test)


def test_links_exist():
    doc_tables.check_links(PAGE)
