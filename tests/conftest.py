"""What all tests share."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# No deadline: a shared machine is slow at times. Derandomised: a red run is red again.
settings.register_profile("moesim", deadline=None, derandomize=True)
settings.load_profile("moesim")


# Here, before anything is asked for: tests make everything themselves, and leave the user's folder alone.
os.environ["MOESIM_CACHE_DIR"] = "off"


@pytest.fixture(autouse=True)
def _wide_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give commands a window of one width, whatever runs the tests."""
    monkeypatch.setenv("COLUMNS", "120")
