"""Fixtures of the tests of layers of other packages."""

import pytest

from gatefuse.models.others import speechbrain, steps, xlstm


@pytest.fixture
def here(monkeypatch):
    """How often steps ran by gatefuse."""
    calls = []
    for module in (speechbrain, xlstm):
        monkeypatch.setattr(module, "run", lambda *args, **options: calls.append(1) or steps.run(*args, **options))
    return calls
