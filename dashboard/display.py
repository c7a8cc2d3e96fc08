"""Numbers as a reader sees them: three significant digits, a unit, and a word for better or worse."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from simulator.results.values import Summary

#: What is shown where a quantity was not measured.
MISSING = "n/a"

#: Below it a row of zeros is harder to read than an exponent.
_PLAIN = 1e-4

#: Counts and spans that only a simulation has; an estimate carries zeros for them.
_OF_A_RUN = ("requests_completed", "engine_steps", "simulated_s", "wall_s", "preemptions", "retries")

Verdict = Literal["better", "worse", "same"]


def significant(value: float) -> str:
    """Write a number with three significant digits and separated thousands; tiny ones get an exponent.

    Examples
    --------
    >>> significant(1234.5), significant(0.012345), significant(9.999), significant(1.5e-13)
    ('1,230', '0.0123', '10.0', '1.50e-13')
    """
    if not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    if abs(value) < _PLAIN:
        return f"{value:.2e}"
    rounded = float(f"{value:.2e}")
    decimals = 2 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(decimals, 0)}f}"


def seconds_scale(value: float) -> tuple[float, str]:
    """Return the factor from seconds and the unit that suit a duration [s].

    Examples
    --------
    >>> seconds_scale(0.02)
    (1000.0, 'ms')
    """
    if not math.isfinite(value) or abs(value) >= 1 or value == 0:
        return 1.0, "s"
    return (1e3, "ms") if abs(value) >= 1e-3 else (1e6, "µs")


def duration(value: float) -> str:
    """Write a duration [s] in the unit that suits it."""
    if not math.isfinite(value):
        return MISSING
    factor, unit = seconds_scale(value)
    return f"{significant(value * factor)} {unit}"


def in_unit(value: float, unit: str) -> str:
    """Write a quantity: ``s`` scales, ``%`` takes a share, ``USD`` leads, ``whole`` keeps all digits of a count, and
    anything else follows the number.
    """
    if unit == "s":
        return duration(value)
    if unit == "whole":
        return f"{value:,.0f}" if float(value).is_integer() else significant(value)
    if unit == "%":
        value *= 100
    text = significant(value)
    if text == MISSING or not unit:
        return text
    return f"{unit} {text}" if unit == "USD" else f"{text} {unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """One row of a summary: its name, where it sits in :class:`Summary`, its unit and which way is better."""

    label: str
    key: str
    part: str = ""
    unit: str = ""
    help: str = ""
    better: Literal["lower", "higher", ""] = ""

    def of(self, summary: Summary) -> float:
        """Read the quantity in SI units; NaN where it was not measured."""
        if self.key in _OF_A_RUN and not summary.engine_steps:
            return math.nan
        value = getattr(summary, self.key)
        return float(getattr(value, self.part) if self.part else value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How a quantity compares with its baseline."""

    text: str
    verdict: Verdict


def change(value: float, baseline: float, better: Literal["lower", "higher", ""]) -> Change | None:
    """Compare a value with its baseline; ``None`` where either is missing or the baseline is zero.

    Examples
    --------
    >>> change(0.9, 1.0, "lower")
    Change(text='-10.0 %, better', verdict='better')
    """
    if not (math.isfinite(value) and math.isfinite(baseline)) or baseline == 0:
        return None
    relative = 100 * (value / baseline - 1)
    if abs(relative) < 0.05:
        return Change(text="0 %, same", verdict="same")
    sign = "+" if relative > 0 else "-"
    amount = f"{sign}{significant(abs(relative))} %"
    if not better:
        return Change(text=amount, verdict="same")
    verdict: Verdict = "better" if (relative < 0) == (better == "lower") else "worse"
    return Change(text=f"{amount}, {verdict}", verdict=verdict)


_LATENCIES = tuple(
    Quantity(label=f"{name}, {part}", key=f"{name.lower()}_s", part=part, unit="s", better="lower")
    for name in ("TTFT", "TPOT", "ITL", "E2EL")
    for part in ("mean", "p50", "p90", "p99")
)

#: Everything of a summary, for the comparison table.
ALL_QUANTITIES = (
    *_LATENCIES,
    Quantity(label="Input throughput per GPU", key="input_tokens_per_s_per_gpu", unit="tok/s", better="higher"),
    Quantity(label="Output throughput per GPU", key="output_tokens_per_s_per_gpu", unit="tok/s", better="higher"),
    Quantity(label="Total throughput per GPU", key="total_tokens_per_s_per_gpu", unit="tok/s", better="higher"),
    Quantity(label="Devices", key="devices_mean", unit="whole"),
    Quantity(label="Request throughput", key="request_throughput_rps", unit="req/s", better="higher"),
    Quantity(label="Offered", key="offered_rps", unit="req/s"),
    Quantity(label="Requests within the SLO", key="slo_share", unit="%", better="higher"),
    Quantity(label="Goodput", key="goodput_rps", unit="req/s", better="higher"),
    Quantity(label="Per million output tokens", key="usd_per_million_output_tokens", unit="USD", better="lower"),
    Quantity(label="Model FLOP use (MFU)", key="mfu", unit="%", better="higher"),
    Quantity(label="Memory bandwidth use (MBU)", key="mbu", unit="%", better="higher"),
    Quantity(label="Rank imbalance, mean", key="rank_imbalance_mean", better="lower"),
    Quantity(label="Rank imbalance, p99", key="rank_imbalance_p99", better="lower"),
    Quantity(label="Expert imbalance, mean", key="expert_imbalance_mean", better="lower"),
    Quantity(label="Experts touched by a decode step", key="active_experts_mean", unit="%"),
    Quantity(label="Prompt tokens cached", key="prefix_hits", unit="%", better="higher"),
    Quantity(label="Batch size, mean", key="batch_size_mean", unit="requests"),
    Quantity(label="Queue length, mean", key="queue_length_mean", unit="requests", better="lower"),
    Quantity(label="KV use, mean", key="kv_use_mean", unit="%"),
    Quantity(label="KV use, max", key="kv_use_max", unit="%"),
    Quantity(label="Preemptions", key="preemptions", unit="whole", better="lower"),
    Quantity(label="Requests sent in again", key="retries", unit="whole", better="lower"),
    Quantity(label="Requests completed", key="requests_completed", unit="whole"),
    Quantity(label="Engine steps", key="engine_steps", unit="whole"),
    Quantity(label="Engine steps measured", key="measured_steps", unit="whole"),
    Quantity(label="Simulated time", key="simulated_s", unit="s"),
    Quantity(label="Wall time", key="wall_s", unit="s"),
)


def summary_table(summaries: Mapping[str, Summary]) -> pd.DataFrame:
    """Put summaries side by side as text, one column each; quantities that none of them has are left out."""
    rows = {
        quantity.label: [in_unit(quantity.of(summary), quantity.unit) for summary in summaries.values()]
        for quantity in ALL_QUANTITIES
    }
    shown = {label: texts for label, texts in rows.items() if any(text != MISSING for text in texts)}
    return pd.DataFrame.from_dict(shown, orient="index", columns=list(summaries))


def interval_text(interval: tuple[float, float]) -> str | None:
    """Phrase the 80 % interval of times; ``None`` where there is none."""
    low, high = interval
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    return f"80 % interval of times: {100 * (low - 1):+.0f} % to {100 * (high - 1):+.0f} %"
