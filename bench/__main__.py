"""``python -m gatefuse.bench``: reports and the README's figures from CSVs, and what kernels take of a multiprocessor;
``python -m bench`` without torch, for what only reads CSVs.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from . import costs, dashboard, readme, report, resource_report
from .dashboard import RESOURCES

REPORTS = Path("reports")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Exits with 2 if a file can't be used, having done what it could with the others."""
    parser = argparse.ArgumentParser(prog="gatefuse.bench", description="gatefuse's benchmark")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("report", help="write the reports of CSVs anew, without measuring")
    command.add_argument(
        "path", nargs="*", type=Path, help="CSVs, or folders of them; default: all in reports/*/, and reports/README.md"
    )
    command.add_argument("--against", type=Path, metavar="CSV", help="another run of the same sweep, to compare with")
    command.add_argument("--html", action="store_true", help="write one page of HTML too, with tables that sort")
    command = commands.add_parser("readme", help="write a CSV's summary into README.md")
    command.add_argument("csv", type=Path)
    command = commands.add_parser("costs", help="take a GPU's rows into the table by which auto picks a driver")
    command.add_argument("csv", nargs="+", type=Path)
    command = commands.add_parser(RESOURCES, help="compile the kernels for a GPU that need not be there, and report")
    command.add_argument("--arch", default="sm_90", help="sm_80, sm_86, sm_89, sm_90 (default) or sm_120")
    command.add_argument("--reports", default=REPORTS, type=Path, metavar="DIR", help="default: reports/")
    found = parser.parse_args(arguments)
    if found.command == "readme":
        done = _done(partial(readme.fill, Path("README.md"), found.csv))
    elif found.command == "costs":
        done = _done(partial(costs.write, found.csv))
    elif found.command == RESOURCES:
        done = _resources(parser, found.arch, found.reports / RESOURCES)
    else:
        done = _report(parser, found.path, found.against, found.html)
    if not done:
        sys.exit(2)


def _report(parser: argparse.ArgumentParser, paths: list[Path], against: Path | None, html: bool) -> bool:
    csvs = [csv for path in paths or sorted(REPORTS.glob("*/")) for csv in _csvs(path)]
    if not csvs:
        where = ", ".join(str(path) for path in paths) or f"{REPORTS}/"
        parser.error(f"there must be a CSV to report on. Got none in {where}.")
    if against and len(csvs) > 1:
        parser.error(f"--against must have one CSV to compare with. Got {len(csvs)}.")
    done = [_done(partial(_write, csv, against, html)) for csv in csvs]
    if not paths:
        done.append(_done(partial(dashboard.write, REPORTS)))
    return all(done)


def _csvs(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return [csv for csv in sorted(path.glob("*.csv")) if not csv.name.endswith(report.AGAIN)]


def _write(csv: Path, against: Path | None, html: bool) -> Path:
    compiled = csv.resolve().parent.name == RESOURCES
    return resource_report.write(csv) if compiled else report.write(csv, against, html)


def _done(work: Callable[[], Path | None]) -> bool:
    """Do it and print the file it wrote; False if a file can't be used, having said which and why."""
    try:
        wrote = work()
    except (OSError, ValueError, ModuleNotFoundError) as error:
        print(f"gatefuse.bench: {error}", file=sys.stderr)
    else:
        if wrote:
            print(wrote)
        return True
    return False


def _resources(parser: argparse.ArgumentParser, arch: str, folder: Path) -> bool:
    from gatefuse.bench import resources

    if arch not in resources.ARCHITECTURES:
        parser.error(f"arch must be one of {', '.join(resources.ARCHITECTURES)}. Got {arch}.")
    try:
        print(resources.write(arch, folder))
    except (FileNotFoundError, RuntimeError) as error:
        parser.exit(1, f"{error}\n")
    return True


if __name__ == "__main__":
    main()
