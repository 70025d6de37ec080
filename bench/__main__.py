"""``python -m gatefuse.bench``: reports and the README's figures from CSVs; ``python -m bench`` without torch."""

import argparse
from pathlib import Path

from . import readme, report


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="gatefuse.bench", description="gatefuse's benchmark")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("report", help="write the markdown reports of CSVs anew, without measuring")
    command.add_argument("csv", nargs="*", type=Path, help="default: reports/*/*.csv")
    command = commands.add_parser("readme", help="write a CSV's summary into README.md")
    command.add_argument("csv", type=Path)
    found = parser.parse_args(arguments)
    if found.command == "readme":
        readme.fill(Path("README.md"), found.csv)
        return
    csvs = found.csv or sorted(Path("reports").glob("*/*.csv"))
    if not csvs:
        parser.error("csv must be given where reports/ holds none.")
    for csv in csvs:
        print(report.write(csv))


if __name__ == "__main__":
    main()
