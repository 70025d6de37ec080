"""What writes pages, tables and pictures finds the disk full: all that was there stays, whole."""

import subprocess
import sys
from pathlib import Path

import pytest

from gatefuse.bench.__main__ import main
from gatefuse.bench.report import readme
from gatefuse.bench.report.document.marks import marks
from gatefuse.bench.tuning import page
from tests.support.made_up_rows import make_rows, write

ROOT = Path(__file__).resolve().parents[3]
# Limits as a full disk does: a file gets no longer. Output goes through pipes, which have no limit.
LIMITED = """
import resource, sys
from pathlib import Path
from bench.__main__ import main
from bench.report import measured_costs
from bench.gpu.jobs import Entry, Job, Record
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
for arguments in (["readme", "reports/some-gpu/quick.csv"], ["report"], ["report", "--html", "reports/some-gpu"],
                  ["report", "reports/resources"], ["tune", "--page", "tuning.md"]):
    try:
        main(arguments)
    except SystemExit as stop:
        assert stop.code == 2
    else:
        raise AssertionError(arguments)
for work in (
    lambda: measured_costs.write([Path("reports/some-gpu/quick.csv")], Path("measured.csv")),
    lambda: Record(Path("state.json"), "c0ffee", "some-gpu").keep(Job("more", "tests", (), 1.0), Entry("passed")),
):
    try:
        work()
    except OSError as error:
        print(error, file=sys.stderr)
    else:
        raise AssertionError("written")
"""


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_full_disk_costs_nothing_that_was_there(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    monkeypatch.chdir(tmp_path)
    write(make_rows(H=(64, 256), B=(1, 32)), Path("reports/some-gpu/quick.csv"))
    for name in ("sm_90.csv", "variants_sm_90.csv"):
        path = Path("reports/resources", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((ROOT / path).read_bytes())
    for name, parts in (("README.md", (readme.HEADLINE, readme.REPORT)), ("tuning.md", (page.LOG, page.DEAD_ENDS))):
        Path(name).write_text("\nold\n".join(mark for part in parts for mark in marks(part)))
    Path("measured.csv").write_text("device,driver,cell,dtype,mode,H,B,us\nA,step,lstm,float32,forward,8,2,1.25\n")
    Path("state.json").write_text('{"commit": "c0ffee", "device": "some-gpu", "jobs": {}}')
    main(["report"])
    main(["report", "--html", "reports/some-gpu"])
    before = contents(tmp_path)
    assert {Path(name).suffix for name in before} == {".csv", ".md", ".svg", ".html", ".json"}
    # other rows, so that all that is written would differ
    write(make_rows(H=(64, 512), B=(1, 32)), Path("reports/some-gpu/quick.csv"))
    before["reports/some-gpu/quick.csv"] = Path("reports/some-gpu/quick.csv").read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", LIMITED],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "File too large" in line]
    for name in ("README.md", "reports/README.md", "reports/resources/sm_90.md",
                 "reports/resources/variants_sm_90.md", "tuning.md", "measured.csv", "state.json"):  # fmt: skip
        assert any(f"'{name}'" in line for line in said), (name, done.stderr)
    assert any(".svg'" in line for line in said)
    assert contents(tmp_path) == before
