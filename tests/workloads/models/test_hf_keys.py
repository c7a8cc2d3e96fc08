"""Keys of a configuration: those that a reader understands, both spellings of transformers, and those it must tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workloads.errors import ModelError
from workloads.models.hf.config import from_hf_config
from workloads.models.mixers import GroupedQueryAttention, LatentAttention
from workloads.models.sizes import active_parameters, total_parameters
from workloads.models.spec import DenseFFN, MoE
from workloads.models.work import kv_bytes_per_token

Config = dict[str, Any]

LATENT: Config = {
    "model_type": "glm_moe_dsa",
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 128,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 64,
    "v_head_dim": 8,
    "index_n_heads": 2,
    "index_head_dim": 32,
    "index_topk": 16,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "num_experts_per_tok": 4,
    "vocab_size": 100,
}
QWEN: Config = {
    "model_type": "qwen3_moe",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "moe_intermediate_size": 32,
    "intermediate_size": 128,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 100,
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shared_expert_every_n_layers", 4),
        ("cross_layer_kv_groups", [1, 2]),
        ("expert_width_schedule", {"0": 64}),
        ("attention_sink_blocks", True),
        ("num_memory_tokens", 128),
        ("use_sliding_window", True),
    ],
)
def test_a_key_that_may_change_sizes_is_told_by_name(key: str, value: Any) -> None:
    (note,) = from_hf_config(QWEN | {key: value}).notes
    assert f"does not know {key} = " in note


@pytest.mark.parametrize(
    "harmless",
    [
        {"rope_theta": 1e6, "rope_scaling": {"type": "yarn"}, "attention_dropout": 0.0, "initializer_range": 0.02},
        {"bos_token_id": 1, "eos_token_id": [2, 3], "hidden_act": "silu", "rms_norm_eps": 1e-6, "use_cache": True},
        {
            "router_aux_loss_coef": 0.001,
            "norm_topk_prob": True,
            "transformers_version": "5.0.0",
            "architectures": ["X"],
        },
        {"some_future_switch": False, "another": None, "list_of_nothing": [], "count": 0},
        {"temperature": 1.0, "top_p": 0.9, "pretraining_tp": 1, "auto_map": {"AutoConfig": "x.Y"}},
    ],
)
def test_keys_that_change_neither_sizes_nor_work_are_no_warning(harmless: Config) -> None:
    assert from_hf_config(QWEN | harmless).notes == ()


def test_layers_that_are_dense_are_read_in_both_spellings() -> None:
    old = from_hf_config(LATENT | {"first_k_dense_replace": 2})
    new = from_hf_config(LATENT | {"mlp_layer_types": ["dense"] * 2 + ["sparse"] * 4})
    assert old.layers == new.layers
    assert [isinstance(layer.ffn, DenseFFN) for layer in new.layers] == [True] * 2 + [False] * 4
    scattered = from_hf_config(QWEN | {"mlp_layer_types": ["sparse", "dense", "dense", "sparse"]})
    assert [isinstance(layer.ffn, MoE) for layer in scattered.layers] == [True, False, False, True]
    with pytest.raises(ModelError, match=r"mlp_layer_types has 'moist'; allowed: dense, sparse"):
        from_hf_config(QWEN | {"mlp_layer_types": ["moist"] * 4})


def test_layers_that_share_an_indexer_have_none_of_their_own() -> None:
    kinds = ["full", "full", "shared", "shared", "full", "shared"]
    spec = from_hf_config(LATENT | {"indexer_types": kinds})
    heads = [layer.attention.index_heads for layer in spec.layers if isinstance(layer.attention, LatentAttention)]
    assert heads == [2, 2, 0, 0, 2, 0]
    assert kv_bytes_per_token(spec) == 6 * 2 * (128 + 64) + 3 * (32 + 4)
    assert from_hf_config(LATENT | {"index_topk_pattern": "FFSSFS"}).layers == spec.layers
    every_second = from_hf_config(LATENT | {"index_topk_freq": 2, "index_skip_topk_offset": 2})
    assert (
        every_second.layers
        == from_hf_config(LATENT | {"indexer_types": ["full", "full"] + ["shared", "full"] * 2}).layers
    )


def test_the_fp8_cache_of_sparse_attention_keeps_its_rotary_part_and_its_scales() -> None:
    fp8 = {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}
    big = {"kv_lora_rank": 512, "index_head_dim": 128}
    spec = from_hf_config(LATENT | big | {"quantization_config": fp8})
    assert kv_bytes_per_token(spec) == 6 * (656 + 132)
    dense = {key: value for key, value in (LATENT | big).items() if not key.startswith("index_")}
    assert kv_bytes_per_token(from_hf_config(dense | {"quantization_config": fp8})) == 6 * 576


@pytest.mark.parametrize(("outer", "inner", "tied"), [(False, True, False), (True, False, True), (None, True, True)])
def test_the_outer_flag_says_whether_embeddings_are_tied(outer: bool | None, inner: bool, tied: bool) -> None:
    text = QWEN | {"model_type": "qwen3_vl_moe_text", "tie_word_embeddings": inner}
    config = {"model_type": "qwen3_vl_moe", "text_config": text}
    config |= {} if outer is None else {"tie_word_embeddings": outer}
    assert from_hf_config(config).tied_embeddings is tied


def test_experts_widths_and_choices_may_differ_from_layer_to_layer() -> None:
    config = QWEN | {"num_experts_per_tok": [2, 2, 4, 1], "moe_intermediate_size": [32, 32, 16, 64]}
    blocks = from_hf_config(config | {"num_experts": [8, 8, 16, 4]}).moe_layers
    assert [(moe.num_experts, moe.top_k, moe.intermediate) for moe in blocks] == [
        (8, 2, 32),
        (8, 2, 32),
        (16, 4, 16),
        (4, 1, 64),
    ]
    with pytest.raises(ModelError, match="num_experts_per_tok"):
        from_hf_config(QWEN | {"num_experts_per_tok": [2, 2]})


def test_a_table_of_exceptions_changes_single_layers() -> None:
    spec = from_hf_config(QWEN | {"per_layer_config": {"01": {"head_dim": 32}, "3": {"num_key_value_heads": 4}}})
    heads = [
        (layer.attention.head_dim, layer.attention.num_kv_heads)
        for layer in spec.layers
        if isinstance(layer.attention, GroupedQueryAttention)
    ]
    assert heads == [(16, 2), (32, 2), (16, 2), (16, 4)]
    with pytest.raises(ModelError, match=r"per_layer_config: '7' is no layer; expected a number below 4"):
        from_hf_config(QWEN | {"per_layer_config": {"7": {"head_dim": 32}}})


def test_experts_that_differ_in_width_alone_route_alike() -> None:
    spec = from_hf_config(QWEN | {"moe_intermediate_size": [32, 32, 32, 64]})
    assert spec.moe is not None
    assert spec.moe.intermediate == 32
    uneven = from_hf_config(QWEN | {"num_experts_per_tok": [2, 2, 2, 4]})
    assert sum(active_parameters(uneven).values()) > sum(active_parameters(spec).values()) / 2
    assert uneven.moe is not None
    assert (uneven.moe.top_k, [moe.top_k for moe in uneven.moe_layers]) == (4, [2, 2, 2, 4])


def test_a_tower_takes_memory_and_is_named_where_it_is_not_known() -> None:
    text = QWEN | {"model_type": "qwen3_vl_moe_text"}
    bare = {"model_type": "qwen3_vl_moe", "text_config": text}
    tower = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "patch_size": 4, "num_heads": 2}
    tower |= {"out_hidden_size": 64, "num_position_embeddings": 16, "deepstack_visual_indexes": [1]}
    seen = from_hf_config(bare | {"vision_config": tower})
    assert seen.encoders == total_parameters(seen) - total_parameters(from_hf_config(bare))
    assert seen.encoders > 2 * (4 * 32**2 + 2 * 32 * 64)
    assert seen.notes == ()
    odd = from_hf_config({"model_type": "odd_vl", "text_config": text, "vision_config": {**tower, "model_type": "odd"}})
    assert odd.encoders == 2 * (4 * 32**2 + 2 * 32 * 64)
    assert any("the tower 'odd' is not known" in note for note in odd.notes)


def test_an_unknown_family_says_what_it_shares_and_what_not() -> None:
    config = LATENT | {"model_type": "deepseek_v9", "first_k_dense_replace": 1, "memory_bank_slots": 512}
    with pytest.raises(ModelError) as error:
        from_hf_config(config)
    message = str(error.value)
    assert "unknown model_type 'deepseek_v9'; it shares latent attention, 16 routed experts, shared experts" in message
    assert "which does not know memory_bank_slots: it is another model" in message
    assert "did you mean" not in message
    assert len(message) < 500


def test_an_unknown_family_with_known_keys_alone_is_not_taken_for_another() -> None:
    with pytest.raises(ModelError, match=r"norms, biases and gates that no key tells may differ, so it is not read as"):
        from_hf_config(QWEN | {"model_type": "someones_moe"})


def test_the_small_vision_models_of_deepseek_have_softmax_attention() -> None:
    text = {key: value for key, value in LATENT.items() if not key.startswith(("q_", "kv_", "qk_", "v_", "index_"))}
    text |= {"model_type": "deepseek_v2", "use_mla": False, "kv_lora_rank": None, "num_key_value_heads": 4}
    spec = from_hf_config({"model_type": "deepseek_vl_v2", "language_config": text})
    assert all(isinstance(layer.attention, GroupedQueryAttention) for layer in spec.layers)
    assert kv_bytes_per_token(spec) == 6 * 2 * 2 * 64


def test_encoder_decoders_are_refused_for_what_they_are() -> None:
    config = {"model_type": "switch_transformers", "is_encoder_decoder": True, "num_experts": 8}
    with pytest.raises(ModelError, match="encoder-decoder models are not described"):
        from_hf_config(config)


CASES = Path(__file__).parents[3].parent / "shared" / "cases"


@pytest.mark.skipif(not CASES.is_dir(), reason="the published configurations are not at hand")
@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("deepseek_v4_flash", 284.332e9),
        ("gemma4_26b_a4b", 25.233e9),
        ("nemotron3_super_latent", 120.669e9),
        ("glm52_indexer_types", 743.377e9),
        ("glm47flash_v5_mlp_layer_types", 29.943e9),
        ("qwen3vl_v5_tie", 30.532e9),
    ],
)
def test_published_configurations_that_once_misled_have_their_true_size(name: str, total: float) -> None:
    assert total_parameters(from_hf_config(CASES / f"{name}.json")) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"decoder_sparse_step": 0}, "decoder_sparse_step = 0; expected at least 1"),
        ({"mlp_only_layers": [0, 1, 99]}, "mlp_only_layers has layer 99; expected 0 to 3"),
        ({"layer_types": ["full_attention"] * 3}, "layer_types has 3 entries; expected one per layer, 4"),
        ({"torch_dtype": "posit8"}, "torch_dtype: unknown dtype 'posit8'"),
        ({"dtype": "bfloat61"}, "dtype: unknown dtype 'bfloat61'; did you mean 'bfloat16'"),
        ({"dtype": 16}, "dtype = 16; expected text"),
    ],
)
def test_values_that_no_model_has_are_refused_by_their_key(keys: Config, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        from_hf_config(QWEN | keys)


def test_a_dtype_that_only_quantisation_makes_is_told_where_nothing_quantises() -> None:
    spec = from_hf_config(QWEN | {"torch_dtype": "float8_e4m3fn"})
    assert spec.dtypes.experts == "bfloat16"
    assert any("weights are read as bfloat16" in note for note in spec.notes)


def test_the_dtype_around_a_language_model_is_its_own_where_it_says_none() -> None:
    wrapped = {"model_type": "qwen3_vl_moe", "dtype": "float32", "text_config": {**QWEN, "model_type": None}}
    assert from_hf_config(wrapped).dtypes.experts == "float32"


def test_more_experts_per_token_than_there_are_is_said_once() -> None:
    with pytest.raises(ModelError) as error:
        from_hf_config(QWEN | {"num_experts_per_tok": 9})
    assert str(error.value).count("ffn.top_k = 9") == 1
