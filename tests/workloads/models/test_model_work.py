"""FLOPs per token, KV-cache bytes and state bytes against arithmetic and published figures."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.models.library import load_model, with_dtypes
from workloads.models.mixers import GatedDeltaNet, LatentAttention, Mamba2, attended_tokens
from workloads.models.sizes import active_parameters, parameters
from workloads.models.spec import ModelSpec
from workloads.models.work import (
    flops_per_token,
    kv_bytes,
    kv_bytes_per_token,
    kv_bytes_per_token_by_layer,
    state_bytes_per_sequence,
)

contexts = st.integers(1, 5000)


@given(contexts, st.none() | st.integers(1, 600))
def test_attended_tokens_in_prefill_are_the_mean_over_the_prompt(context: int, window: int | None) -> None:
    seen = [min(i, window or i) for i in range(1, context + 1)]
    assert attended_tokens("prefill", context, window) == pytest.approx(sum(seen) / context)
    assert attended_tokens("decode", context, window) == seen[-1]


def test_a_matrix_costs_two_flops_per_parameter_that_the_token_meets() -> None:
    spec = load_model("qwen3-30b-a3b")
    flops, active = flops_per_token(spec, phase="decode", context=1), active_parameters(spec)
    for part in ("router", "routed_experts", "lm_head"):
        assert flops[part] == 2 * active[part]
    norms_of_queries_and_keys = len(spec.layers) * 2 * 128
    assert flops["projections"] == 2 * (active["attention"] - norms_of_queries_and_keys)


def test_deepseekmoe_16b_needs_the_published_flops_for_4096_tokens() -> None:
    # DeepSeekMoE (arXiv 2401.06066), table 3: 74.4 TFLOP per 4K tokens, forward and backward; the attention matrix
    # counted in full (not causally), and 2% above, as its formula does too.
    spec = load_model("deepseekmoe-16b")
    forward = flops_per_token(spec, phase="decode", context=4096)
    assert 3 * 4096 * sum(forward.values()) == pytest.approx(74.4e12, rel=0.025)


def test_latent_attention_prefers_expanded_keys_in_prefill_and_latents_in_decode() -> None:
    mla = load_model("deepseek-v3").layers[0].attention
    assert isinstance(mla, LatentAttention)
    assert mla.score_flops("prefill", 1) == 2 * 128 * (128 + 64 + 128)
    assert mla.score_flops("decode", 100) == 2 * 128 * (512 + 64 + 512) * 100


def test_sparse_attention_stops_growing_at_its_top_k_but_for_the_indexer() -> None:
    sparse = load_model("deepseek-v3.2").layers[0].attention
    assert isinstance(sparse, LatentAttention)
    growth = sparse.score_flops("decode", 100_000) - sparse.score_flops("decode", 50_000)
    assert growth == 2 * 64 * 128 * 50_000


def test_linear_mixers_cost_the_same_at_any_context() -> None:
    delta = GatedDeltaNet(num_key_heads=2, num_value_heads=4, key_head_dim=8, value_head_dim=16, conv_kernel=4)
    mamba = Mamba2(num_heads=4, head_dim=8, state_size=16, num_groups=1, conv_kernel=4)
    assert delta.score_flops("decode", 10) == delta.score_flops("prefill", 10_000) == 6 * 4 * 8 * 16
    assert mamba.score_flops("decode", 10) == 4 * 4 * 8 * 16
    lightning = dataclasses.replace(delta, conv_kernel=0, learned_decay=False)
    assert lightning.score_flops("decode", 1) == 4 * 4 * 8 * 16


@given(contexts)
def test_only_attention_scores_depend_on_the_context(context: int) -> None:
    spec = load_model("mixtral-8x7b")
    here, start = (flops_per_token(spec, phase="decode", context=c) for c in (context, 1))
    assert here.pop("attention_scores") == context * start.pop("attention_scores")
    assert here == start


def test_multi_token_prediction_adds_a_layer_and_a_head() -> None:
    spec = load_model("deepseek-v3")
    plain, extra = (flops_per_token(spec, phase="decode", context=1, mtp=mtp) for mtp in (False, True))
    assert extra["lm_head"] == 2 * plain["lm_head"]
    assert extra["routed_experts"] / plain["routed_experts"] == pytest.approx(59 / 58)
    assert extra["projections"] - plain["projections"] == pytest.approx(
        plain["projections"] / 61 + 2 * 2 * spec.hidden**2
    )


@pytest.mark.parametrize(
    ("name", "published"),
    [
        # DeepSeek-V3's latents against grouped queries: 70.272 KB, 327.680 KB (arXiv 2505.09343, table 1).
        ("deepseek-v3", 70_272),
        ("llama-3.1-70b", 327_680),
        ("mixtral-8x7b", 131_072),
    ],
)
def test_kv_bytes_per_token_match_the_published_ones(name: str, published: int) -> None:
    assert kv_bytes_per_token(load_model(name)) == published


def test_sliding_window_layers_keep_only_their_window() -> None:
    spec = load_model("gpt-oss-20b")
    per_layer = kv_bytes_per_token_by_layer(spec)
    assert len(per_layer) == 24
    assert kv_bytes(spec, 100) == 100 * kv_bytes_per_token(spec)
    assert kv_bytes(spec, 10_000) == 12 * per_layer[0] * 128 + 12 * per_layer[1] * 10_000


def test_the_indexer_keeps_fp8_keys_and_a_scale_beside_the_latents() -> None:
    dense, sparse = load_model("deepseek-v3"), load_model("deepseek-v3.2")
    assert kv_bytes_per_token(sparse) - kv_bytes_per_token(dense) == 61 * 132


@pytest.mark.parametrize(
    ("model", "dtype", "bytes_per_layer"),
    [
        ("deepseek-v3.2", "bfloat16", 1152 + 132),
        ("deepseek-v3.2", "fp8", 656 + 132),
        ("glm-5", "fp8", 656 + 132),
        ("deepseek-v3", "bfloat16", 1152),
        ("deepseek-v3", "fp8", 576),
        ("kimi-k2", "fp8", 576),
    ],
)
def test_a_latent_is_laid_out_as_servers_lay_it_out(model: str, dtype: str, bytes_per_layer: int) -> None:
    """The fp8 cache of sparse attention keeps its rotary key in 16 bits and four float32 scales."""
    spec = with_dtypes(load_model(model), kv_cache=dtype)  # type: ignore[arg-type]
    assert set(kv_bytes_per_token_by_layer(spec)) == {bytes_per_layer}


def test_a_fp8_cache_halves_the_kv_bytes() -> None:
    spec = load_model("llama-3.1-8b")
    assert 2 * kv_bytes_per_token(with_dtypes(spec, kv_cache="fp8")) == kv_bytes_per_token(spec)


def test_a_lone_ffn_keeps_nothing() -> None:
    spec = load_model("nemotron-3-nano")
    kept = kv_bytes_per_token_by_layer(spec)
    lone = [layer.attention is None for layer in spec.layers]
    assert any(lone)
    assert all(size == 0.0 for size, alone in zip(kept, lone, strict=True) if alone)


def test_state_is_constant_and_sized_by_heads_state_and_convolution() -> None:
    spec = load_model("nemotron-3-nano")
    mamba_layers = sum(isinstance(layer.attention, Mamba2) for layer in spec.layers)
    assert mamba_layers == 23
    channels = 64 * 64 + 2 * 8 * 128
    assert state_bytes_per_sequence(spec) == 23 * (64 * 64 * 128 * 4 + channels * 3 * 2)
    delta = load_model("qwen3.5-397b")
    assert state_bytes_per_sequence(delta) == 45 * (64 * 128 * 128 * 4 + (2 * 16 * 128 + 64 * 128) * 3 * 2)
    assert state_bytes_per_sequence(load_model("mixtral-8x7b")) == 0.0


def test_prefill_flops_per_token_approach_two_per_active_parameter_for_short_prompts() -> None:
    spec: ModelSpec = load_model("qwen3-235b-a22b")
    flops = sum(flops_per_token(spec, phase="prefill", context=64).values())
    met = sum(active_parameters(spec, embedding=False).values()) - parameters(spec)["norms"]
    assert flops == pytest.approx(2 * met, rel=0.005)
