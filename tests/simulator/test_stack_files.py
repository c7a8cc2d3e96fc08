"""Serving stacks of one's own."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from simulator import Scenario
from simulator.errors import ProfileError
from simulator.scenario.sections import Stack
from simulator.stack import customised, load_stack, stack_names


@pytest.fixture
def own(tmp_path: Path) -> Path:
    text = (files("simulator") / "stacks" / "vllm.toml").read_text(encoding="utf-8")
    path = tmp_path / "mine.toml"
    path.write_text(text.replace('id = "vllm"', 'id = "mine"'), encoding="utf-8")
    return path


def test_a_stack_file_of_ones_own_is_read_by_its_path(own: Path) -> None:
    assert load_stack(str(own)).id == "mine"


def test_a_scenario_finds_the_stack_file_beside_it(own: Path) -> None:
    scenario = own.parent / "scenario.toml"
    scenario.write_text(
        '[model]\nname = "mixtral-8x7b"\n[hardware]\ndevice = "a100-sxm"\n[stack]\nname = "mine.toml"\n',
        encoding="utf-8",
    )
    assert load_stack(Scenario.load(scenario).stack.name).id == "mine"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('scheduler = "mixed"', 'scheduler = "random"', "allowed: mixed, prefill_first"),
        ("token_budget", "token_bugdet", "token_budget"),
        ('unit = "ms"', 'unit = "GB"', "expected time"),
        ("[numbers]", "[numbers", "not valid TOML"),
        ("chunked = true", 'chunked = "no"', "chunked: got 'no', expected true or false"),
        ('name = "vLLM"', "name = 3", "name: got 3, expected text"),
        ("aliases = []", "aliases = [3]", "aliases: got .3., expected a list of names"),
        ('fused = ["qk_norm_rope"]', 'fused = "qk_norm_rope"', "fused: got 'qk_norm_rope', expected a list"),
        ('gemm = ["cublas", "deepgemm", "cutlass"]', "gemm = 3", "backends.gemm: got 3, expected a list"),
        ("memory_fraction = { value = 0.96", "memory_fraction = { value = 1.5", "got 1.5, expected a share"),
        (
            'fused = ["qk_norm_rope"]',
            'fused = ["qk_norm_rop"]',
            "unknown 'qk_norm_rop'; did you mean 'qk_norm_rope'",
        ),
        ("max_running = { value = 1024", "max_running = { value = 1.5", "got 1.5, expected a whole number from 1"),
        ("graph_pad = { value = 8", "graph_pad = { value = 0", "got 0, expected a whole number from 1"),
        (
            "token_budget = { value = 8192",
            "token_budget = { value = 1e12",
            "whole number from 1 to 1,048,576",
        ),
        ("max_running = { value = 1024", "max_running = { value = 1" + "0" * 400, "a whole number of some 40"),
    ],
)
def test_a_broken_stack_file_says_what_is_wrong(own: Path, old: str, new: str, message: str) -> None:
    own.write_text(own.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ProfileError, match=message) as raised:
        load_stack(str(own))
    assert "mine.toml" in str(raised.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'gemm = ["cublas"',
            'gemm = ["cublaz"',
            "gemm: no device has a kernel 'cublaz'; did you mean 'cublas'",
        ),
        ("moe = [", "moo = [", "backends: unknown kernel family 'moo'; did you mean 'moe'"),
        ('moe_decode = ["deepgemm_masked"]', 'moe_decode = ["masked"]', "backends.moe_decode: no device has a kernel"),
    ],
)
def test_kernels_that_no_device_has_are_refused_where_the_stack_is_used(
    own: Path, old: str, new: str, message: str
) -> None:
    own.write_text(own.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ProfileError, match=message) as raised:
        customised(Stack(name=str(own)))
    assert "mine.toml" in str(raised.value)


def test_a_stack_may_name_the_kernels_of_a_device_of_ones_own(own: Path, tmp_path: Path) -> None:
    kernels = tmp_path / "profiles" / "kernels"
    kernels.mkdir(parents=True)
    text = (files("hardware_profiles") / "kernels" / "h100-sxm.toml").read_text(encoding="utf-8")
    (kernels / "h100-sxm.toml").write_text(text.replace('["gemm.cublas', '["gemm.mine'), encoding="utf-8")
    own.write_text(own.read_text(encoding="utf-8").replace('gemm = ["cublas"', 'gemm = ["mine"'), encoding="utf-8")
    assert customised(Stack(name=str(own)), tmp_path / "profiles").backends["gemm"][0] == "mine"
    with pytest.raises(ProfileError, match="no device has a kernel 'mine'"):
        customised(Stack(name=str(own)))


def test_an_unknown_stack_names_the_nearest_one() -> None:
    with pytest.raises(ProfileError, match="'sglang'"):
        load_stack("sglnag")


@pytest.mark.parametrize("name", stack_names())
def test_every_number_of_a_stack_has_a_source(name: str) -> None:
    for quantity in load_stack(name).numbers.values():
        assert quantity.source
        assert quantity.status in {"datasheet", "measured", "fitted", "published", "assumption"}
