"""Published models of recent families: their configurations' own spelling of the keys, and their published sizes."""

from __future__ import annotations

from typing import Any

import pytest

from workloads.models.hf.config import from_hf_config
from workloads.models.sizes import total_active_parameters, total_parameters

Config = dict[str, Any]


def every(period: int, number: int, kind: str, others: str) -> list[str]:
    return [kind if i % period == 0 else others for i in range(number)]


LING: Config = {
    "model_type": "bailing_moe_v2",
    "hidden_size": 2048,
    "num_hidden_layers": 20,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 5120,
    "moe_intermediate_size": 512,
    "moe_shared_expert_intermediate_size": 512,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "num_shared_experts": 1,
    "n_group": 8,
    "topk_group": 4,
    "first_k_dense_replace": 1,
    "vocab_size": 157184,
    "use_qk_norm": True,
    "moe_router_enable_expert_bias": True,
    "score_function": "sigmoid",
    "tie_word_embeddings": False,
}
LARGER_LING = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 9216}
GRANITE: Config = {
    "model_type": "granitemoehybrid",
    "hidden_size": 4096,
    "num_hidden_layers": 40,
    "layer_types": ["attention" if i in (5, 15, 25, 35) else "mamba" for i in range(40)],
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 768,
    "shared_intermediate_size": 1536,
    "num_local_experts": 72,
    "num_experts_per_tok": 10,
    "mamba_n_heads": 128,
    "mamba_d_head": 64,
    "mamba_d_state": 128,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_conv_bias": True,
    "vocab_size": 100352,
    "tie_word_embeddings": True,
    "position_embedding_type": "nope",
    "embedding_multiplier": 12,
}
LFM2: Config = {
    "model_type": "lfm2_moe",
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "layer_types": ["full_attention" if i in (2, 6, 10, 14, 18, 21) else "conv" for i in range(24)],
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 7168,
    "moe_intermediate_size": 1792,
    "num_dense_layers": 2,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "conv_L_cache": 3,
    "conv_bias": False,
    "use_expert_bias": True,
    "vocab_size": 65536,
    "tie_embedding": True,
}
KIMI: Config = {
    "model_type": "kimi_linear",
    "hidden_size": 2304,
    "num_hidden_layers": 27,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 72,
    "kv_lora_rank": 512,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "mla_use_nope": True,
    "intermediate_size": 9216,
    "moe_intermediate_size": 1024,
    "num_experts": 256,
    "num_experts_per_token": 8,
    "num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "num_expert_group": 1,
    "topk_group": 1,
    "vocab_size": 163840,
    "tie_word_embeddings": False,
    "linear_attn_config": {
        "full_attn_layers": [4, 8, 12, 16, 20, 24, 27],
        "head_dim": 128,
        "num_heads": 32,
        "short_conv_kernel_size": 4,
    },
}
ERNIE: Config = {
    "model_type": "ernie4_5_moe_vl",
    "hidden_size": 2560,
    "num_hidden_layers": 28,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "intermediate_size": 12288,
    "moe_intermediate_size": [1536, 512],
    "moe_num_experts": [64, 64],
    "moe_k": 6,
    "moe_num_shared_experts": 2,
    "moe_layer_start_index": [1, 1],
    "moe_layer_end_index": [29, 28],
    "moe_layer_interval": 1,
    "vocab_size": 103424,
    "tie_word_embeddings": True,
    "vision_config": {
        "model_type": "DFNRope_vision_transformer",
        "depth": 32,
        "hidden_size": 1280,
        "mlp_ratio": 4,
        "num_heads": 16,
        "patch_size": 14,
        "spatial_merge_size": 2,
    },
}
MIMO: Config = {
    "model_type": "mimo_v2_flash",
    "hidden_size": 4096,
    "num_hidden_layers": 48,
    "num_attention_heads": 64,
    "num_key_value_heads": 4,
    "head_dim": 192,
    "v_head_dim": 128,
    "swa_num_attention_heads": 64,
    "swa_num_key_value_heads": 8,
    "swa_head_dim": 192,
    "swa_v_head_dim": 128,
    "sliding_window_size": 128,
    "hybrid_layer_pattern": [int(i > 0 and (i + 1) % 6 > 0) for i in range(48)],
    "moe_layer_freq": [0] + [1] * 47,
    "intermediate_size": 16384,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "n_group": 1,
    "vocab_size": 152576,
    "tie_word_embeddings": False,
    "add_swa_attention_sink_bias": True,
}
LONGCAT: Config = {
    "model_type": "longcat_flash",
    "hidden_size": 6144,
    "num_layers": 28,
    "num_attention_heads": 64,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "ffn_hidden_size": 12288,
    "expert_ffn_hidden_size": 2048,
    "n_routed_experts": 512,
    "moe_topk": 12,
    "zero_expert_num": 256,
    "zero_expert_type": "identity",
    "mla_scale_q_lora": True,
    "attention_method": "MLA",
    "vocab_size": 131072,
}
LAGUNA: Config = {
    "model_type": "laguna",
    "hidden_size": 2048,
    "num_hidden_layers": 40,
    "num_attention_heads": 48,
    "num_attention_heads_per_layer": [48, 64, 64, 64] * 10,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 8192,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "sliding_window": 512,
    "layer_types": every(4, 40, "full_attention", "sliding_attention"),
    "mlp_layer_types": ["dense"] + ["sparse"] * 39,
    "gating": True,
    "vocab_size": 100352,
    "tie_word_embeddings": False,
}
#: Total and active parameters as published, or as the publisher's own name gives them [billions].
PUBLISHED: dict[str, tuple[Config, float, float | None]] = {
    "Ling-mini-2.0": (LING, 16.26, 1.43),
    "Ling-flash-2.0": (
        LING | LARGER_LING | {"moe_intermediate_size": 1024, "moe_shared_expert_intermediate_size": 1024},
        102.89,
        6.1,
    ),
    "granite-4.0-h-small": (GRANITE, 32.21, 8.8),
    "LFM2-8B-A1B": (LFM2, 8.34, 1.55),
    "Kimi-Linear-48B-A3B": (KIMI, 49.12, None),
    "ERNIE-4.5-VL-28B-A3B": (ERNIE, 29.4, None),
    "MiMo-V2-Flash": (MIMO, 308.8, 15.4),
    "LongCat-Flash": (LONGCAT, 560.7, 27.9),
    "Laguna-XS.2": (LAGUNA, 33.44, 3.0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_published_size_and_no_unknown_key(name: str) -> None:
    config, total, active = PUBLISHED[name]
    spec = from_hf_config(config)
    assert total_parameters(spec) == pytest.approx(total * 1e9, rel=0.001)
    if active is not None:
        assert total_active_parameters(spec) == pytest.approx(active * 1e9, rel=0.02)
    assert spec.notes == ()


def test_lightning_layers_of_ling_stand_between_softmax_layers() -> None:
    spec = from_hf_config(LING | {"model_type": "bailing_moe_linear_v2", "layer_group_size": 5, "group_norm_size": 4})
    kinds = [type(layer.attention).__name__ for layer in spec.layers]
    assert kinds == (["GatedDeltaNet"] * 4 + ["GroupedQueryAttention"]) * 4
