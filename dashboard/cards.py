"""The headline: the same cards for an estimate and for a simulation, so that neither changes its meaning."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from simulator.results.summary import has_objective
from simulator.results.values import Estimate, Result
from simulator.scenario import Scenario
from simulator.scenario.title import devices

Answer = Estimate | Result

_TTFT, _TPOT = "time to first token", "time per output token after the first"
_OF_A_RUN = "n/a until it is simulated: the closed form knows means only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One number of the headline.

    Attributes
    ----------
    label : str
        What it is, with its unit unless it is a time.
    of : callable
        Reads it in SI units; NaN where the answer does not have it.
    help : str
        What it means.
    better : {"lower", "higher", ""}
        Which way is better, where one is.
    unit : str
        Unit that :func:`dashboard.display.in_unit` writes behind it.
    """

    label: str
    of: Callable[[Answer], float]
    help: str
    better: Literal["lower", "higher", ""] = ""
    unit: str = ""


def gpus(answer: Answer) -> float:
    """Devices of all pools and instances, on average where the run changed its size [1]."""
    mean = answer.summary.devices_mean
    return mean if math.isfinite(mean) else devices(answer.scenario)


def gpu_seconds_per_token(answer: Answer) -> float:
    """Device time that an output token takes, idle time included [s]; NaN where none was put out."""
    rate = answer.summary.output_tokens_per_s_per_gpu
    return 1 / rate if rate > 0 else math.nan


_TIMES = (
    Card(label="TTFT, mean", of=lambda answer: answer.summary.ttft_s.mean, help=_TTFT, better="lower", unit="s"),
    Card(
        label="TTFT, p99",
        of=lambda answer: answer.summary.ttft_s.p99,
        help=f"{_TTFT}: 99 % of the requests are within it; {_OF_A_RUN}",
        better="lower",
        unit="s",
    ),
    Card(label="TPOT, mean", of=lambda answer: answer.summary.tpot_s.mean, help=_TPOT, better="lower", unit="s"),
    Card(
        label="TPOT, p99",
        of=lambda answer: answer.summary.tpot_s.p99,
        help=f"{_TPOT}: 99 % of the requests are within it; {_OF_A_RUN}",
        better="lower",
        unit="s",
    ),
    Card(
        label="E2EL, mean",
        of=lambda answer: answer.summary.e2el_s.mean,
        help="end-to-end latency: from arrival to the last token",
        better="lower",
        unit="s",
    ),
)
_REQUESTS = Card(
    label="Served [req/s]",
    of=lambda answer: answer.summary.request_throughput_rps,
    help="requests that are answered per second",
    better="higher",
)
_OFFERED = Card(
    label="Offered [req/s]",
    of=lambda answer: answer.summary.offered_rps,
    help="requests that arrive per second; where fewer are served, the rest wait longer and longer",
)
_OBJECTIVE = (
    Card(
        label="Goodput [req/s]",
        of=lambda answer: answer.summary.goodput_rps,
        help="requests per second that meet the objectives",
        better="higher",
    ),
    Card(
        label="In SLO [%]",
        of=lambda answer: 100 * answer.summary.slo_share,
        help=f"share of the answered requests that meet the objectives; {_OF_A_RUN}",
        better="higher",
    ),
)
_OUTPUT = (
    Card(
        label="tok/s in all",
        of=lambda answer: answer.summary.output_tokens_per_s_per_gpu * gpus(answer),
        help="output tokens per second of the whole deployment",
        better="higher",
    ),
    Card(
        label="tok/s per GPU",
        of=lambda answer: answer.summary.output_tokens_per_s_per_gpu,
        help="output tokens per second and device, those of the prefill pool counted",
        better="higher",
    ),
    Card(
        label="tok/s per user",
        of=lambda answer: answer.summary.output_tokens_per_s_per_user,
        help="output tokens per second that a request sees: one over the mean TPOT",
        better="higher",
    ),
)
_COST = (
    Card(
        label="GPUs",
        of=gpus,
        help="devices of all instances and pools; the mean over the run where it changes its size",
        better="lower",
        unit="whole",
    ),
    Card(
        label="USD per Mtok",
        of=lambda answer: answer.summary.usd_per_million_output_tokens,
        help="US dollars per million output tokens, at the price that is named below",
        better="lower",
    ),
)


def cards(scenario: Scenario) -> tuple[Card, ...]:
    """Return the headline of a scenario; of offered rates and of objectives only where there are any."""
    offered = () if scenario.requests.kind == "closed_loop" else (_OFFERED,)
    return (*_TIMES, *_OUTPUT, *offered, _REQUESTS, *(_OBJECTIVE if has_objective(scenario.slo) else ()), *_COST)
