"""Measured costs of a step by each driver, out of a device's rows into the plan's table (kernels/costs.py)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..storage import sweep_table
from ..storage.csv_lines import in_words, read_lines, say_left_out, to_numbers
from ..storage.results import Results
from ..storage.whole_file import write_whole

# The table itself; what imports torch is not imported here.
MEASURED = Path(__file__).resolve().parents[2] / "kernels" / "measured.csv"
_KIND = ["device", "driver", "cell", "dtype", "mode", "H", "B"]


def write(csvs: list[Path], path: Path = MEASURED) -> Path:
    """Put the costs that the CSVs hold in place of all that the table had of their devices.

    Raises:
        ValueError: a CSV can't be read, or none has a row that counts.
    """
    found = pd.concat([_costs(csv) for csv in csvs])
    if found.empty:
        raise ValueError(
            "rows must hold a driver of gatefuse's, on one layer, in one direction, on full samples. "
            f"Got none in {', '.join(map(str, csvs))}."
        )
    # Of the same shape the longest sequence says most of a step; of the same length, the latest row.
    found = found.sort_values("T", kind="stable").drop_duplicates(_KIND, keep="last")
    others, skipped = read_lines(path, (*_KIND, "us"))
    others = to_numbers(others, skipped, ("H", "B"), ("us",))
    say_left_out(path, in_words(skipped))
    others = others[~others["device"].isin(found["device"])]
    whole = pd.concat([others, found[[*_KIND, "us"]]]) if len(others) else found[[*_KIND, "us"]]
    write_whole(path, whole.sort_values(_KIND).to_csv(index=False, lineterminator="\n"))
    return path


def _costs(csv: Path) -> pd.DataFrame:
    results = Results.of(sweep_table.read(csv), csv.stem)
    say_left_out(csv, results.skipped)  # the table can't
    return costs(results.ok)


def costs(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of drivers that were asked for by name, in the table's columns and T; of a CPU, for which each number of
    threads is a device of its own (kernels/costs.py), without single steps, which say nothing of others."""
    asked = rows["contender"] == "gatefuse " + rows["driver"].fillna("")
    plain = (rows["layers"] == 1) & (rows["bidirectional"].astype(str) == "False")
    plain &= (rows["fill"] == 1) & (rows["heads"] == 1)
    on_cpu = rows["kind"] == "cpu"
    found = rows[asked & plain & ((rows["kind"] == "cuda") | (on_cpu & (rows["T"] > 1)))].copy()
    threads = found["threads"].astype(int)
    cpu = found["cpu"] + ", " + threads.astype(str) + " thread" + threads.gt(1).map({True: "s", False: ""})
    found["device"] = found["gpu"].where(found["kind"] == "cuda", cpu)
    found = found.rename(columns={"us_per_step": "us"})
    return found[[*_KIND, "us", "T"]].assign(us=found["us"].round(4))
