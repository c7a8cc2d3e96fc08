"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cli.console import bar, count_text, number, percent, seconds


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12345.6, "12,300"),
        (999.6, "1,000"),
        (0.01234, "0.0123"),
        (3.0, "3"),
        (0, "0"),
        (-0.5, "-0.5"),
        (100.0, "100"),
        (math.nan, "-"),
        (1e-12, "1.00e-12"),
    ],
)
def test_numbers_have_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert number(value) == text


@given(st.floats(min_value=1e-6, max_value=1e14))
def test_a_number_reads_back_within_half_a_unit_of_its_third_digit(value: float) -> None:
    assert float(number(value).replace(",", "")) == pytest.approx(value, rel=0.0051)


def test_counts_name_their_size() -> None:
    assert [count_text(n) for n in (671e9, 1.03e12, 882_000, 12e6, 5)] == ["671 B", "1.03 T", "882 k", "12 M", "5"]


def test_what_is_absent_is_a_dash() -> None:
    assert (seconds(math.nan), percent(math.nan), str(bar(math.nan))) == ("-", "-", "")


def test_a_bar_is_never_wider_than_its_field() -> None:
    assert len(bar(1.7, width=10)) == 10
    assert len(bar(0.5, width=10)) == 5
