"""Serving stacks: what ships, what a scenario changes, and which kernels they get."""

from __future__ import annotations

import pytest

from hardware_profiles.schema import Quantity
from simulator.errors import ProfileError
from simulator.scenario.sections import Stack
from simulator.stack import customised, kernel_table, load_stack, stack_names

NUMBER = Quantity(value=1.0, unit="1", stated=1.0, source="here", status="assumption")
KERNELS = {
    name: {"launch": NUMBER}
    for name in (
        "gemm.cublas.bfloat16",
        "gemm.cublas.fp8",
        "gemm.deepgemm.fp8_block",
        "moe.triton.bfloat16",
        "elementwise.fused",
    )
}


def chosen(family: str, backends: tuple[str, ...], dtype: str | None) -> str:
    return kernel_table(KERNELS, family, backends, dtype, "a device")[0]


def test_three_stacks_ship_and_every_number_has_a_source() -> None:
    assert set(stack_names()) == {"sglang", "vllm", "trtllm"}
    for name in stack_names():
        stack = load_stack(name)
        assert stack.id == name
        assert all(quantity.source and quantity.status for quantity in stack.numbers.values())
        assert 0 < stack.number("memory_fraction") <= 1
        assert 0 < stack.number("cpu_gap") < 0.1


def test_stacks_are_found_whatever_the_case() -> None:
    assert load_stack("SGLang") is load_stack("sglang")


def test_an_unknown_stack_names_the_nearest() -> None:
    with pytest.raises(ProfileError, match=r"stack\.name: unknown serving stack 'vlm'; did you mean 'vllm'"):
        load_stack("vlm")


def test_a_scenario_changes_a_stack_and_says_that_it_did() -> None:
    choice = Stack(name="sglang", token_budget=4096, cpu_gap="2 ms", scheduler="mixed", exchange="all_gather")  # type: ignore[arg-type]
    stack, plain = customised(choice), load_stack("sglang")
    assert (stack.number("token_budget"), stack.number("cpu_gap")) == (4096.0, pytest.approx(2e-3))
    assert (stack.scheduler, stack.exchange) == ("mixed", "all_gather")
    assert stack.numbers["cpu_gap"].source == "scenario"
    assert stack.number("max_running") == plain.number("max_running")
    assert stack.numbers["max_running"].source == plain.numbers["max_running"].source
    assert customised(Stack(name="sglang")) == plain


def test_a_preferred_backend_comes_before_the_others() -> None:
    assert chosen("gemm", ("deepgemm", "cublas"), "fp8_block") == "gemm.deepgemm.fp8_block"
    assert chosen("gemm", ("cublas",), "bfloat16") == "gemm.cublas.bfloat16"


def test_the_exact_dtype_of_another_backend_comes_before_a_relative_of_the_preferred_one() -> None:
    assert chosen("gemm", ("cublas",), "fp8_block") == "gemm.deepgemm.fp8_block"


def test_a_dtype_without_a_table_takes_its_nearest_relatives() -> None:
    assert chosen("gemm", ("cublas",), "int8") == "gemm.cublas.fp8"
    assert chosen("moe", ("triton",), "mxfp4") == "moe.triton.bfloat16"
    assert chosen("elementwise", (), "fp8") == "elementwise.fused"


def test_a_family_without_any_table_is_an_error_that_names_it() -> None:
    with pytest.raises(ProfileError, match="a device: no coefficients of any all_reduce kernel"):
        chosen("all_reduce", ("nccl",), None)
