"""The page: that it holds what the markdown holds, needs nothing else, and sorts in a browser where there is one."""

import re
import shutil
import subprocess
from html import unescape

import pandas as pd
import pytest

from gatefuse.bench.report import sweep
from gatefuse.bench.report.document.blocks import Heading, Items, Table
from gatefuse.bench.report.document.html import document, sort_keys
from tests.support.made_up_rows import make_rows, write

pytest.importorskip("jinja2")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.parametrize(
    ("texts", "keys"),
    [
        (["12", "3"], [12, 3]),
        (["3.70x", "-", "0.46x"], [3.7, None, 0.46]),
        (["46.9*", "29.5 (1.01x)", ""], [46.9, 29.5, None]),
        (["45 %", "2.1 % (3)"], [45, 2.1]),
        (["1 of 7", "0 of 7"], [1, 0]),
        (["7.8e-07", "98,304"], [7.8e-07, 98304]),
        (["2 products", "8 products"], None),
        (["vendor", "12"], None),
        (["", "-", "*"], None),
        (["2026-11-21 11:39 UTC"], None),
    ],
)
def test_figures_sort_as_numbers_and_words_as_words(texts, keys):
    assert sort_keys(texts) == keys


def test_the_page_holds_the_same_tables_and_plots(tmp_path):
    csv = write(make_rows(), tmp_path / "some-gpu" / "quick.csv")
    sweep.write(csv, html=True)
    page, text = csv.with_suffix(".html").read_text(), csv.with_suffix(".md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| ") and "| --- |" not in line]
    assert page.count("<tr>") == len(lines)
    for heading in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE):
        assert f">{heading}</h" in unescape(page)
    pytest.importorskip("matplotlib")
    assert page.count('src="data:image/svg+xml;base64,') == text.count("](quick-") == 3


def test_the_page_needs_nothing_else(tmp_path):
    csv = write(make_rows(), tmp_path / "some-gpu" / "quick.csv")
    sweep.write(csv, html=True)
    page = csv.with_suffix(".html").read_text()
    assert set(re.findall(r'(?:src|href)="([^"]{1,5})', page)) <= {"data:"} | {
        f"#{k}" for k in re.findall(r'"#(\S{1,4})', page)
    }
    assert "@import" not in page
    assert "url(" not in page


def test_what_rows_say_is_no_markup():
    page = document(
        [Heading("a <b>", 1), Heading("c"), "x `y` **z**", Table(pd.DataFrame({"<i>": ["<script>"]})), Items(("&",))]
    )
    assert "<title>a &lt;b&gt; - gatefuse</title>" in page
    assert "&lt;script&gt;" in page
    assert "&lt;i&gt;" in page
    assert "<li>&amp;</li>" in page
    assert "<p>x <code>y</code> <strong>z</strong></p>" in page


def test_headers_are_buttons_with_a_scope():
    page = document([Heading("a", 1), Table(pd.DataFrame({"n": ["1"]}))])
    assert (
        '<th scope="col" aria-sort="none" class="number"><button type="button" class="number">n</button></th>' in page
    )
    assert '<div class="scroll" tabindex="0" role="region" aria-label="a">' in page


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium; there is none")
def test_a_click_sorts_and_words_filter(tmp_path):
    table = pd.DataFrame({"name": ["b", "a", "c", "d"], "time": ["10.5 (2x)", "9*", "-", "100"]})
    page = document([Heading("a page", 1), Heading("a section"), Table(table)])
    program = """
        const done = [], button = (k) => document.querySelectorAll("th button")[k];
        const cells = () => [...document.querySelectorAll("tbody tr:not([hidden]) td:first-child")];
        const shown = () => cells().map((cell) => cell.textContent).join("");
        const ways = () => [...document.querySelectorAll("th")].map((head) => head.getAttribute("aria-sort")[0]);
        for (const k of [1, 1, 0, 0]) {
          button(k).click();
          done.push(shown() + " " + ways().join(""));
        }
        const field = document.querySelector("#filter");
        field.value = "section 10";
        field.dispatchEvent(new Event("input"));
        done.push(shown() + " " + document.querySelector("#count").textContent);
        document.title = done.join("; ");
    """
    path = tmp_path / "page.html"
    path.write_text(page.replace("</body>", f"<script>{program}</script></body>"), encoding="utf-8")
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}/user",
        "--dump-dom",
        path.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (title,) = re.findall("<title>(.*)</title>", done.stdout)
    assert title == "abdc na; dbac nd; abcd an; dcba dn; db 2 of 4"
