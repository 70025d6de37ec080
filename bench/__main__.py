"""``python -m gatefuse.bench``: reports and the README's figures from CSVs, and what kernels take of a multiprocessor;
``python -m bench`` without torch, for what only reads CSVs.
"""

import argparse
from pathlib import Path

from . import readme, report, resource_report

RESOURCES = "resources"  # the folder of reports/ whose rows are of kernels that were compiled, not of calls


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="gatefuse.bench", description="gatefuse's benchmark")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("report", help="write the markdown reports of CSVs anew, without measuring")
    command.add_argument("csv", nargs="*", type=Path, help="default: reports/*/*.csv")
    command = commands.add_parser("readme", help="write a CSV's summary into README.md")
    command.add_argument("csv", type=Path)
    command = commands.add_parser(RESOURCES, help="compile the kernels for a GPU that need not be there, and report")
    command.add_argument("--arch", default="sm_90", help="sm_80, sm_86, sm_89, sm_90 (default) or sm_120")
    command.add_argument("--reports", default=Path("reports"), type=Path, metavar="DIR", help="default: reports/")
    found = parser.parse_args(arguments)
    if found.command == "readme":
        readme.fill(Path("README.md"), found.csv)
    elif found.command == RESOURCES:
        _resources(parser, found.arch, found.reports / RESOURCES)
    else:
        csvs = found.csv or sorted(Path("reports").glob("*/*.csv"))
        if not csvs:
            parser.error("csv must be given where reports/ holds none.")
        for csv in csvs:
            print((resource_report if csv.resolve().parent.name == RESOURCES else report).write(csv))


def _resources(parser: argparse.ArgumentParser, arch: str, folder: Path) -> None:
    from gatefuse.bench import resources

    if arch not in resources.ARCHITECTURES:
        parser.error(f"arch must be one of {', '.join(resources.ARCHITECTURES)}. Got {arch}.")
    try:
        print(resources.write(arch, folder))
    except (FileNotFoundError, RuntimeError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
