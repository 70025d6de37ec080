"""A function run in a thread of its own: in none of the modes that the caller is in, and not to be interrupted.

What torch keeps for a thread (grad mode, autocast, modes, hooks for saved tensors, a tracer's state) begins anew there.
Ctrl-C ends the waiting alone: what was begun, an import or a trace, is brought to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import TypeVar

import torch

_T = TypeVar("_T")


def apart(function: Callable[[], _T]) -> _T:
    """Run a function in a thread that runs nothing else; what it returns or raises."""
    future: Future[_T] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    with _without_anomaly_mode():
        Thread(target=work, name="gatefuse").start()
        return future.result()


@contextmanager
def _without_anomaly_mode() -> Iterator[None]:
    """Torch has it for all threads at once, and its checks would run among the operators that a trace looks at."""
    if not torch.is_anomaly_enabled():
        yield
        return
    checks = torch.is_anomaly_check_nan_enabled()
    torch.autograd.set_detect_anomaly(False)
    try:
        yield
    finally:
        torch.autograd.set_detect_anomaly(True, checks)
