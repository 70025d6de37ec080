"""The site that `make docs` builds opens from a disk, and loads nothing from elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.support.doc_programs import ROOT

pytest.importorskip("material", reason="the site is built with the packages of gatefuse[docs]")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    return folder


def test_pages_load_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"([^\"]+)\"", text)
        loaded += re.findall(r"<link[^>]* rel=\"?(?:stylesheet|icon|pre\w+)\"?[^>]* href=\"([^\"]+)\"", text)
        assert loaded, page
        for path in loaded:
            assert not re.match(r"(\w+:)?//", path), f"{page.name} loads {path}"
            if page.name != "404.html" and not path.startswith("data:"):  # which is for a server
                assert (page.parent / path.partition("?")[0]).exists(), f"{page.name} loads {path}"


def test_the_search_has_its_box_and_what_it_needs_on_a_disk(site):
    for page in (site / "index.html", site / "reference" / "cells.html"):
        text = page.read_text(encoding="utf-8")
        assert '<input type="text" class="md-search__input"' in text
        assert re.search(r'<script src="(\.\./)?iframe-worker\.js"', text)
    index = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    assert index.startswith("var __index = {")
    documents = json.loads(index.removeprefix("var __index = "))["docs"]
    assert any(each["location"].startswith("own_cell.html") for each in documents)


# What a browser has of a page, as far as the script needs it: a frame whose scripts run in a world of their own.
_BROWSER = """
const fs = require("fs"), vm = require("vm");
const [worker, index, query] = process.argv.slice(2);
function frame() {
  const inside = Object.assign(new EventTarget(), { console, MessageEvent, EventTarget, URL });
  inside.self = inside;
  inside.parent = globalThis;
  inside.addEventListener = inside.addEventListener.bind(inside);
  const page = {
    createElement: () => ({}),
    querySelector: () => ({ src: worker }),
    body: { append(script) {
      vm.runInContext(fs.readFileSync(new URL(script.src), "utf8"), inside);
      script.onload();
    } },
  };
  inside.document = page;
  vm.createContext(inside);
  return { contentWindow: inside, contentDocument: page };
}
globalThis.window = globalThis;
globalThis.location = { protocol: "file:", href: "file:///" };
globalThis.document = {
  createElement: frame,
  body: { append(each) { setTimeout(() => each.onload()) } },
};
vm.runInThisContext(fs.readFileSync(process.argv[5], "utf8"));
vm.runInThisContext(fs.readFileSync(index, "utf8"));
const started = new Worker(worker);
started.addEventListener("message", ({ data }) => {
  if (data.type === 1) started.postMessage({ type: 2, data: query });
  else console.log(JSON.stringify(data.data.items.flat().map((item) => item.location)));
});
started.postMessage({ type: 0, data: { ...vm.runInThisContext("__index"), options: {} } });
"""


def test_the_search_finds_a_page_on_a_disk(site, tmp_path):
    """The theme's own search, by the script that stands in for a worker, outside of a browser."""
    if not (node := shutil.which("node")):
        pytest.skip("needs node, which runs the site's scripts")
    program = tmp_path / "browser.js"
    program.write_text(_BROWSER, encoding="utf-8")
    (worker,) = (site / "assets" / "javascripts" / "workers").glob("search.*.js")
    index, stand_in = site / "search" / "search_index.js", site / "iframe-worker.js"
    command = [node, program, worker.as_uri(), index, "pointwise", stand_in]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert any(place.startswith("own_cell.html") for place in json.loads(done.stdout))
