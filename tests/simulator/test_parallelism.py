"""Splits of an instance: what they imply, and why some cannot be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.errors import InfeasibleScenario
from simulator.parallelism import Parallelism, expert_slots, parallelism_problems, require_split
from simulator.scenario.sections import ParallelismChoice, PlacementChoice
from workloads.models.library import load_model, model_names

DEEPSEEK, MIXTRAL, DENSE = load_model("deepseek-v3"), load_model("mixtral-8x7b"), load_model("llama-3.1-8b")


@pytest.mark.parametrize(
    ("split", "group", "devices", "etp", "exchanges"),
    [
        (Parallelism(), 1, 1, 1, False),
        (Parallelism(tp=8), 8, 8, 8, False),
        (Parallelism(tp=8, ep=8), 8, 8, 1, False),
        (Parallelism(dp=8, ep=8), 8, 8, 1, True),
        (Parallelism(tp=2, dp=4, ep=4, pp=3), 8, 24, 2, True),
        (Parallelism(dp=8), 8, 8, 8, True),
    ],
)
def test_a_split_tells_its_devices_and_whether_tokens_travel(
    split: Parallelism, group: int, devices: int, etp: int, *, exchanges: bool
) -> None:
    assert (split.group, split.devices, split.etp, split.exchanges_tokens) == (group, devices, etp, exchanges)


@pytest.mark.parametrize("name", model_names())
def test_every_model_runs_on_one_device_of_any_size(name: str) -> None:
    assert parallelism_problems(load_model(name), Parallelism()) == []


@pytest.mark.parametrize(
    ("model", "split", "problem"),
    [
        (DEEPSEEK, Parallelism(tp=3), "tp=3 must divide the 128 heads"),
        (DENSE, Parallelism(tp=3), "tp=3 must divide the 32 heads"),
        (MIXTRAL, Parallelism(tp=64), "tp=64 must divide the 32 heads"),
        (load_model("qwen3-30b-a3b"), Parallelism(tp=3), "tp=3 must divide, or be a multiple of, the 4 KV heads"),
        (load_model("nemotron-3-nano"), Parallelism(tp=128), "tp=128 must divide the 64 Mamba heads"),
        (load_model("qwen3.5-397b"), Parallelism(tp=128), "tp=128 must divide the 64 linear-attention heads"),
        (DEEPSEEK, Parallelism(tp=8, ep=16), "ep=16 must divide tp*dp=8"),
        (DEEPSEEK, Parallelism(dp=24, ep=24), "ep=24 must divide the 256 expert slots per layer; 8 more redundant"),
        (MIXTRAL, Parallelism(dp=16, ep=16), "ep=16 must divide the 8 expert slots per layer; 8 more redundant slots"),
        (DENSE, Parallelism(tp=2, ep=2), "ep=2, but Llama"),
        (DENSE, Parallelism(pp=33), "pp=33 exceeds the 32 layers"),
    ],
)
def test_a_split_that_cannot_be_says_why(model: object, split: Parallelism, problem: str) -> None:
    found = parallelism_problems(model, split)  # type: ignore[arg-type]
    assert any(line.lower().startswith(problem.lower()) for line in found), found


def test_redundant_slots_make_a_split_possible() -> None:
    split = Parallelism(dp=24, ep=24)
    assert parallelism_problems(DEEPSEEK, split, expert_slots=264) == []
    assert parallelism_problems(DEEPSEEK, split, expert_slots=260)


def test_more_slots_are_offered_only_where_they_mend_all_that_is_wrong() -> None:
    (alone,) = parallelism_problems(DEEPSEEK, Parallelism(dp=3, ep=3))
    assert alone.endswith("2 more redundant slots (placement.redundant_slots) would do")
    assert parallelism_problems(DEEPSEEK, Parallelism(dp=3, ep=3), expert_slots=258) == []
    both = parallelism_problems(DEEPSEEK, Parallelism(tp=8, ep=3))
    assert len(both) > 1
    assert not any("would do" in problem for problem in both)


def test_all_reasons_are_given_at_once_and_each_but_once() -> None:
    with pytest.raises(InfeasibleScenario) as error:
        require_split(DEEPSEEK, Parallelism(tp=3, ep=2, pp=99))
    text = str(error.value)
    for reason in ("ep=2 must divide tp*dp=3", "pp=99 exceeds the 61 layers", "tp=3 must divide the 128 heads"):
        assert text.count(reason) == 1
    assert text.startswith("parallelism: deepseek-v3 cannot be split so: ")


def test_a_split_that_can_be_is_let_through() -> None:
    for split in (Parallelism(tp=8, ep=8), Parallelism(dp=32, ep=32), Parallelism(tp=8, pp=2)):
        require_split(DEEPSEEK, split)
        assert parallelism_problems(DEEPSEEK, split) == []


def test_a_split_and_its_expert_slots_are_those_that_a_scenario_asks_for() -> None:
    choice = ParallelismChoice(tp=2, dp=4, pp=3, ep=8, instances=5)
    assert Parallelism.of(choice) == Parallelism(tp=2, dp=4, pp=3, ep=8)
    model = load_model("mixtral-8x7b")
    dense = replace(model, layers=tuple(replace(layer, ffn=None) for layer in model.layers))
    assert expert_slots(model, PlacementChoice(redundant_slots=3)) == 11
    assert expert_slots(dense, PlacementChoice(redundant_slots=3)) is None
