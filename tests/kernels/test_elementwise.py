"""Small memory-bound kernels: launch for the small, bandwidth for the large."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.kernels.elementwise import ElementwiseKernel, elementwise_time
from simulator.kernels.kernel import Silicon

SILICON = Silicon(units=100, clock=1e9, peak={"bfloat16": 1e15}, memory_bandwidth=1e12, cache=5e7)
KERNEL = ElementwiseKernel(launch=2e-6, memory=0.5)


def test_an_empty_call_costs_its_launch() -> None:
    assert elementwise_time(0.0, silicon=SILICON, kernel=KERNEL).seconds == pytest.approx(2e-6)


def test_a_large_call_runs_at_the_reached_share_of_bandwidth() -> None:
    assert elementwise_time(1e12, silicon=SILICON, kernel=KERNEL).seconds == pytest.approx(2.0, rel=1e-3)


def test_arrays_give_what_their_numbers_give_one_by_one() -> None:
    sizes = [0.0, 1e3, 1e9]
    together = elementwise_time(sizes, silicon=SILICON, kernel=KERNEL).seconds
    alone = [float(elementwise_time(size, silicon=SILICON, kernel=KERNEL).seconds) for size in sizes]
    np.testing.assert_allclose(together, alone)
