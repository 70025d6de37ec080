"""``python -m gatefuse.bench``: reports and the README's figures from CSVs, and what kernels take of a multiprocessor;
``python -m bench`` without torch, for what only reads CSVs.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .report import index, measured_costs, readme, sweep
from .report.index import RESOURCES
from .resources import report as resource_report
from .storage import tuning_log
from .tuning import page
from .tuning import report as variant_report

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
    command = commands.add_parser("costs", help="take a device's rows into the table by which auto picks a driver")
    command.add_argument("csv", nargs="+", type=Path)
    command = commands.add_parser(RESOURCES, help="compile the kernels for a GPU that need not be there, and report")
    command.add_argument("--arch", default="sm_90", help="sm_80, sm_86, sm_89, sm_90 (default) or sm_120")
    command.add_argument("--reports", default=REPORTS, type=Path, metavar="DIR", help="default: reports/")
    commands.add_parser("host", help="what a call of a GPU's drivers costs the host, beside torch.nn; needs no GPU")
    _tune_arguments(
        commands.add_parser("tune", help="measure the variants of docs/tuning.md on this GPU, or compile them")
    )
    found = parser.parse_args(arguments)
    if found.command == "readme":
        done = _done(partial(readme.fill, Path("README.md"), found.csv))
    elif found.command == "costs":
        done = _done(partial(measured_costs.write, found.csv))
    elif found.command == "tune":
        done = _tune(parser, found)
    elif found.command == "host":
        done = _done(_host)
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
        done.append(_done(partial(index.write, REPORTS)))
    return all(done)


def _csvs(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return [csv for csv in sorted(path.glob("*.csv")) if not csv.name.endswith(sweep.AGAIN)]


def _write(csv: Path, against: Path | None, html: bool) -> Path:
    if csv.name == tuning_log.NAME:
        return variant_report.write_measured(csv)
    if csv.resolve().parent.name == RESOURCES:
        return variant_report.write_compiled(csv) if variant_report.is_compiled(csv) else resource_report.write(csv)
    return sweep.write(csv, against, html)


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


def _tune_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--budget", type=float, default=480.0, metavar="SECONDS", help="default: 480")
    command.add_argument("--out", type=Path, metavar="DIR", help="gets tuning.csv and .md; default: reports/<device>")
    command.add_argument("--only", action="append", default=[], metavar="NAME", help="this variant; may be given again")
    command.add_argument("--without", action="append", default=[], metavar="NAME", help="not this variant")
    command.add_argument("--jobs", type=int, default=0, help="processes that compile; default: one a core")
    command.add_argument("--compile", metavar="ARCH", help="measure nothing: compile for sm_90, say, and report")
    command.add_argument("--reports", default=REPORTS, type=Path, metavar="DIR", help="of --compile and --page")
    command.add_argument("--page", type=Path, metavar="FILE", help="write the table of docs/tuning.md from the reports")
    command.add_argument("--in-this-process", action="store_true", help="neither compile ahead nor watch for hangs")


def _tune(parser: argparse.ArgumentParser, found: argparse.Namespace) -> bool:
    if found.page:
        return _done(partial(page.fill, found.page, found.reports))
    from gatefuse.bench.tuning import compilation, run

    if not found.compile:
        where = found.budget, found.only, found.without, found.jobs, found.in_this_process
        sys.exit(run.main(found.out, *where))
    _known(parser, found.compile)
    try:
        chosen = run.choose(found.only, found.without) if found.only or found.without else ()
        print(compilation.write(found.compile, found.reports / RESOURCES, chosen, found.jobs or 1))
    except (FileNotFoundError, RuntimeError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    return True


def _known(parser: argparse.ArgumentParser, arch: str) -> None:
    from gatefuse.bench.resources import compilation

    if arch not in compilation.ARCHITECTURES:
        parser.error(f"arch must be one of {', '.join(compilation.ARCHITECTURES)}. Got {arch}.")


def _host() -> None:
    import torch

    from gatefuse.bench.measure import host

    torch.set_num_threads(1)
    print(host.table())


def _resources(parser: argparse.ArgumentParser, arch: str, folder: Path) -> bool:
    from gatefuse.bench.resources import compilation

    _known(parser, arch)
    try:
        print(compilation.write(arch, folder))
    except (FileNotFoundError, RuntimeError) as error:
        parser.exit(1, f"{error}\n")
    return True


if __name__ == "__main__":
    main()
