"""Memory of a device: DeepSeek-V3 on eight H200 by hand, and what is said where something does not fit."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from simulator.errors import InfeasibleScenario
from simulator.memory import ACTIVATION_WIDTHS, MemoryBudget, kv_geometry, memory_budget, require_fit
from simulator.memory import weight_bytes_per_device as weights_of
from simulator.parallelism import Parallelism
from workloads.models.library import load_model, model_names, with_dtypes
from workloads.models.sizes import weight_bytes

DEEPSEEK = load_model("deepseek-v3")
H200 = 141e9


def test_deepseek_v3_on_eight_h200_is_what_its_shapes_say() -> None:
    budget = memory_budget(DEEPSEEK, Parallelism(tp=8, ep=8), capacity=0.9 * H200, token_budget=8192, reserve=3e9)
    # 58 layers of 256 experts of 3 x 7168 x 2048 weights in 8 bits, a 4-byte scale per 128 x 128 of them, 32 experts
    # a device.
    experts = 58 * 32 * 3 * 7168 * 2048 * (1 + 4 / 128**2)
    parts = weight_bytes(DEEPSEEK)
    assert parts["routed_experts"] == pytest.approx(8 * experts, rel=1e-9)
    shared = sum(parts[part] for part in ("attention", "dense_ffn", "shared_experts", "embedding", "lm_head")) / 8
    assert budget.weights == pytest.approx(experts + shared + parts["router"] + parts["norms"], rel=1e-9)
    assert budget.weights == pytest.approx(84.3e9, rel=0.005)
    assert budget.activations == 3e9 + 8192 * 7168 * ACTIVATION_WIDTHS * 2
    # A latent of 512 + 64 numbers per layer and token in 16 bits, repeated on every device.
    assert budget.kv_per_token == 61 * 576 * 2
    assert budget.kv_per_sequence == 0.0
    assert budget.pool == pytest.approx(0.9 * H200 - budget.weights - budget.activations)
    assert budget.sequence_bytes(2048) == 2048 * 61 * 576 * 2
    require_fit(budget, DEEPSEEK, Parallelism(tp=8, ep=8), longest=500_000)


def test_attention_data_parallelism_repeats_attention_and_spreads_experts() -> None:
    parts = weight_bytes(DEEPSEEK)
    tensor, data = (weights_of(DEEPSEEK, split) for split in (Parallelism(tp=8, ep=8), Parallelism(dp=8, ep=8)))
    repeated = sum(parts[part] for part in ("attention", "dense_ffn", "shared_experts", "embedding", "lm_head"))
    assert data - tensor == pytest.approx(repeated * 7 / 8)


def test_redundant_slots_take_the_memory_of_their_experts() -> None:
    split = Parallelism(dp=32, ep=32)
    extra = weights_of(DEEPSEEK, split, expert_slots=288) - weights_of(DEEPSEEK, split, expert_slots=256)
    assert extra == pytest.approx(weight_bytes(DEEPSEEK)["routed_experts"] / 256)


@pytest.mark.parametrize("name", model_names())
def test_one_device_holds_all_weights(name: str) -> None:
    model = load_model(name)
    stored = weight_bytes(model)
    assert weights_of(model, Parallelism()) == pytest.approx(sum(stored.values()) - stored["mtp"])


@pytest.mark.parametrize("split", [Parallelism(tp=2), Parallelism(tp=8), Parallelism(dp=4, ep=4), Parallelism(pp=4)])
def test_all_devices_together_hold_at_least_the_weights(split: Parallelism) -> None:
    model = load_model("mixtral-8x7b")
    total = sum(weight_bytes(model).values())
    share = weights_of(model, split)
    assert share < total
    assert share * split.devices >= total


def test_heads_of_keys_and_values_are_shared_until_there_are_none_left_to_share() -> None:
    model = load_model("mixtral-8x7b")
    per_token = 32 * 2 * 8 * 128 * 2
    for tp, share in ((1, 1.0), (2, 0.5), (8, 0.125), (16, 0.125)):
        assert kv_geometry(model, Parallelism(tp=tp)) == (per_token * share, 0.0)
    assert kv_geometry(model, Parallelism(tp=2, pp=4))[0] == per_token / 8


def test_windows_and_states_are_charged_once_per_sequence() -> None:
    per_token, per_sequence = kv_geometry(load_model("gpt-oss-20b"), Parallelism())
    each = 2 * 8 * 64 * 2
    assert (per_token, per_sequence) == (12 * each, 12 * 128 * each)
    assert kv_geometry(load_model("nemotron-3-nano"), Parallelism())[1] > 0


def test_a_narrower_cache_holds_more_tokens() -> None:
    narrow = with_dtypes(DEEPSEEK, kv_cache="fp8")
    assert kv_geometry(narrow, Parallelism())[0] == pytest.approx(kv_geometry(DEEPSEEK, Parallelism())[0] / 2)


def test_a_model_that_does_not_fit_says_by_how_much_and_what_would() -> None:
    split = Parallelism(tp=2)
    budget = memory_budget(DEEPSEEK, split, capacity=72e9, token_budget=8192, reserve=3e9)
    with pytest.raises(InfeasibleScenario) as error:
        require_fit(budget, DEEPSEEK, split, longest=2048)
    text = str(error.value)
    weights, activations, missing, capacity = (float(x) for x in re.findall(r"([\d.]+) GB", text)[:4])
    assert weights == pytest.approx(budget.weights / 1e9, rel=0.01)
    assert missing == pytest.approx(weights + activations - capacity, rel=0.01)
    assert "model.weights" in text
    found = re.search(r"(\d+) devices would hold it", text)
    assert found is not None
    enough, too_few = (
        memory_budget(DEEPSEEK, Parallelism(tp=n, ep=n), capacity=72e9, token_budget=8192, reserve=3e9).pool
        for n in (int(found[1]), int(found[1]) // 2)
    )
    assert enough > 0 > too_few


def test_a_request_that_does_not_fit_says_how_long_it_may_be() -> None:
    budget = MemoryBudget(capacity=10e9, weights=6e9, activations=1e9, kv_per_token=1e6, kv_per_sequence=5e8)
    require_fit(budget, DEEPSEEK, Parallelism(), longest=2500)
    with pytest.raises(InfeasibleScenario, match=r"the longest request, 2501 tokens, .*room for 2500 tokens"):
        require_fit(budget, DEEPSEEK, Parallelism(), longest=2501)


def test_a_model_that_barely_does_not_fit_says_which_share_of_the_device_would_do() -> None:
    split = Parallelism(tp=16, ep=16)
    need = memory_budget(DEEPSEEK, split, capacity=1.0, token_budget=8192, reserve=3e9)
    device = (need.weights + need.activations) / 0.885
    budget = replace(need, capacity=0.88 * device, device=device)
    with pytest.raises(InfeasibleScenario, match=r"stack\.memory_fraction = 0\.89 instead of 0\.88 would do") as error:
        require_fit(budget, DEEPSEEK, split, longest=1)
    assert len(str(error.value)) < 500
    require_fit(replace(budget, capacity=0.89 * device), DEEPSEEK, split, longest=1)
    with pytest.raises(InfeasibleScenario) as error:
        require_fit(replace(budget, device=0.9 * device, capacity=0.8 * device), DEEPSEEK, split, longest=1)
    assert "memory_fraction" not in str(error.value)


def test_a_request_that_barely_does_not_fit_says_so_too() -> None:
    budget = MemoryBudget(
        capacity=10e9, weights=6e9, activations=1e9, kv_per_token=1e6, kv_per_sequence=5e8, device=12.5e9
    )
    with pytest.raises(InfeasibleScenario, match=r"room for 2500 tokens; stack\.memory_fraction = 0\.81 instead"):
        require_fit(budget, DEEPSEEK, Parallelism(), longest=2501)
