"""Progress of a sweep, for those who watch it: a person, or a process that must tell a slow one from one that hangs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

# Begins the lines that say who runs now.
NOW = "now: "


class Progress:
    """One line that says which group runs: rewritten in place in a terminal, one in ten groups in a log.

    With ``-vs`` a log has a line for each turn of a contender too; the last of them names one that hangs.

    Args:
        order: the group of each test, in the order in which they run.
    """

    def __init__(self, reporter: pytest.TerminalReporter, order: dict[str, str]):
        self._reporter = reporter
        self._order = order
        self._numbers = {group: k for k, group in enumerate(dict.fromkeys(order.values()))}
        self._shown: str | None = None
        self._began = time.monotonic()

    def show(self, nodeid: str) -> None:
        """Say so if a test begins a group."""
        group = self._order.get(nodeid)
        if group is None or group == self._shown:
            return
        self._shown = group
        k, n = self._numbers[group], len(self._numbers)
        left = f", about {(time.monotonic() - self._began) / k * (n - k) / 60:.1f} min left" if k else ""
        line = f"[{k + 1}/{n}] {group}{left}"
        if self._reporter.isatty:
            self._reporter.rewrite(line[: self._reporter._tw.fullwidth - 1], erase=True)
        elif k % max(1, n // 10) == 0:
            self._reporter.write_line(line)

    def begins(self, group: str, contender: str) -> None:
        """Say who is run next; without ``-s`` pytest would keep that until the test is over."""
        option = self._reporter.config.option
        if option.verbose > 0 and option.capture == "no" and not self._reporter.isatty:
            self._reporter.ensure_newline()
            self._reporter.write_line(f"{NOW}{group}: {contender}")
            self._reporter.flush()

    def end(self) -> None:
        """End the line that was rewritten in place."""
        if self._shown and self._reporter.isatty:
            self._reporter.write("\n")
