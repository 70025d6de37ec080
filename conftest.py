"""Flags and what runs: tests without --benchmark, the benchmark alone with it."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gatefuse", "gatefuse's benchmark")
    group.addoption("--benchmark", action="store_true", help="run the benchmark and write its report; no tests")
    group.addoption(
        "--sweep", default="quick", help="smoke, quick, half, regimes, real, lengths or full (default: quick)"
    )
    # Without '=' pytest takes an existing folder for the root of the tests, before it reads this file.
    help = "write --reports=DIR, with the sign between (default: reports/)"
    group.addoption("--reports", default=str(ROOT / "reports"), metavar="DIR", help=help)
    help = "append rows to --rows=FILE, and write no report; for machines whose output is fetched"
    group.addoption("--rows", metavar="FILE", help=help)
    help = "begin no group of shapes after so many seconds; --resume goes on from there"
    group.addoption("--stop-after", type=float, default=float("inf"), metavar="SECONDS", help=help)
    help = "leave a contender out, such as 'gatefuse grid'; may be given several times"
    group.addoption("--without", action="append", default=[], metavar="NAME", help=help)
    help = "run the tests that such an expression of names and marks picks; given again, those of the first one first"
    group.addoption("--in-order", action="append", default=[], metavar="EXPRESSION", help=help)
    group.addoption("--resume", action="store_true", help="keep what this commit has measured on this device")


def pytest_configure(config: pytest.Config) -> None:
    import torch

    from gatefuse.bench.measure.broken_device import Watch
    from gatefuse.kernels.runtime import debug

    if torch.cuda.is_available():
        debug.limit_polls()
    config.pluginmanager.register(Watch(), "gatefuse-device")
    if config.getoption("--benchmark"):
        if not config.pluginmanager.hasplugin("benchmark"):
            raise pytest.UsageError("--benchmark must have pytest-benchmark: pip install 'gatefuse[bench]'.")
        from gatefuse.bench.plugin.session import Session

        Session.start(config)
    elif not torch.cuda.is_available():
        # Kernel tests then run in Triton's interpreter, which must be chosen before anything imports triton.
        os.environ.setdefault("TRITON_INTERPRET", "1")
        _check_interpreter()


def _check_interpreter() -> None:
    """Raises UsageError: there is no Triton where there could be, or numpy is too new for its interpreter."""
    if sys.platform == "linux" and find_spec("triton") is None:
        raise pytest.UsageError(
            "tests must have Triton, whose interpreter runs kernels: pip install 'gatefuse[test]'. It is not installed."
        )
    from gatefuse.kernels.runtime.requirement import interpreter_refusal

    if why := interpreter_refusal():
        raise pytest.UsageError(why)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # gatefuse/ links to bench/, which would be collected twice.
    others = ("tests", "gatefuse") if config.getoption("--benchmark") else ("bench", "gatefuse")
    return True if any(collection_path.is_relative_to(ROOT / name) for name in others) else None


@pytest.hookimpl(tryfirst=True)  # before -m picks by mark
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    import torch

    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if any(isinstance(value, str) and value == "grid" for value in parameters.values()):
            item.add_marker(pytest.mark.grid)
    if expressions := config.getoption("--in-order"):
        _put_in_order(config, items, expressions)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA or ROCm device; there is none"))


def _put_in_order(config: pytest.Config, items: list[pytest.Item], expressions: list[str]) -> None:
    """Leave the tests that an expression picks, by -k's rules in their whole name and marks, in the order of those."""
    from _pytest.mark.expression import Expression

    picks = [Expression.compile(expression) for expression in expressions]

    def place(item: pytest.Item) -> int:
        name = " ".join((item.nodeid, *(mark.name for mark in item.iter_markers()))).lower()
        picked = (k for k, pick in enumerate(picks) if pick.evaluate(lambda word, **_: word.lower() in name))
        return next(picked, len(picks))

    places = {item: place(item) for item in items}
    left = [item for item in items if places[item] == len(picks)]
    items[:] = sorted((item for item in items if places[item] < len(picks)), key=lambda item: places[item])
    config.hook.pytest_deselected(items=left)
