"""Parameters and weight bytes against counts worked out by hand and against published ones."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.models.dtypes import DTYPE_BYTES
from workloads.models.library import load_model, model_names, with_dtypes
from workloads.models.mixers import MIXERS, Attention, GatedDeltaNet, GroupedQueryAttention, LatentAttention, Mamba2
from workloads.models.sizes import (
    PARTS,
    Count,
    active_parameters,
    expert_parameters,
    experts_per_token,
    ffn_parameters,
    parameters,
    quoted_active_parameters,
    total_active_parameters,
    total_parameters,
    weight_bytes,
)
from workloads.models.spec import DenseFFN, DTypes, Layer, ModelSpec, MoE

# Published figures and how far the model may be from them: 1%, or one unit in the last digit that the publisher gives.
PUBLISHED = {
    "deepseek-r1": (671e9, 36.6e9),
    "deepseek-v2-lite": (15.7e9, 2.4e9),
    "deepseek-v3": (671e9, 36.6e9),
    "deepseek-v3.2": (671e9, 37e9),
    "deepseekmoe-16b": (16.4e9, 2.8e9),
    "glam-143b": (143e9, None),
    "glm-5": (744e9, 40e9),
    "gpt-oss-120b": (116.83e9, 5.13e9),
    "gpt-oss-20b": (20.91e9, 3.61e9),
    "grok-1": (314e9, None),
    "kimi-k2": (1026.4e9, 32.6e9),
    "llama-3.1-70b": (70.6e9, None),
    "llama-3.1-8b": (8.03e9, None),
    "llama-4-maverick": (400e9, 17e9),
    "llama-4-scout": (108.64e9, 17e9),
    "minimax-m2.5": (230e9, 10e9),
    "mixtral-8x22b": (141e9, 39e9),
    "mixtral-8x7b": (46.7e9, 12.9e9),
    "nemotron-3-nano": (31.6e9, 3.6e9),
    "phi-3.5-moe": (41.9e9, 6.6e9),
    "qwen3-235b-a22b": (235e9, 22e9),
    "qwen3-30b-a3b": (30.5e9, 3.3e9),
    "qwen3-32b": (32.8e9, None),
    "qwen3-coder-480b": (480e9, 35e9),
    "qwen3.5-397b": (397e9, 17e9),
}
# Publishers who round the active count to fewer digits than 1%: what their convention gives, to its own 1%.
ROUNDED_ACTIVE = {
    "deepseek-v2-lite": 2.451e9,
    "deepseek-v3.2": 37.48e9,
    "llama-4-maverick": 17.19e9,
    "llama-4-scout": 17.17e9,
    "minimax-m2.5": 9.80e9,
    "qwen3-30b-a3b": 3.353e9,
    "qwen3-coder-480b": 35.48e9,
    "qwen3.5-397b": 17.35e9,
    "deepseekmoe-16b": 2.829e9,
}


@pytest.mark.parametrize("name", model_names())
def test_total_parameters_are_within_one_percent_of_the_published_count(name: str) -> None:
    assert total_parameters(load_model(name)) == pytest.approx(PUBLISHED[name][0], rel=0.01)


@pytest.mark.parametrize("name", [name for name, (_, active) in PUBLISHED.items() if active])
def test_active_parameters_match_the_published_count_in_the_publishers_convention(name: str) -> None:
    published = PUBLISHED[name][1]
    counted = quoted_active_parameters(load_model(name))
    if name in ROUNDED_ACTIVE:
        assert counted == pytest.approx(ROUNDED_ACTIVE[name], rel=0.001)
        assert counted == pytest.approx(published, rel=0.022)
    else:
        assert counted == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize("name", model_names())
def test_the_library_records_the_published_counts(name: str) -> None:
    spec = load_model(name)
    assert (spec.published_total, spec.published_active) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        # The numbers of elements in the published checkpoints.
        ("mixtral-8x7b", 46_702_792_704),
        ("mixtral-8x22b", 140_620_634_112),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
        ("qwen3-30b-a3b", 30_532_122_624),
        ("qwen3-235b-a22b", 235_093_634_560),
        ("qwen3-32b", 32_762_123_264),
        ("deepseek-v2-lite", 15_706_484_224),
        ("gpt-oss-20b", 20_914_757_184),
        ("gpt-oss-120b", 116_829_156_672),
    ],
)
def test_total_parameters_equal_the_checkpoint_to_the_last_one(name: str, exact: int) -> None:
    assert total_parameters(load_model(name)) == exact


def test_every_token_mixer_has_a_name_in_model_files() -> None:
    assert set(MIXERS.values()) == set(get_args(Attention))


def test_latent_attention_of_deepseek_v3_counts_each_projection() -> None:
    mla = load_model("deepseek-v3").layers[0].attention
    assert isinstance(mla, LatentAttention)
    matrices, vectors = mla.parameters(7168)
    q_a, q_b = 7168 * 1536, 1536 * 128 * 192
    kv_a, kv_b, out = 7168 * 576, 512 * 128 * 256, 128 * 128 * 7168
    assert matrices == q_a + q_b + kv_a + kv_b + out
    assert vectors == 1536 + 512


def test_grouped_query_attention_counts_gate_biases_norms_and_sinks() -> None:
    plain = GroupedQueryAttention(num_heads=8, num_kv_heads=2, head_dim=16)
    everything = dataclasses.replace(plain, output_gate=True, bias=True, output_bias=True, qk_norm=True, sinks=True)
    assert plain.parameters(64) == Count(64 * (128 + 32 + 32) + 128 * 64)
    matrices, vectors = everything.parameters(64)
    assert matrices == plain.parameters(64).matrices + 64 * 128
    assert vectors == (128 + 32 + 32) + 64 + 2 * 16 + 8
    wide_norm = dataclasses.replace(plain, qk_norm=True, qk_norm_per_head=True)
    assert wide_norm.parameters(64).vectors == 128 + 32


def test_mamba2_counts_input_convolution_state_and_output() -> None:
    mamba = Mamba2(num_heads=4, head_dim=8, state_size=16, num_groups=2, conv_kernel=4)
    inner, channels = 32, 32 + 2 * 2 * 16
    matrices, vectors = mamba.parameters(64)
    assert matrices == 64 * (inner + channels + 4) + 4 * channels + inner * 64
    assert vectors == channels + 3 * 4 + inner


def test_lightning_attention_has_four_input_projections_and_an_output() -> None:
    lightning = GatedDeltaNet(
        num_key_heads=4, num_value_heads=4, key_head_dim=8, value_head_dim=8, conv_kernel=0, learned_decay=False
    )
    assert lightning.parameters(64) == Count(64 * 4 * 32 + 32 * 64, 32)


def test_moe_counts_router_experts_and_gated_shared_expert() -> None:
    moe = MoE(num_experts=8, top_k=2, intermediate=32, shared_intermediate=48, shared_gate=True, router_bias=True)
    parts = ffn_parameters(moe, 64)
    assert parts["router"] == Count(64 * 8, 8)
    assert parts["routed_experts"] == Count(8 * 3 * 64 * 32)
    assert parts["shared_experts"] == Count(3 * 64 * 48 + 64)
    assert ffn_parameters(moe, 64, active=True)["routed_experts"].matrices == 2 * 3 * 64 * 32


def test_null_experts_widen_the_router_and_thin_the_work() -> None:
    moe = MoE(num_experts=8, null_experts=8, top_k=4, intermediate=32)
    assert ffn_parameters(moe, 64)["router"].matrices == 64 * 16
    assert experts_per_token(moe) == 2.0
    assert expert_parameters(moe, 64).matrices == 3 * 64 * 32


def test_active_equals_total_for_a_dense_model() -> None:
    spec = load_model("llama-3.1-8b")
    assert total_active_parameters(spec) == total_parameters(spec)


def test_a_tied_embedding_counts_once_and_is_always_active() -> None:
    spec = load_model("glam-143b")
    untied = dataclasses.replace(spec, tied_embeddings=False)
    assert total_parameters(untied) - total_parameters(spec) == spec.vocab * spec.hidden
    assert total_active_parameters(spec, embedding=False) == total_active_parameters(spec)


def test_multi_token_prediction_counts_only_when_asked() -> None:
    spec = load_model("deepseek-v3")
    assert parameters(spec)["mtp"] == 0
    # README_WEIGHTS.md of DeepSeek-V3: 11.5B unique parameters; 2.4B active, embedding and head included. Both fit the
    # layer without the projection (0.1B) that merges the two hidden states.
    projection, shared = 2 * spec.hidden**2, 2 * spec.vocab * spec.hidden
    assert parameters(spec, mtp=True)["mtp"] - projection == pytest.approx(11.5e9, rel=0.001)
    assert active_parameters(spec, mtp=True)["mtp"] - projection + shared == pytest.approx(2.4e9, rel=0.02)


@pytest.mark.parametrize(("name", "checkpoint"), [("gpt-oss-20b", 12.8), ("gpt-oss-120b", 60.8)])
def test_weight_bytes_equal_the_checkpoint_sizes_of_the_gpt_oss_model_card(name: str, checkpoint: float) -> None:
    assert sum(weight_bytes(load_model(name)).values()) / 2**30 == pytest.approx(checkpoint, rel=0.005)


def test_quantising_the_experts_changes_their_bytes_alone() -> None:
    spec = load_model("mixtral-8x7b")
    before, after = weight_bytes(spec), weight_bytes(with_dtypes(spec, experts="int4"))
    changed = {part for part in PARTS if before[part] != after[part]}
    assert changed == {"routed_experts"}
    assert after["routed_experts"] / before["routed_experts"] == pytest.approx(DTYPE_BYTES["int4"] / 2.0)


dimensions = st.integers(1, 64)
mixers = st.one_of(
    st.builds(
        GroupedQueryAttention, num_heads=st.just(8), num_kv_heads=st.sampled_from([1, 2, 4, 8]), head_dim=dimensions
    ),
    st.builds(
        LatentAttention,
        num_heads=dimensions,
        q_lora_rank=st.none() | dimensions,
        kv_lora_rank=dimensions,
        qk_nope_head_dim=dimensions,
        qk_rope_head_dim=dimensions,
        v_head_dim=dimensions,
    ),
    st.builds(
        GatedDeltaNet,
        num_key_heads=dimensions,
        num_value_heads=dimensions,
        key_head_dim=dimensions,
        value_head_dim=dimensions,
        conv_kernel=st.integers(0, 4),
    ),
)
ffns = st.one_of(
    st.builds(DenseFFN, intermediate=dimensions, matrices=st.sampled_from([2, 3])),
    st.builds(MoE, num_experts=st.integers(4, 64), top_k=st.integers(1, 4), intermediate=dimensions),
)
models = st.builds(
    ModelSpec,
    name=st.just("any"),
    hidden=dimensions,
    vocab=dimensions,
    layers=st.lists(st.builds(Layer, attention=mixers, ffn=ffns), min_size=1, max_size=4).map(tuple),
    tied_embeddings=st.booleans(),
    mtp_layers=st.integers(0, 2),
)


@given(models)
def test_active_parameters_never_exceed_all_of_them_in_any_part(spec: ModelSpec) -> None:
    total, active = parameters(spec, mtp=True), active_parameters(spec, mtp=True)
    assert all(active[part] <= total[part] for part in PARTS)


@given(models)
def test_weight_bytes_are_twice_the_parameters_in_bfloat16(spec: ModelSpec) -> None:
    assert sum(weight_bytes(spec, mtp=True).values()) == pytest.approx(2 * total_parameters(spec, mtp=True))


@given(models, st.integers(1, 5))
def test_every_part_but_the_ends_grows_in_proportion_to_the_layers(spec: ModelSpec, times: int) -> None:
    deeper = dataclasses.replace(spec, layers=spec.layers * times)
    once, many = parameters(spec), parameters(deeper)
    for part in ("attention", "router", "routed_experts", "shared_experts", "dense_ffn"):
        assert many[part] == times * once[part]
    assert many["embedding"] == once["embedding"]


def test_dtypes_have_defaults_in_the_table() -> None:
    parts = [
        field.name for field in dataclasses.fields(DTypes) if field.name not in {"shared_experts", "stored", "blocks"}
    ]
    assert all(getattr(DTypes(), part) in DTYPE_BYTES for part in parts)
