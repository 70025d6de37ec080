"""Files that are written whole or not at all: by whoever is killed, by two at once, and where the disk is full."""

import os
import random
import re
import stat
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import pytest

from gatefuse.bench.storage.lock import take
from gatefuse.bench.storage.whole_file import check_writable, write_whole

ROOT = Path(__file__).resolve().parents[3]
LEFT = ".page.md.0123456789abcdef.part"  # as a killed write leaves it


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_text_bytes_and_what_writes_itself(tmp_path):
    path = tmp_path / "page.md"
    for content, expected in (
        ("é\r\n", "é\r\n".encode()),
        (b"\0\xff", b"\0\xff"),
        (lambda file: file.write(b"own"), b"own"),
    ):
        write_whole(path, content)
        assert path.read_bytes() == expected
    assert names(tmp_path) == ["page.md"]


@pytest.mark.parametrize("error", [(KeyboardInterrupt,), (OSError, 28, "No space left on device"), (RuntimeError,)])
@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("place", ["content", "os.fsync", "os.replace"])
def test_what_fails_leaves_what_was_there(tmp_path, monkeypatch, error, there, place):
    path = tmp_path / "page.md"
    if there:
        path.write_text("old")

    def fail(*given):
        raise error[0](*error[1:])

    def content(file):
        file.write(b"x" * 100_000)
        if place == "content":
            fail()

    if place != "content":
        monkeypatch.setattr(place, fail)
    with pytest.raises(error[0]) as raised:
        write_whole(path, content)
    if error[0] is OSError:
        assert str(raised.value) == f"[Errno 28] No space left on device: '{path}'"
    assert names(tmp_path) == ["page.md"] * there
    assert not there or path.read_text() == "old"


def test_permissions_stay_and_new_files_get_the_umask_s(tmp_path):
    path, new = tmp_path / "page.md", tmp_path / "new.md"
    path.write_text("old")
    before = os.umask(0o027)
    try:
        for mode in (0o644, 0o755, 0o600, 0o666):
            path.chmod(mode)
            write_whole(path, "new")
            assert stat.S_IMODE(path.stat().st_mode) == mode
        write_whole(new, "new")
        assert stat.S_IMODE(new.stat().st_mode) == 0o640
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write every file")
def test_a_file_that_must_not_be_written_is_not_replaced(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("old")
    path.chmod(0o444)
    for work in (lambda: write_whole(path, "new"), lambda: check_writable(path)):
        with pytest.raises(PermissionError):
            work()
    assert path.read_text() == "old"


def test_a_link_stays_and_its_target_is_written(tmp_path):
    target = tmp_path / "elsewhere" / "target.md"
    target.parent.mkdir()
    for link, where in (("relative.md", "elsewhere/target.md"), ("absolute.md", target)):
        (tmp_path / link).symlink_to(where)
        target.unlink(missing_ok=True)
        for content in ("through a link to nothing", "through a link to a file"):
            write_whole(tmp_path / link, content)
            assert (tmp_path / link).is_symlink()
            assert target.read_text() == content
    assert names(target.parent) == ["target.md"]
    (tmp_path / "round.md").symlink_to("round.md")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        write_whole(tmp_path / "round.md", "new")


def test_what_is_no_file(tmp_path):
    for work in (lambda: write_whole(tmp_path, "new"), lambda: check_writable(tmp_path)):
        with pytest.raises(IsADirectoryError):
            work()
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "missing" / "page.md", "new")
    write_whole(Path(os.devnull), "nothing")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    os.mkfifo(tmp_path / "pipe")
    reader = Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    read: list[bytes] = []
    reader.start()
    write_whole(tmp_path / "pipe", "through")
    reader.join()
    assert read == [b"through"]


def test_long_names_are_no_hindrance(tmp_path):
    for name in ("x" * 255, "é" * 127):
        write_whole(tmp_path / name, "new")
        assert (tmp_path / name).read_text() == "new"


