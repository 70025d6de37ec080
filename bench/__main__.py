"""``python -m gatefuse.bench report [CSV ...]``: write the markdown of CSVs anew; ``python -m bench`` without torch."""

import argparse
from pathlib import Path

from . import report


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; without CSVs, all of reports/."""
    parser = argparse.ArgumentParser(prog="gatefuse.bench", description="gatefuse's benchmark")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("report", help="write the markdown reports of CSVs anew, without measuring")
    command.add_argument("csv", nargs="*", type=Path, help="default: reports/*/*.csv")
    found = parser.parse_args(arguments).csv or sorted(Path("reports").glob("*/*.csv"))
    if not found:
        parser.error("csv must be given where reports/ holds none.")
    for csv in found:
        print(report.write(csv))


if __name__ == "__main__":
    main()
