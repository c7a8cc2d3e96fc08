"""A model says what shape its experts have, and what one of them weighs; nothing guesses from the first layer."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest

from workloads.models.library import load_model, model_names
from workloads.models.sizes import expert_bytes, expert_parameters, weight_bytes
from workloads.models.spec import ModelSpec, MoE

ROOT = Path(__file__).parents[3]


def of_two_shapes() -> ModelSpec:
    model = load_model("mixtral-8x7b")
    wider = dataclasses.replace(model.layers[-1], ffn=MoE(num_experts=16, top_k=2, intermediate=14336))
    return dataclasses.replace(model, layers=(*model.layers[:-1], wider))


@pytest.mark.parametrize("name", model_names())
def test_every_model_of_the_library_has_experts_of_one_shape_or_none(name: str) -> None:
    model = load_model(name)
    assert model.moe == next(iter(model.moe_layers), None)


def test_experts_of_several_shapes_are_routed_in_the_largest() -> None:
    moe = of_two_shapes().moe
    assert moe is not None
    assert (moe.num_experts, moe.top_k, moe.intermediate) == (16, 2, 14336)


@pytest.mark.parametrize("name", ["mixtral-8x7b", "deepseek-v3", "gpt-oss-20b", "qwen3-30b-a3b"])
def test_all_experts_together_weigh_what_the_routed_experts_do(name: str) -> None:
    model = load_model(name)
    moe = model.moe
    assert moe is not None
    together = expert_bytes(model) * moe.num_experts * len(model.moe_layers)
    assert together == pytest.approx(weight_bytes(model)["routed_experts"])
    if model.dtypes.experts == "bfloat16":
        assert expert_bytes(model) == pytest.approx(2 * sum(expert_parameters(moe, model.hidden)))


def test_a_dense_model_has_no_expert_to_weigh() -> None:
    dense = load_model("mixtral-8x7b")
    layers = tuple(dataclasses.replace(layer, ffn=None) for layer in dense.layers)
    assert expert_bytes(dataclasses.replace(dense, layers=layers)) == 0.0


@pytest.mark.parametrize("package", ["simulator", "workloads", "validation", "dashboard"])
def test_nobody_takes_the_first_layer_for_all(package: str) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute):
                assert node.value.attr != "moe_layers", f"{path}: use ModelSpec.moe"
