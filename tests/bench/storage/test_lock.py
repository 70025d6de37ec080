"""One run at a time writes a file: who comes second is told, and a run that is killed hinders nobody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gatefuse.bench.storage.lock import Lock

ROOT = Path(__file__).resolve().parents[3]
HOLD = """
import sys, time
from pathlib import Path
from bench.storage.lock import Lock
lock = Lock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
"""


def holder(path, before=""):
    command = [sys.executable, "-c", before + HOLD, str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_told_which_file_who_has_it_and_what_to_do(tmp_path):
    path = tmp_path / "new" / "rows.csv"
    process = holder(path)
    try:
        with pytest.raises(ValueError, match="one run at a time") as refused:
            Lock(path, "use another")
        assert str(refused.value).startswith(
            f"{path} must be written by one run at a time. Got process {process.pid} (-c {path}) since "
        )
        assert str(refused.value).endswith(", which writes it now: wait for its end, stop it, or use another.")
        Lock(path.with_name("other.csv")).release()
        link = tmp_path / "link.csv"
        link.symlink_to(path)
        with pytest.raises(ValueError, match=f"Got process {process.pid} "):
            Lock(link)
    finally:
        process.communicate("end\n")
    assert list(path.parent.iterdir()) == []
    Lock(path).release()


def test_one_that_was_killed_holds_nothing(tmp_path):
    path = tmp_path / "rows.csv"
    process = holder(path)
    process.kill()
    process.communicate()
    assert (tmp_path / "rows.csv.lock").exists()
    with Lock(path):
        assert f"process {os.getpid()} " in (tmp_path / "rows.csv.lock").read_text()
        with pytest.raises(ValueError, match=f"Got process {os.getpid()} "):
            Lock(path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_hinders_none(tmp_path):
    path = tmp_path / "rows.csv"
    process = holder(path, "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))")
    with pytest.raises(ValueError, match="Got another process, which writes it now"):
        Lock(path)
    process.communicate("end\n")
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_one_of_many_has_it(tmp_path):
    """Locks that come and go, each of which removes its file."""
    path, count = tmp_path / "rows.csv", tmp_path / "count"
    count.write_text("0")
    program = f"""
from pathlib import Path
from bench.storage.lock import Lock
done = 0
while done < 100:
    try:
        with Lock(Path({str(path)!r})):
            number = int(Path({str(count)!r}).read_text())
            Path({str(count)!r}).write_text(str(number + 1))
            done += 1
    except ValueError:
        pass
"""
    workers = [subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) for _ in range(3)]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0, 0]
    assert count.read_text() == "300"


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    def refuse(file, wait=False):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("gatefuse.bench.storage.lock.take", refuse)
    with Lock(tmp_path / "rows.csv"):
        assert "rows.csv can't be locked ([Errno 95] Operation not supported): see to it" in capsys.readouterr().err
