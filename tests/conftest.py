"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# No deadline: a shared machine is slow at times. Derandomised: a red run is red again.
settings.register_profile("moesim", deadline=None, derandomize=True)
settings.load_profile("moesim")
