from __future__ import annotations

import math
import re

import pint
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware_profiles.errors import ProfileError
from hardware_profiles.units import (
    EXAMPLE_UNIT,
    UNITS,
    format_bytes,
    format_rate,
    format_seconds,
    parse_quantity_text,
    to_si,
)


@pytest.mark.parametrize(
    ("value", "unit", "dimension", "si"),
    [
        (1, "GB", "bytes", 1e9),
        (1, "GiB", "bytes", 2**30),
        (1, "kB", "bytes", 1e3),
        (1, "KB", "bytes", 1e3),
        (3.35, "TB/s", "bandwidth", 3.35e12),
        (400, "Gb/s", "bandwidth", 50e9),
        (989, "TFLOP/s", "compute", 989e12),
        (624, "TOP/s", "compute", 624e12),
        (2, "PFLOPS", "compute", 2e15),
        (3.33, "us", "time", 3.33e-6),
        (2, "h", "time", 7200.0),
        (1.83, "GHz", "frequency", 1.83e9),
        (1.37, "kW", "power", 1370.0),
        (4, "pJ/b", "energy_per_byte", 32e-12),
        (1, "kWh", "energy", 3.6e6),
        (3.6, "USD/h", "price", 1e-3),
        (50, "%", "one", 0.5),
    ],
)
def test_units_convert_to_si(value: float, unit: str, dimension: str, si: float) -> None:
    assert to_si(value, unit, dimension, "here") == pytest.approx(si, rel=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ours", "theirs", "base"),
    [
        ("MB", "megabyte", "byte"),
        ("TiB", "tebibyte", "byte"),
        ("Tb/s", "terabit/second", "byte/second"),
        ("ms", "millisecond", "second"),
        ("MW", "megawatt", "watt"),
        ("pJ", "picojoule", "joule"),
        ("Wh", "watt_hour", "joule"),
        ("MHz", "megahertz", "hertz"),
    ],
)
def test_sizes_agree_with_an_independent_unit_library(ours: str, theirs: str, base: str) -> None:
    assert UNITS[ours][1] == pytest.approx(pint.UnitRegistry().Quantity(1, theirs).to(base).magnitude)


@pytest.mark.parametrize("unit", [None, ""])
def test_a_missing_unit_is_refused_with_an_example(unit: str | None) -> None:
    with pytest.raises(ProfileError, match=r"toy\.toml: clock: 2 has no unit; expected frequency, as in GHz"):
        to_si(2, unit, "frequency", "toy.toml: clock")


def test_an_unknown_unit_names_those_of_the_same_letters() -> None:
    with pytest.raises(ProfileError, match=r"unknown unit 'gb/s'; did you mean 'GB/s' or 'Gb/s'\?"):
        to_si(1, "gb/s", "bandwidth", "here")


def test_an_unknown_unit_without_neighbours_gives_an_example() -> None:
    with pytest.raises(ProfileError, match="unknown unit 'furlong'; allowed, for example: us"):
        to_si(1, "furlong", "time", "here")


def test_a_wrong_dimension_is_named() -> None:
    with pytest.raises(ProfileError, match="here: 3 GB is bytes; expected bandwidth, as in GB/s"):
        to_si(3, "GB", "bandwidth", "here")


@pytest.mark.parametrize("value", [-1, 0, 0.0, -1e-9])
def test_negative_numbers_and_zero_are_refused(value: float) -> None:
    with pytest.raises(ProfileError, match="must be greater than zero"):
        to_si(value, "W", "power", "here")


def test_zero_is_taken_where_it_is_allowed_and_negative_numbers_never() -> None:
    assert to_si(0, "W", "power", "here", zero_allowed=True) == 0
    with pytest.raises(ProfileError, match="must be zero or more"):
        to_si(-1, "W", "power", "here", zero_allowed=True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ProfileError, match="is not finite"):
        to_si(value, "W", "power", "here")


@pytest.mark.parametrize("value", ["80", True, None, [1]])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(ProfileError, match=f"{re.escape(repr(value))} is not a number"):
        to_si(value, "W", "power", "here")


@pytest.mark.parametrize(
    ("text", "dimension", "si"),
    [
        ("80 GB", "bytes", 80e9),
        ("80GB", "bytes", 80e9),
        (" 2.5 us ", "time", 2.5e-6),
        ("1e-3 s", "time", 1e-3),
        (".5 s", "time", 0.5),
        ("0.4", "one", 0.4),
        ("40%", "one", 0.4),
    ],
)
def test_texts_parse(text: str, dimension: str, si: float) -> None:
    assert parse_quantity_text(text, dimension) == pytest.approx(si)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "GB", "eighty GB", "1 2 s", "--5 s"])
def test_texts_that_are_no_quantity_are_refused(text: str) -> None:
    with pytest.raises(ProfileError, match=r"is not a number with a unit, as in '1\.5 us'"):
        parse_quantity_text(text, "time")


def test_a_bare_number_needs_a_unit_unless_it_has_no_dimension() -> None:
    with pytest.raises(ProfileError, match="has no unit; expected time"):
        parse_quantity_text("3", "time", "--cpu-gap")
    with pytest.raises(ProfileError, match="is not finite"):
        parse_quantity_text("nan s", "time")


@given(unit=st.sampled_from(sorted(UNITS)), value=st.floats(1e-6, 1e6))
def test_a_text_and_its_parts_give_the_same_number(unit: str, value: float) -> None:
    dimension, _ = UNITS[unit]
    assert parse_quantity_text(f"{value!r} {unit}", dimension) == to_si(value, unit, dimension, "here")


def test_every_dimension_has_an_example_that_is_one_of_its_units() -> None:
    assert {dimension: UNITS[unit][0] for dimension, unit in EXAMPLE_UNIT.items()} == {d: d for d in EXAMPLE_UNIT}
    assert {dimension for dimension, _ in UNITS.values()} == set(EXAMPLE_UNIT)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (1.234e-9, "1.23 ns"),
        (999.6e-6, "1 ms"),
        (0.0456, "45.6 ms"),
        (59.94, "59.9 s"),
        (90, "90 s"),
        (150, "2.5 min"),
        (7200, "2 h"),
        (-0.002, "-2 ms"),
    ],
)
def test_seconds_are_written_with_three_digits(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_bytes_and_rates_are_written_in_powers_of_a_thousand() -> None:
    assert format_bytes(141e9) == "141 GB"
    assert format_bytes(999.9e6) == "1 GB"
    assert format_bytes(12) == "12 B"
    assert format_rate(3.352e12) == "3.35 TB/s"
    assert format_rate(989.4e12, "FLOP/s") == "989 TFLOP/s"


@given(st.floats(1e-9, 59))
def test_a_written_time_reads_back_within_half_of_its_last_digit(seconds: float) -> None:
    assert parse_quantity_text(format_seconds(seconds), "time") == pytest.approx(seconds, rel=5.1e-3)


@pytest.mark.parametrize(
    ("value", "unit", "dimension"),
    [(1e300, "s", "time"), (1e8, "h", "time"), (1e31, "FLOP/s", "compute"), (5e-324, "GB/s", "bandwidth")],
)
def test_quantities_beyond_all_that_there_is_are_refused(value, unit, dimension):
    with pytest.raises(ProfileError, match="is beyond all that there is; expected"):
        to_si(value, unit, dimension, "a")


def test_quantities_of_today_and_of_the_next_decades_are_taken():
    assert to_si(1e6, "EFLOP/s", "compute", "a") == 1e24
    assert to_si(1.0, "ns", "time", "a") == 1e-9
    assert to_si(0.0, "s", "time", "a", zero_allowed=True) == 0.0
