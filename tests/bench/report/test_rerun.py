"""Two runs of a sweep: when they agree, when the machine is noisy, and when nothing may be said."""

import pytest

from gatefuse.bench.__main__ import main
from gatefuse.bench.report import sweep
from tests.support.made_up_rows import make_rows, write

TIMES = ["p20", "p50", "p80", "us_per_step"]


def compared(tmp_path, now, then):
    csv, other = write(now, tmp_path / "some-gpu" / "quick.csv"), write(then, tmp_path / "then" / "quick.csv")
    return sweep.write(csv, against=other).read_text()


def scaled(rows, factor, where=slice(None)):
    rows = rows.copy()
    rows.loc[where, TIMES] *= factor
    return rows


def test_runs_that_agree(tmp_path):
    rows = make_rows()
    text = compared(tmp_path, rows, scaled(scaled(rows, 1.01), 1.3, rows.index[:3]))
    assert "## Against another run" in text
    assert "**The two runs agree within 3 %**: half of the 96 rows in which only the machine can have made" in text
    assert "differ by at most 1 %, a tenth by over 1 %, and the median row takes 0.990 times what it took." in text
    assert text.count("| 0.762 |") == 3


def test_a_noisy_machine(tmp_path):
    text = compared(tmp_path, make_rows(), scaled(make_rows(), 1.1))
    assert "**The machine is noisy, or it has changed between the runs**: half of the 96 rows" in text
    assert "agree within 3 %**" not in text


def test_changed_code_is_no_noise(tmp_path):
    rows = make_rows()
    ours = rows["driver"] != ""
    text = compared(tmp_path, rows, scaled(rows.assign(commit="before"), 2.0, ours))
    assert "**The two runs agree within 3 %**: half of the 24 rows" in text
    assert "72 rows more were measured with code that may have changed" in text
    assert "| gatefuse grid | 12 | 0.50x | 100 % | 12 |" in text


@pytest.mark.parametrize("change", [{"torch": "2.12.0"}, {"gpu_driver": "2"}])
def test_other_software_says_nothing_about_noise(tmp_path, change):
    text = compared(tmp_path, make_rows(), scaled(make_rows(**change), 2.0))
    assert "nothing can be said about noise" in text
    assert "noisy, or" not in text


def test_a_tree_that_is_not_clean_may_have_changed(tmp_path):
    text = compared(tmp_path, make_rows(tree="dirty"), make_rows(tree="dirty"))
    assert "half of the 24 rows" in text


def test_runs_without_a_shared_row(tmp_path):
    text = compared(tmp_path, make_rows(H=(8,)), make_rows(H=(16,)))
    assert "No row has a time in both runs, so nothing can be said about noise." in text


def test_a_run_that_lies_beside_is_taken_by_itself(tmp_path, monkeypatch, capsys):
    write(make_rows(), tmp_path / "reports" / "some-gpu" / "quick.csv")
    write(make_rows(), tmp_path / "reports" / "some-gpu" / f"quick{sweep.AGAIN}")
    monkeypatch.chdir(tmp_path)
    main(["report"])
    assert capsys.readouterr().out.split() == ["reports/some-gpu/quick.md", "reports/README.md"]
    text = (tmp_path / "reports" / "some-gpu" / "quick.md").read_text()
    assert "**The two runs agree within 3 %**" in text
    assert "differ by at most 0 %" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["quick.csv", "--against", "other.csv"], "against must be a run of the same device, some-gpu. Got other-gpu."),
        (["quick.csv", "--against", "none.csv"], "No such file"),
        (["quick.csv", "other.csv", "--against", "quick.csv"], "--against must have one CSV to compare with. Got 2."),
    ],
)
def test_a_run_that_cannot_be_compared_is_refused(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    write(make_rows(), tmp_path / "quick.csv")
    write(make_rows(device="other-gpu"), tmp_path / "other.csv")
    with pytest.raises(SystemExit) as stop:
        main(["report", *arguments])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "quick.md").exists()
