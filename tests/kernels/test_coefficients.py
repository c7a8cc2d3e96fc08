"""Coefficients as their fields want them: numbers, flags and choices, there and back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from hardware_profiles.errors import ProfileError
from hardware_profiles.loader import device_names, load_device
from hardware_profiles.parse import parse_kernels
from hardware_profiles.schema import Quantity
from hardware_profiles.writer import save_device
from simulator.kernels.expert_exchange import ExchangeKernel
from simulator.kernels.kernel import coefficients, quantities
from simulator.kernels.moe import MoeKernel
from validation.fit.fitting import write_kernels

H100 = load_device("h100-sxm").main.kernels
PROVENANCE = {"source": "here", "status": "assumption"}


def parsed(value: Any, unit: str) -> Quantity:
    return parse_kernels({"dispatch.x": {"merged": {"value": value, "unit": unit, **PROVENANCE}}}, "f")["dispatch.x"][
        "merged"
    ]


def test_a_flag_is_true_or_false_and_a_choice_a_word() -> None:
    exchange = coefficients(ExchangeKernel, H100["dispatch.deepep_normal"], "dispatch")
    assert exchange.merged is True
    assert exchange.staged is False
    assert coefficients(MoeKernel, H100["moe.triton.bfloat16"], "moe").tile_density in {"tokens", "tokens_per_expert"}


@pytest.mark.parametrize(("value", "unit"), [(1.0, "flag"), ("yes", "flag"), (True, "choice"), ("", "choice")])
def test_what_is_no_flag_or_no_word_is_refused_with_the_key(value: Any, unit: str) -> None:
    with pytest.raises(ProfileError, match=rf'f\["dispatch\.x"\]\.merged: .* is no {unit}'):
        parsed(value, unit)


def test_a_number_where_a_flag_is_wanted_says_how_to_write_one() -> None:
    table = {**H100["dispatch.deepep_normal"], "merged": parsed(1.0, "1")}
    with pytest.raises(ProfileError, match=r'x: merged is a flag, not a number; write { value = true, unit = "flag" }'):
        coefficients(ExchangeKernel, table, "x")


def test_a_flag_where_a_number_is_wanted_is_refused() -> None:
    table = {**H100["dispatch.deepep_normal"], "units": parsed(True, "flag")}
    with pytest.raises(ProfileError, match="x: units is a number, not a flag"):
        coefficients(ExchangeKernel, table, "x")


def test_an_unknown_choice_is_named_with_the_nearest() -> None:
    table = {**H100["moe.triton.bfloat16"], "tile_density": parsed("token", "choice")}
    with pytest.raises(ProfileError, match="x: tile_density: unknown choice 'token'; did you mean 'tokens'"):
        coefficients(MoeKernel, table, "x")


@pytest.mark.parametrize("name", ["dispatch.deepep_normal", "moe.triton.bfloat16"])
def test_coefficients_turn_into_quantities_and_back(name: str) -> None:
    kind: type[Any] = ExchangeKernel if name.startswith("dispatch") else MoeKernel
    kernel = coefficients(kind, H100[name], name)
    assert coefficients(kind, quantities(kernel, source="this fit", status="fitted"), name) == kernel


@pytest.mark.parametrize("device", [name for name in device_names() if load_device(name).main.kernels])
def test_a_written_profile_keeps_its_flags_and_choices(device: str, tmp_path: Path) -> None:
    folder = tmp_path / "devices"
    folder.mkdir()
    save_device(load_device(device), folder / f"{device}.toml")
    assert load_device(device, tmp_path).main.kernels == load_device(device).main.kernels


def test_a_fit_writes_flags_and_choices_as_it_found_them(tmp_path: Path) -> None:
    kernel = coefficients(MoeKernel, H100["moe.triton.bfloat16"], "moe")
    write_kernels(tmp_path / "x.toml", {"moe.triton.bfloat16": (kernel, PROVENANCE)})
    text = (tmp_path / "x.toml").read_text(encoding="utf-8")
    assert f'tile_density = {{ value = "{kernel.tile_density}", unit = "choice" }}' in text.replace('"value"', "value")


def test_only_flags_and_choices_are_no_floats() -> None:
    for kind in (ExchangeKernel, MoeKernel):
        odd = {f.name for f in dataclasses.fields(kind) if f.metadata.get("unit") in {"flag", "choice"}}
        assert {f.name for f in dataclasses.fields(kind) if f.type != "float"} == odd
