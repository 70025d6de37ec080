"""docs/export.md: its commands and programs, in the order in which they stand there, give the model's numbers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import gatefuse
from tests.support.doc_programs import ROOT
from tests.support.exported import MACHINES, needs

TEXT = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Lets Node.js run the page's script: what a browser has that it lacks.
BROWSER = """\
import fs from "fs";
globalThis.fetch = async (file) =>
  new Response(fs.readFileSync(file), { headers: { "content-type": "application/wasm" } });
globalThis.document = { body: { append: (text) => process.stdout.write(text) } };
"""


def blocks(language, heading):
    part = TEXT.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"^```{language}\n(.*?)^```", part, flags=re.DOTALL | re.MULTILINE)


def shell(text, folder):
    """What commands print; skips where a tool is not installed."""
    tools = {line.split()[0] for line in text.splitlines() if line and not line.startswith("./")} - {"python"}
    needs(*sorted(tools))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
    done = subprocess.run(["bash", "-e"], input=text, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path):
    """Where the files lie that the page's commands begin with."""
    (tmp_path / "main.c").write_text(blocks("c", "The header")[0])
    return tmp_path


@pytest.fixture
def expected(folder):
    """What main.c and the page print of the model."""
    torch.manual_seed(0)
    model = nn.Sequential(gatefuse.GRU(40, 64, num_layers=2), nn.Linear(64, 1), nn.Sigmoid())
    torch.save(model, folder / "vad.pt")
    x = torch.zeros(3, 40)
    x[:, 0] = torch.arange(3)
    with torch.no_grad():
        y = model[2](model[1](model[0](x)[0]))
    return [f"{t}: {value:.3f}" for t, value in enumerate(y[:, 0].tolist())]


def test_three_commands(folder, expected):
    (commands,) = blocks("sh", "Three commands")
    assert "vad: 12 steps, an error of " in shell(commands, folder)
    for line in commands.splitlines():
        assert f"    {line}" in README
    assert shell("gcc main.c vad.o -o vad\n./vad", folder).splitlines() == expected


@pytest.mark.slow
def test_a_phone(folder, expected):
    android, apple = blocks("sh", "On a phone")
    shell(android, folder)
    machine = MACHINES["aarch64"]
    assert shell(" ".join([*machine.emulator, "./vad"]), folder).splitlines() == expected
    shell(apple, folder)
    assert (folder / "vad.o").read_bytes().startswith(b"\xcf\xfa\xed\xfe")


def test_a_microcontroller(folder, expected):
    (commands,) = blocks("sh", "On a microcontroller")
    said = shell(commands, folder)
    assert "calls no library" in said


def test_a_browser(folder, expected):
    (commands,) = blocks("sh", "In a browser")
    said = shell(commands, folder)
    (page,) = blocks("html", "In a browser")
    state = re.search(r"state ([\d,]+) bytes", said)[1].replace(",", "")
    assert f"[INPUTS, OUTPUTS, STATE] = [40, 1, {state}]" in page
    (folder / "page.mjs").write_text(BROWSER + page.split('<script type="module">')[1].split("</script>")[0])
    assert shell("node page.mjs", folder).splitlines() == expected
