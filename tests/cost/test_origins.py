"""A comparison whose two sides rest on different kernels says so, wherever it is answered."""

from __future__ import annotations

from typing import Any

import pytest

from simulator.api import check, estimate, explain, simulate
from simulator.cli.explain_text import explanation_document
from simulator.cost.origins import MIXED
from simulator.scenario import Scenario

BASE = Scenario.from_mapping(
    {
        "model": {"name": "mixtral-8x7b"},
        "hardware": {"device": "a100-sxm"},
        "parallelism": {"tp": 2},
        "requests": {"concurrency": 4, "count": 8, "lengths": {"input": 64, "output": 8}},
    }
)
INT8 = BASE.override("model.weights=int8")


def mixed(texts: Any) -> list[str]:
    return [text for text in texts if text.startswith(MIXED)]


def test_a_format_with_borrowed_kernels_beside_another_with_its_own_is_named_with_the_bound_of_its_bytes() -> None:
    (text,) = mixed(estimate(INT8).warnings)
    assert "int8 GEMMs and experts of a100-sxm rest on h100-sxm's fp8 kernels" in text
    assert text.endswith("by bytes alone it is at most 2.0x")


def test_every_answer_has_the_warning() -> None:
    answer = explain(INT8, batch=4, context=64)
    found = [
        mixed(estimate(INT8).document()["warnings"]),
        mixed(simulate(INT8).document()["warnings"]),
        mixed(explanation_document(answer)["warnings"]),
        mixed(finding.message for finding in check(INT8)),
    ]
    assert [len(each) for each in found] == [1, 1, 1, 1]
    assert len(set(map(tuple, found))) == 1


def test_an_explained_op_names_the_device_whose_kernel_it_is() -> None:
    rows = explain(INT8, batch=4, context=64).ops.set_index("name")
    assert rows.loc["routed_experts", "kernel_of"] == "h100-sxm"
    own = explain(BASE, batch=4, context=64).ops.set_index("name")
    assert own.loc["routed_experts", "kernel_of"] == "a100-sxm"


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        # Kernels of its own in that format.
        ("hardware.device=h100-sxm", "model.weights=fp8"),
        # All of its matrix kernels are a relative's.
        ("hardware.device=h200-sxm", "model.weights=fp8"),
    ],
)
def test_one_origin_for_all_formats_is_no_mixture(overrides: tuple[str, ...]) -> None:
    assert mixed(estimate(BASE.override(*overrides)).warnings) == []


def test_a_format_that_another_one_stands_for_is_a_mixture_on_the_device_itself_too() -> None:
    (text,) = mixed(estimate(BASE.override("hardware.device=h100-sxm", "model.weights=int8")).warnings)
    assert "int8 GEMMs and experts of h100-sxm rest on its own fp8 kernels" in text


def test_a_chain_of_relatives_says_which_of_them_gives_what() -> None:
    scenario = BASE.override("hardware.device=ascend-910c", "model.name=qwen3-30b-a3b")
    (text,) = (text for text in estimate(scenario).warnings if "takes" in text)
    assert "elementwise from its relative's kernels: h100-sxm" in text
    assert text.count("relative's kernels") == len(text.split("; "))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ("model.kv_cache=fp8",),
            "fp8 attention of a100-sxm rest on h100-sxm's fp8 kernels, its bfloat16 ones on its own",
        ),
        (
            ("hardware.device=ascend-910b",),
            "bfloat16 experts of ascend-910b rest on a100-sxm's bfloat16 kernels, its int8 ones on its own",
        ),
        (
            ("hardware.device=ascend-910c",),
            "bfloat16 experts of ascend-910c rest on a100-sxm's bfloat16 kernels, its int8 ones on ascend-910b's",
        ),
    ],
)
def test_caches_other_directions_and_two_relatives_are_mixtures_of_the_same_kind(
    overrides: tuple[str, ...], words: str
) -> None:
    (text,) = mixed(estimate(BASE.override(*overrides)).warnings)
    assert words in text