def test_who_checks_changes_nothing(tmp_path):
    path = tmp_path / "page.md"
    check_writable(path)
    assert names(tmp_path) == []
    path.write_text("old")
    check_writable(path)
    assert names(tmp_path) == ["page.md"]
    assert path.read_text() == "old"


def test_what_a_killed_write_left_is_removed_and_what_a_living_one_has_is_not(tmp_path):
    (tmp_path / LEFT).write_text("half")
    (tmp_path / ".other.part").write_text("somebody's")
    with (tmp_path / LEFT).open("r+b") as file:
        assert take(file)
        write_whole(tmp_path / "page.md", "new")
        assert names(tmp_path) == sorted([LEFT, ".other.part", "page.md"])
    write_whole(tmp_path / "page.md", "newer")
    assert names(tmp_path) == [".other.part", "page.md"]


def test_two_at_once_hinder_each_other_in_nothing(tmp_path):
    path = tmp_path / "page.md"
    failed = []

    def work(letter):
        try:
            for _ in range(50):
                write_whole(path, letter * 10_000)
                check_writable(path)
        except BaseException as error:
            failed.append(error)

    workers = [Thread(target=work, args=letter) for letter in "abc"]
    for worker in workers:
        worker.start()
    read = []
    while any(worker.is_alive() for worker in workers):
        if path.exists():
            read.append(path.read_text())
    for worker in workers:
        worker.join()
    assert not failed
    assert {len(text) for text in read} == {10_000}
    assert names(tmp_path) == ["page.md"]


WRITE = """
import sys
from pathlib import Path
from bench.report.document import marks
page, parts = Path(sys.argv[1]), [letter * 100_000 for letter in "ab"]
print("begins", flush=True)
while True:
    for part in parts:
        marks.fill(page, {"report": part})
"""


@pytest.mark.parametrize("signal", ["kill", "terminate"])
def test_a_page_is_old_or_new_whenever_its_writer_is_killed(tmp_path, signal):
    """What ``python -m gatefuse.bench readme`` does with README.md."""
    page = tmp_path / "README.md"
    before, after = "before\n<!-- report:start -->\n", "\n<!-- report:end -->\nafter\n"
    page.write_text(f"{before}b{after}")
    whole = {f"{before}{part}{after}" for part in ("b", "a" * 100_000, "b" * 100_000)}
    wait, seen = random.Random(0), set()
    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE, str(page)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "begins\n"
        time.sleep(wait.uniform(0, 0.02))
        getattr(process, signal)()
        process.communicate()
        assert page.read_text() in whole
        seen.add(page.read_text())
        assert len(names(tmp_path)) <= 2  # the next write has removed what the last one left
    assert len(seen) > 1
    write_whole(page, "done")
    assert names(tmp_path) == ["README.md"]


WRITES = re.compile(
    r"\.write_text\(|\.write_bytes\(|open\([^)]*[\"'][wx]b?[\"']|\.to_csv\((?!header|index|\))|\.savefig\("
)
ALLOWED = {
    "bench/storage/whole_file.py",
    "bench/report/document/drawing.py",  # into memory
    "bench/gpu/parcel.py",  # into what is written whole
    "bench/gpu/rehearsal.py",  # what a stubbed run leaves in a folder of its own
    "models/export/shared_library.py",  # in a folder that goes again
}


def test_nothing_else_writes_a_whole_file():
    """So that no page or table comes to be written in place again."""
    found = {}
    for top in ("bench", "models", "kernels", "gatefuse"):
        for path in [p for p in (ROOT / top).rglob("*.py") if p.relative_to(ROOT).parts[:2] != ("gatefuse", top)]:
            name = path.relative_to(ROOT).as_posix()
            if name not in ALLOWED and (lines := WRITES.findall(path.read_text(encoding="utf-8"))):
                found[name] = lines
    assert found == {}
