"""A benchmark run within pytest: which tests there are, how far it is, where the report goes."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch

from gatefuse.bench.measure.broken_device import BrokenError
from gatefuse.bench.measure.clocks import make_clock
from gatefuse.bench.measure.machine import words_on_load
from gatefuse.bench.measure.peaks import Limits
from gatefuse.bench.measure.race import race
from gatefuse.bench.measure.row import Row
from gatefuse.bench.measure.sampling import Samples, describe
from gatefuse.bench.measure.stamp import take_stamp
from gatefuse.bench.plugin.progress import Progress
from gatefuse.bench.plugin.replay import Replay
from gatefuse.bench.report import sweep as report
from gatefuse.bench.report.sections import plots
from gatefuse.bench.storage.sweep_table import Table
from gatefuse.bench.suite.contenders import CONTENDERS, GRID, contenders
from gatefuse.bench.suite.sweeps import Group, groups

# Seconds for the samples of one group: what a sweep may take divided by its groups, or what slow contenders need.
BUDGETS = {
    "quick": 1.5, "full": 4.0, "real": 4.0, "lengths": 3.0, "regimes": 2.0, "half": 1.0, "first": 1.0, "smoke": 0.1,
}  # fmt: skip


class Session:
    """The plugin that the conftest at the root registers for ``pytest --benchmark``.

    Args:
        sweep: a name out of sweeps.SWEEPS.
        reports: the folder that gets ``<device>/<sweep>.csv`` and its report once every group is measured; until then
            rows and report are ``<sweep>.partial``'s, and what lay there before stays.
        resume: skip groups that an earlier run has measured, by this commit on this device.
        rows: the file that gets the rows in place of that; no report is then written.
        seconds: after so many no new group begins.
        without: names of contenders that are left out.

    Raises:
        ValueError: no sweep or no contender has that name, another run writes the file, or it can't be resumed.
    """

    key = pytest.StashKey["Session"]()

    def __init__(
        self,
        sweep: str,
        reports: Path,
        resume: bool = False,
        rows: Path | None = None,
        seconds: float = inf,
        without: Collection[str] = (),
    ):
        names = [contender.name for contender in CONTENDERS]
        if unknown := sorted(set(without) - set(names)):
            raise ValueError(f"a contender must be one of {', '.join(names)}. Got {unknown[0]!r}.")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.groups = groups(sweep, self.device.type)
        self._titled = {group.title: group for group in self.groups}
        self.stamp = take_stamp(self.device)
        self._sweep = sweep
        self._whole = None if rows else reports / self.stamp.device / f"{sweep}.csv"
        part = reports / self.stamp.device / f"{sweep}{report.PARTIAL}.csv"
        stamp = {**asdict(self.stamp), "groups": len(self.groups)}
        self.table = Table(rows or part, stamp, resume, earlier=self._whole)
        self._until = time.monotonic() + seconds
        self._without = frozenset(without)
        self._limits: Limits | None = None
        self._raced: tuple[Group, dict[str, tuple[Row, Samples]]] | None = None
        self._measured: set[str] = set()
        self._said: list[str] = []
        self._progress: Progress | None = None

    @classmethod
    def start(cls, config: pytest.Config) -> None:
        """Register a session with pytest.

        Raises:
            pytest.UsageError: an option is wrong, or pytest-xdist would run groups side by side.
        """
        if getattr(config.option, "numprocesses", None):
            raise pytest.UsageError("--benchmark must run in one process: side by side, groups slow each other down.")
        try:
            session = cls(
                config.getoption("--sweep"),
                Path(config.getoption("--reports")),
                config.getoption("--resume"),
                Path(rows) if (rows := config.getoption("--rows")) else None,
                config.getoption("--stop-after"),
                config.getoption("--without"),
            )
        except (OSError, ValueError) as error:
            raise pytest.UsageError(str(error)) from None
        config.stash[cls.key] = session
        if not any("--benchmark-columns" in argument for argument in config.invocation_params.args):
            config.option.benchmark_columns = ["min", "median", "max", "rounds"]  # all of them take 250 characters
        config.pluginmanager.register(session, "gatefuse-benchmark")

    def raced(self, title: str) -> dict[str, tuple[Row, Samples]]:
        """Rows and samples of a group by contender; measured and written when first asked for.

        Raises:
            BrokenError: a contender broke the device. Its own row is written alone, and the rest of the group left to
                another process.
        """
        group = self._titled[title]
        if self._raced is None or self._raced[0] != group:
            if self._limits is None:  # when the first group runs: a GPU's clock takes memory
                self._limits = Limits(self.device, make_clock(self.device), GRID not in self._without)
            budget = BUDGETS[self._sweep]
            begins = partial(self._progress.begins, title) if self._progress else lambda name: None
            try:
                found = race(group, self._limits.clock, self.device, budget, self._limits, self._without, begins)
            except BrokenError as broken:
                if broken.name in {contender.name for contender in contenders(group)}:
                    row = Row(group, broken.name, "failed", describe(broken.error))
                    self.table.append([row.columns()])
                raise
            self.table.append([row.columns() for row, _ in found.values()])
            self._raced = group, found
            self._measured.add(title)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return self._raced[1]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "contender" not in metafunc.fixturenames:
            return
        cases = []
        for group in self.groups:
            found = contenders(group)
            if all(self.table.holds(Row(group, contender.name).columns()) for contender in found):
                self._measured.add(group.title)
                continue
            for contender in found:
                # One that declares it can't is a row of the report, not a test.
                if contender.name in self._without or contender.refusal(group, self.device):
                    continue
                mark = pytest.mark.benchmark(timer=Replay(), group=group.title)
                # Texts, since pytest-benchmark writes parameters into its JSON.
                case = group.title, contender.name
                cases.append(pytest.param(*case, id=": ".join(case), marks=mark))
        metafunc.parametrize(("group", "contender"), cases)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and not session.config.option.collectonly:
            found = ((item, getattr(item, "callspec", None)) for item in session.items)
            order = {item.nodeid: spec.params["group"] for item, spec in found if spec}
            # Where all was measured before, one test without parameters says so.
            order = {test: group for test, group in order.items() if group in self._titled}
            self._progress = Progress(reporter, order)
            reporter.showfspath = False  # the progress line stands for it, and for the dots
            if warning := words_on_load(self.stamp.load, self.stamp.cores):
                reporter.write_line(warning, yellow=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        group = item.callspec.params["group"] if hasattr(item, "callspec") else None
        begins = self._raced is None or self._raced[0].title != group
        if begins and time.monotonic() > self._until:
            item.session.shouldstop = "--stop-after leaves no time for another group"
            return True  # this test is not to run
        return None

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if self._progress:
            self._progress.show(nodeid)

    def pytest_report_teststatus(self, report: pytest.TestReport, config: pytest.Config) -> tuple[str, str, str] | None:
        if report.failed or report.skipped or config.option.verbose > 0:
            return None
        return "passed" if report.when == "call" else "", "", ""

    def pytest_benchmark_update_machine_info(self, config: pytest.Config, machine_info: dict[str, Any]) -> None:
        """pytest-benchmark asks; of itself it knows no GPU, nor what torch it is."""
        machine_info["gatefuse"] = {
            name: value
            for name, value in asdict(self.stamp).items()
            if name in ("device", "torch", "triton", "cuda", "cudnn", "commit", "tree") or name.startswith("gpu")
        }

    def pytest_sessionfinish(self) -> None:
        if self._progress:
            self._progress.end()
        if self._whole and self._progress and (self._raced is not None or self.table.resumed):
            self._said = list(self._report(self._whole))
        self.table.close()

    def _report(self, whole: Path) -> Iterator[str]:
        """Write the report of what there is; yields what is to be said of it."""
        rows = self.table.path
        if len(self._measured) == len(self.groups):
            if rows.exists():  # else all was measured before
                os.replace(rows, whole)
            for name in (rows.with_suffix(".md").name, *plots.names(rows.stem)):
                rows.with_name(name).unlink(missing_ok=True)
            rows = whole
        else:
            kept = f"; {whole} is as it was" if whole.exists() else ""
            yield f"{len(self._measured)} of {len(self.groups)} groups are measured{kept}. --resume goes on."
            if not rows.exists():
                return
        try:
            yield f"report: {report.write(rows)} (rows: {rows})"
        except ModuleNotFoundError as error:
            yield f"rows: {rows}. {error}"

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """Say where the report is, after everything that pytest says."""
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter:
            for line in self._said:
                reporter.write_line(line)
