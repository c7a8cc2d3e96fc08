"""Numbers as a reader sees them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.display import (
    ALL_QUANTITIES,
    Change,
    change,
    duration,
    in_unit,
    interval_text,
    significant,
    summary_table,
)
from simulator.results.values import Distribution, Summary


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_three_significant_digits_are_within_half_a_percent(value: float) -> None:
    assert math.isclose(float(significant(value).replace(",", "")), value, rel_tol=0.0051)
    assert ("e" in significant(value)) == (value < 1e-4)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0 s"), (3.2e-6, "3.20 µs"), (0.0999, "99.9 ms"), (12.34, "12.3 s"), (math.nan, "n/a")]
)
def test_a_duration_takes_the_unit_that_suits_it(value: float, text: str) -> None:
    assert duration(value) == text


def test_shares_are_shown_in_percent_and_money_before_the_number() -> None:
    assert in_unit(0.1234, "%") == "12.3 %"
    assert in_unit(2.5, "USD") == "USD 2.50"
    assert in_unit(math.nan, "tok/s") == "n/a"


def test_a_change_says_in_words_whether_it_is_better() -> None:
    assert change(0.5, 1.0, "lower") == Change(text="-50.0 %, better", verdict="better")
    assert change(0.5, 1.0, "higher") == Change(text="-50.0 %, worse", verdict="worse")
    assert change(1.0, 1.0, "lower") == Change(text="0 %, same", verdict="same")


@pytest.mark.parametrize(("value", "baseline"), [(math.nan, 1.0), (1.0, math.nan), (1.0, 0.0)])
def test_nothing_is_compared_with_a_missing_or_zero_baseline(value: float, baseline: float) -> None:
    assert change(value, baseline, "lower") is None


def test_the_table_leaves_out_what_nobody_measured(make_summary: Callable[..., Summary]) -> None:
    both = summary_table({"Simulation": make_summary(), "Estimate": make_summary(means_only=True)})
    alone = summary_table({"Estimate": make_summary(means_only=True)})
    assert both.loc["TTFT, p99", "Simulation"] == "600 ms"
    assert both.loc["TTFT, p99", "Estimate"] == "n/a"
    assert "TTFT, p99" not in alone.index
    assert alone.loc["TTFT, mean", "Estimate"] == "200 ms"


def test_an_estimate_shows_no_counts_of_a_run(make_summary: Callable[..., Summary]) -> None:
    from dataclasses import replace

    estimate = replace(make_summary(means_only=True), engine_steps=0, requests_completed=0, wall_s=0.0)
    assert not {"Engine steps", "Requests completed", "Wall time"} & set(summary_table({"Estimate": estimate}).index)


def test_the_interval_is_phrased_in_percent_or_not_at_all() -> None:
    assert interval_text((0.9, 1.15)) == "80 % interval of times: -10 % to +15 %"
    assert interval_text((math.nan, math.nan)) is None


def test_every_number_of_a_summary_is_in_the_table_under_a_name_of_its_own() -> None:
    shown = {(quantity.key, quantity.part) for quantity in ALL_QUANTITIES}
    summed = [field.name for field in fields(Summary) if field.name != "interval_80"]
    parts = [field.name for field in fields(Distribution)]
    latencies = ("ttft_s", "tpot_s", "itl_s", "e2el_s")
    wanted = {(name, part) for name in summed for part in (parts if name in latencies else [""])}
    assert shown == wanted
    assert len({quantity.label for quantity in ALL_QUANTITIES}) == len(ALL_QUANTITIES)


def test_imbalance_of_ranks_and_of_experts_are_told_apart() -> None:
    labels = {quantity.key: quantity.label for quantity in ALL_QUANTITIES}
    assert labels["rank_imbalance_mean"].startswith("Rank")
    assert labels["rank_imbalance_p99"].startswith("Rank")
    assert labels["expert_imbalance_mean"].startswith("Expert")
