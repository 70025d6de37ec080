"""The name of the CPU at hand."""

from __future__ import annotations

import platform
import re
from functools import cache
from pathlib import Path


@cache
def cpu_name() -> str:
    """As the system calls its model."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()
