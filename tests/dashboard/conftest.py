"""Made-up results with known numbers, for tests of what is drawn from them, and the page itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from simulator.results.columns import Columns
from simulator.results.values import Distribution, Estimate, Explanation, Result, Summary
from simulator.scenario import Scenario
from simulator.step.components import COMPONENTS

SCENARIO = Scenario.from_mapping(
    {
        "name": "made-up",
        "model": {"name": "mixtral-8x7b"},
        "hardware": {"device": "a100-sxm"},
        "parallelism": {"tp": 2},
        "requests": {"concurrency": 8, "count": 40, "lengths": {"input": 64, "output": 11}},
    }
)
APP = Path(__file__).parents[2] / "dashboard" / "app.py"
BREAKDOWN = {**dict.fromkeys(COMPONENTS, 0.0), "attention": 1.0, "experts": 2.0, "idle": 1.0}


def _spread(seconds: float) -> Distribution:
    """Return a distribution around a latency."""
    return Distribution(mean=seconds, p50=seconds, p90=2 * seconds, p99=3 * seconds)


def _summary(scale: float = 1.0, *, means_only: bool = False) -> Summary:
    """Return a summary whose times are ``scale`` times as long and whose rates are as many times lower."""
    nan = math.nan

    def latency(seconds: float) -> Distribution:
        return Distribution(mean=seconds, p50=nan, p90=nan, p99=nan) if means_only else _spread(seconds)

    return Summary(
        ttft_s=latency(0.2 * scale),
        tpot_s=latency(0.02 * scale),
        itl_s=latency(0.02 * scale),
        e2el_s=latency(0.4 * scale),
        input_tokens_per_s_per_gpu=1280 / scale,
        output_tokens_per_s_per_gpu=220 / scale,
        total_tokens_per_s_per_gpu=1500 / scale,
        requests_completed=40,
        engine_steps=90,
        simulated_s=2.0 * scale,
        wall_s=0.1,
        goodput_rps=20 / scale,
        usd_per_million_output_tokens=2.5 * scale,
        request_throughput_rps=20 / scale,
        batch_size_mean=8.0,
        queue_length_mean=0.5,
        kv_use_mean=0.2,
        kv_use_max=0.4,
        preemptions=0,
        mfu=0.1,
        mbu=0.6,
        rank_imbalance_mean=1.2,
        rank_imbalance_p99=1.5,
        interval_80=(0.9, 1.15),
    )


def _requests(count: int = 40) -> pd.DataFrame:
    """Return requests with TTFT 0.1 s and TPOT 10 ms; the first is not measured, the last never finished."""
    arrival = np.arange(count, dtype=np.float64)
    finish = arrival + 0.2
    finish[-1:] = np.nan
    return pd.DataFrame(
        {
            "request_id": np.arange(count),
            "instance": 0,
            "rank": 0,
            "arrival_s": arrival,
            "admitted_s": arrival + 0.01,
            "first_token_s": arrival + 0.1,
            "finish_s": finish,
            "input_tokens": 64,
            "output_tokens": 11,
            "preemptions": 0,
            "measured": np.arange(count) > 0,
        }
    )


def _steps(count: int = 200, instances: int = 1) -> pd.DataFrame:
    """Return steps of 10 ms; one in the middle of each instance has a queue of 99."""
    parts = []
    for instance in range(instances):
        queue = np.zeros(count)
        queue[count // 2 : count // 2 + 1] = 99
        parts.append(
            pd.DataFrame(
                {
                    "instance": instance,
                    "start_s": 0.01 * np.arange(count),
                    "duration_s": 0.01,
                    "prefill_tokens": np.arange(count) % 64,
                    "decode_tokens": 8,
                    "running": 8,
                    "queue_length": queue,
                    "kv_use": 0.5 * np.arange(count) / max(count, 1),
                    "rank_imbalance": 1.25,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def make_summary() -> Callable[..., Summary]:
    """Make a summary: ``make_summary(2.0)`` is twice as slow."""
    return _summary


@pytest.fixture
def requests() -> pd.DataFrame:
    """Return 40 requests."""
    return _requests()


@pytest.fixture
def make_steps() -> Callable[..., pd.DataFrame]:
    """Make steps: ``make_steps(200, instances=2)``."""
    return _steps


@pytest.fixture
def result() -> Result:
    """Return a made-up result."""
    return Result(
        scenario=SCENARIO,
        summary=_summary(),
        breakdown=BREAKDOWN,
        request_columns=Columns(_requests()),
        step_columns=Columns(_steps()),
    )


@pytest.fixture
def explanation() -> Explanation:
    """Return a step of three ops: the experts take 60 % of 1 ms."""
    ops = pd.DataFrame(
        {
            "name": ["attention.scores", "moe.experts", "norms"],
            "kind": ["attention", "grouped_gemm", "small"],
            "component": ["attention", "experts", "small_kernels"],
            "repeat": [32, 32, 65],
            "time_s": [3e-4, 6e-4, 1e-4],
            "share": [0.3, 0.6, 0.1],
            "bound": ["memory", "memory", "launch"],
            "flops": [1e9, 2e9, 0.0],
            "bytes": [1e6, 5e8, 1e5],
            "message_bytes": [0.0, 0.0, 0.0],
            "kernel": ["attention.fa3", "moe.triton", "small.rms"],
            "equation": ["bytes / bandwidth", "bytes / bandwidth", "launch"],
            "inputs": [{"bandwidth": 1}, {"bandwidth": 1}, {}],
            "source": ["made up"] * 3,
            "evidence": ["fitted", "fitted", "assumption"],
            "error": [0.05, 0.08, math.nan],
        }
    )
    return Explanation(scenario=SCENARIO, phase="decode", batch=8, context=128, step_s=1e-3, ops=ops)


@pytest.fixture
def open_page() -> Callable[..., AppTest]:
    """Open the page at a link, with nothing cached."""

    def open_at(**params: str) -> AppTest:
        st.cache_resource.clear()
        page = AppTest.from_file(str(APP), default_timeout=120)
        for key, value in params.items():
            page.query_params[key] = value
        return page.run()

    return open_at


@pytest.fixture
def quick_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer every scenario with the same made-up estimate; it is checked as it is."""

    def estimate(scenario: Scenario) -> Estimate:
        return Estimate(scenario=scenario, summary=_summary(means_only=True), breakdown=BREAKDOWN)

    monkeypatch.setattr("simulator.api.estimate", estimate)


@pytest.fixture
def quick(quick_estimate: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer every scenario at once and find nothing wrong with it, for tests of the form alone."""
    monkeypatch.setattr("simulator.api.check", lambda _: ())
