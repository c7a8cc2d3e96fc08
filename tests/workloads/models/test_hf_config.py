"""Hugging Face configurations: every published file at hand, each family, quantisation formats, and faults."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.errors import ModelError
from workloads.models.hf.config import from_hf_config
from workloads.models.library import load_model, save_model
from workloads.models.mixers import GatedDeltaNet, GroupedQueryAttention, LatentAttention, Mamba2
from workloads.models.sizes import expert_parameters, parameters, quoted_active_parameters, total_parameters
from workloads.models.spec import DenseFFN, DTypes, MoE

MODELS = Path(__file__).parents[2] / "data" / "models"
#: Further configurations, whose licences keep them out of this repository.
SHARED = Path(__file__).parents[3].parent / "shared" / "models"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="not all published configurations are at hand")

Config = dict[str, Any]

MIXTRAL: Config = {
    "model_type": "mixtral",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 32000,
}
DEEPSEEK: Config = {
    "model_type": "deepseek_v3",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "num_experts_per_tok": 4,
    "first_k_dense_replace": 1,
    "vocab_size": 100,
}


def dense(
    model_type: str, hidden: int, layers: int, heads: int, kv_heads: int, width: int, vocab: int, **more: Any
) -> Config:
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": width,
        "vocab_size": vocab,
        **more,
    }


# Published configurations of families that no file at hand covers: total [1] and, in the publisher's convention, active
# [billions, as published or as the publisher's own name gives it].
FAMILY_CONFIGS: dict[str, tuple[Config, float, float | None]] = {
    "OLMoE-1B-7B": (
        dense("olmoe", 2048, 16, 16, 16, 1024, 50304, num_experts=64, num_experts_per_tok=8),
        6_919_161_856,
        1.28,
    ),
    "Qwen1.5-MoE-A2.7B": (
        dense("qwen2_moe", 2048, 24, 16, 16, 5632, 151936, moe_intermediate_size=1408)
        | {"shared_expert_intermediate_size": 5632, "num_experts": 60, "num_experts_per_tok": 4},
        14_315_784_192,
        2.69,
    ),
    "Qwen3-Next-80B-A3B": (
        dense("qwen3_next", 2048, 48, 16, 2, 5120, 151936, head_dim=256, full_attention_interval=4)
        | {"linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_conv_kernel_dim": 4}
        | {"linear_key_head_dim": 128, "linear_value_head_dim": 128, "moe_intermediate_size": 512}
        | {"shared_expert_intermediate_size": 512, "num_experts": 512, "num_experts_per_tok": 10},
        79_674_391_296,
        None,
    ),
    "DBRX": (
        {"model_type": "dbrx", "d_model": 6144, "n_layers": 40, "n_heads": 48, "vocab_size": 100352}
        | {"attn_config": {"kv_n_heads": 8}, "max_seq_len": 32768}
        | {"ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4}},
        131_596_523_520,
        36.0,
    ),
    "GLM-4.5": (
        dense("glm4_moe", 5120, 92, 96, 8, 12288, 151552, head_dim=128, attention_bias=True, use_qk_norm=True)
        | {"moe_intermediate_size": 1536, "n_routed_experts": 160, "n_shared_experts": 1, "num_experts_per_tok": 8}
        | {"first_k_dense_replace": 3, "num_nextn_predict_layers": 1},
        352_797_829_024,
        32.0,
    ),
    "MiniMax-Text-01": (
        dense("minimax_text_01", 6144, 80, 64, 8, 9216, 200064, head_dim=128)
        | {"num_local_experts": 32, "num_experts_per_tok": 2}
        | {"attn_type_list": [int(i % 8 == 7) for i in range(80)]},
        456e9,
        45.9,
    ),
    "Ling-lite": (
        dense("bailing_moe", 2048, 28, 16, 4, 5632, 126464, head_dim=128, moe_intermediate_size=1408)
        | {"num_experts": 64, "num_experts_per_tok": 6, "num_shared_experts": 2},
        16.80e9,
        2.75,
    ),
    "Hunyuan-A13B": (
        dense("hunyuan_v1_moe", 4096, 32, 32, 8, 3072, 128167, head_dim=128, use_qk_norm=True)
        | {
            "num_experts": 64,
            "moe_topk": [8] * 32,
            "moe_intermediate_size": [3072] * 32,
            "num_shared_expert": [1] * 32,
        },
        80.4e9,
        None,
    ),
    "ERNIE-4.5-21B-A3B": (
        dense("ernie4_5_moe", 2560, 28, 20, 4, 12288, 103424, head_dim=128, tie_word_embeddings=True)
        | {"moe_intermediate_size": 1536, "moe_num_experts": 64, "moe_k": 6, "moe_num_shared_experts": 2}
        | {"moe_layer_start_index": 1, "moe_layer_end_index": 27, "moe_layer_interval": 1},
        21.83e9,
        None,
    ),
    "Granite-3.0-3B-A800M": (
        dense("granitemoe", 1536, 32, 24, 8, 512, 49155, tie_word_embeddings=True)
        | {"num_local_experts": 40, "num_experts_per_tok": 8},
        3.30e9,
        None,
    ),
    "Mistral-7B": (dense("mistral", 4096, 32, 32, 8, 14336, 32000), 7_241_732_096, 7.24),
    "Llama-3.2-1B": (
        dense("llama", 2048, 16, 32, 8, 8192, 128256, head_dim=64, tie_word_embeddings=True),
        1_235_814_400,
        1.24,
    ),
    "Qwen2-7B": (dense("qwen2", 3584, 28, 28, 4, 18944, 152064), 7_615_616_512, 7.62),
    "Gemma-3-1B": (
        dense("gemma3_text", 1152, 26, 4, 1, 6912, 262144, head_dim=256, sliding_window=512)
        | {"sliding_window_pattern": 6},
        999_885_952,
        1.0,
    ),
    "DeepSeekMoE-16B": (
        dense("deepseek", 2048, 28, 16, 16, 10944, 102400, moe_intermediate_size=1408, first_k_dense_replace=1)
        | {"n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6},
        16_375_728_128,
        2.83,
    ),
}


@pytest.mark.parametrize("name", FAMILY_CONFIGS)
def test_each_family_counts_what_its_publisher_counts(name: str) -> None:
    config, total, active = FAMILY_CONFIGS[name]
    spec = from_hf_config(config)
    assert total_parameters(spec) == pytest.approx(total, rel=0 if isinstance(total, int) else 0.002)
    if active is not None:
        assert quoted_active_parameters(spec) == pytest.approx(active * 1e9, rel=0.015)


@pytest.mark.parametrize(
    ("file", "total", "active"),
    [
        # Total parameters as published (text model); active as published, or as its rounding hides (see the library).
        ("DeepSeek-R1", 671e9, 36.6e9),
        ("DeepSeek-V3.2", 671e9, 37.48e9),
        ("GLM-5", 744e9, 40e9),
        ("Mixtral-8x22B-v0.1", 141e9, 39e9),
        ("Mixtral-8x7B-v0.1", 46.7e9, 12.9e9),
        ("Qwen3-235B-A22B", 235e9, 22e9),
        ("Qwen3-30B-A3B", 30.5e9, 3.353e9),
        ("Qwen3-32B", 32.8e9, 32.8e9),
        ("Qwen3-Coder-480B-A35B-Instruct", 480e9, 35.48e9),
        ("Qwen3.5-397B-A17B", 397e9, 17.35e9),
        ("gpt-oss-120b", 116.83e9, 5.13e9),
        ("gpt-oss-20b", 20.91e9, 3.61e9),
    ],
)
def test_published_configurations_come_out_within_one_percent(file: str, total: float, active: float) -> None:
    meets(MODELS / f"{file}.json", total, active)


@needs_shared
def test_configurations_of_other_licences_come_out_within_one_percent() -> None:
    for file, total, active in (
        ("DeepSeek-V3", 671e9, 36.6e9),
        ("Kimi-K2-Instruct", 1026.4e9, 32.6e9),
        ("Llama-4-Maverick-17B-128E-Instruct", 400e9, 17.19e9),
        ("Llama-4-Scout-17B-16E-Instruct", 108.64e9, 17.17e9),
        ("Meta-Llama-3.1-70B", 70.6e9, 70.6e9),
        ("Meta-Llama-3.1-8B", 8.03e9, 8.03e9),
        ("MiniMax-M2.5", 230e9, 9.80e9),
        ("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 31.6e9, 3.6e9),
    ):
        meets(SHARED / f"{file}.json", total, active)


def meets(file: Path, total: float, active: float) -> None:
    spec = from_hf_config(file)
    assert spec.name == file.stem
    assert total_parameters(spec) == pytest.approx(total, rel=0.01)
    assert quoted_active_parameters(spec) == pytest.approx(active, rel=0.01)


def test_no_published_configuration_is_left_untested() -> None:
    for file in [*MODELS.glob("*.json"), *SHARED.glob("*.json")]:
        assert parameters(from_hf_config(file))["attention"] > 0


def test_deepseek_layers_are_dense_first_and_experts_after() -> None:
    spec = from_hf_config(DEEPSEEK | {"num_nextn_predict_layers": 1, "moe_layer_freq": 2})
    assert [type(layer.ffn) for layer in spec.layers] == [DenseFFN, DenseFFN, MoE, DenseFFN]
    assert isinstance(spec.layers[0].attention, LatentAttention)
    assert spec.mtp_layers == 1


def test_llama4_alternates_windows_and_experts() -> None:
    config = dense("llama4_text", 64, 8, 4, 2, 32, 100, head_dim=16, intermediate_size_mlp=128)
    config |= {"num_local_experts": 4, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2}
    config |= {"attention_chunk_size": 8192}
    spec = from_hf_config({"model_type": "llama4", "text_config": config})
    windows = [layer.attention.window for layer in spec.layers if isinstance(layer.attention, GroupedQueryAttention)]
    assert windows == [8192, 8192, 8192, None] * 2
    assert [isinstance(layer.ffn, MoE) for layer in spec.layers] == [False, True] * 4
    everywhere = from_hf_config(config | {"no_rope_layers": [0] * 8})
    assert all(
        isinstance(layer.attention, GroupedQueryAttention) and layer.attention.window is None
        for layer in everywhere.layers
    )


def test_multi_token_prediction_of_nemotron_has_blocks_of_its_own(tmp_path: Path) -> None:
    config = dense("nemotron_h", 64, 3, 4, 2, 32, 100, hybrid_override_pattern="M*E", head_dim=16)
    config |= {"mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 2, "conv_kernel": 4}
    config |= {"moe_intermediate_size": 32, "n_routed_experts": 8, "num_experts_per_tok": 2}
    config |= {"num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "*E"}
    spec = from_hf_config(config)
    assert spec.mtp_blocks == spec.layers[1:]
    listed = {"mtp_hybrid_override_pattern": None, "mtp_layers_block_type": ["full_attention", "moe"]}
    assert from_hf_config(config | listed).mtp_blocks == spec.mtp_blocks
    alone = from_hf_config(config | {"mtp_hybrid_override_pattern": "E"})
    attention = parameters(spec)["attention"] - parameters(alone)["attention"]
    assert attention == 0
    mixer = spec.layers[1].attention
    assert mixer is not None
    assert parameters(spec, mtp=True)["mtp"] - parameters(alone, mtp=True)["mtp"] == sum(mixer.parameters(64)) + 64
    save_model(spec, tmp_path / "copy.toml")
    assert load_model(tmp_path / "copy.toml") == spec


BLOCKS = ["mamba", "attention", "moe", "mlp"]


def test_nemotron_h_follows_its_pattern_of_lone_blocks() -> None:
    config = dense("nemotron_h", 64, 4, 4, 2, 32, 100, hybrid_override_pattern="M*E-", head_dim=16)
    config |= {"mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 2, "conv_kernel": 4}
    config |= {"moe_intermediate_size": 32, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1}
    config |= {"moe_shared_expert_intermediate_size": 48}
    spec = from_hf_config(config)
    assert isinstance(spec.layers[0].attention, Mamba2)
    assert isinstance(spec.layers[1].attention, GroupedQueryAttention)
    moe, ffn = spec.layers[2].ffn, spec.layers[3].ffn
    assert isinstance(moe, MoE)
    assert (moe.matrices, moe.shared_intermediate) == (2, 48)
    assert isinstance(ffn, DenseFFN)
    assert all(layer.norms == 1 for layer in spec.layers)
    with pytest.raises(ModelError, match=r"hybrid_override_pattern has 'X'; allowed: M, \*, E, -"):
        from_hf_config(config | {"hybrid_override_pattern": "M*EX"})
    with pytest.raises(ModelError, match="has 2 blocks; expected 4"):
        from_hf_config(config | {"hybrid_override_pattern": "M*"})
    assert from_hf_config(config | {"hybrid_override_pattern": None, "layers_block_type": BLOCKS}).layers == spec.layers
    latent = from_hf_config(config | {"moe_latent_size": 16}).layers[2].ffn
    assert isinstance(latent, MoE)
    assert (latent.latent, expert_parameters(latent, 64)) == (16, (2 * 16 * 32, 0))


def test_qwen3_next_puts_full_attention_every_fourth_layer() -> None:
    spec = from_hf_config(FAMILY_CONFIGS["Qwen3-Next-80B-A3B"][0])
    kinds = [isinstance(layer.attention, GatedDeltaNet) for layer in spec.layers]
    assert kinds == [True, True, True, False] * 12


@pytest.mark.parametrize(
    ("quantization", "attention", "experts", "ffn", "kv_cache"),
    [
        (None, "bfloat16", "bfloat16", "bfloat16", "bfloat16"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block", "fp8_block", "fp8_block", "bfloat16"),
        ({"quant_method": "fp8"}, "fp8", "fp8", "fp8", "bfloat16"),
        (
            {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]},
            "bfloat16",
            "mxfp4",
            "mxfp4",
            "bfloat16",
        ),
        # A name is matched whole: the router "gate" is not "gate_proj".
        ({"quant_method": "fp8", "modules_to_not_convert": ["gate", "lm_head"]}, "fp8", "fp8", "fp8", "bfloat16"),
        # Most layers decide: one dense layer of four is spared, and it is the only dense one.
        (
            {"quant_method": "fp8", "ignored_layers": ["model.layers.0.mlp", "model.layers.1.self_attn"]},
            "fp8",
            "fp8",
            "bfloat16",
            "bfloat16",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 32}}},
                "ignore": ["re:.*self_attn.*", r"re:.*mlp\.(gate|up|gate_up|down)_proj.*", "lm_head"],
                "kv_cache_scheme": {"num_bits": 8, "type": "float"},
            },
            "bfloat16",
            "int4",
            "bfloat16",
            "fp8",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "block"}}},
            },
            "fp8_block",
            "fp8_block",
            "fp8_block",
            "bfloat16",
        ),
        (
            {"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": ["model.layers.*.self_attn*"]}
            | {"kv_cache_quant_algo": "FP8"},
            "bfloat16",
            "nvfp4",
            "nvfp4",
            "fp8",
        ),
        ({"quant_method": "awq", "bits": 4}, "int4", "int4", "int4", "bfloat16"),
        ({"quant_method": "gptq", "bits": 8}, "int8", "int8", "int8", "bfloat16"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4", "int4", "int4", "bfloat16"),
    ],
)
def test_quantization_sets_the_dtypes_of_the_parts(
    quantization: Config | None, attention: str, experts: str, ffn: str, kv_cache: str
) -> None:
    dtypes = from_hf_config(DEEPSEEK | {"quantization_config": quantization}).dtypes
    assert (dtypes.attention, dtypes.experts, dtypes.dense_ffn) == (attention, experts, ffn)
    assert (dtypes.kv_cache, dtypes.embedding) == (kv_cache, "bfloat16")


def test_full_precision_is_kept_and_half_counts_as_bfloat16() -> None:
    assert from_hf_config(MIXTRAL | {"torch_dtype": "float32"}).dtypes.attention == "float32"
    assert from_hf_config(MIXTRAL | {"torch_dtype": "float16"}).dtypes == DTypes()


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"quant_method": "fp9"}, r"quant_method = 'fp9'; did you mean 'fp8'"),
        ({}, r"quantization_config: missing key 'quant_method'"),
        ({"quant_method": "awq", "bits": 3}, r"3-bit weights; expected 4 or 8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP5"}, r"quant_algo = 'NVFP5'; did you mean 'NVFP4'"),
        ({"quant_method": "fp8", "ignored_layers": "lm_head"}, r"ignored_layers = 'lm_head'; expected a list"),
        ({"quant_method": "fp8", "ignored_layers": ["re:("]}, r"'re:\(' is not a regular expression"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, r"config_groups is empty"),
        ("fp8", r"quantization_config = 'fp8'; expected an object"),
    ],
)
def test_unknown_quantisation_is_refused_by_name(quantization: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_hf_config(MIXTRAL | {"quantization_config": quantization})


def test_unknown_model_type_names_file_type_nearest_and_allowed(tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(MIXTRAL | {"model_type": "mixtrall"}), encoding="utf-8")
    with pytest.raises(ModelError) as error:
        from_hf_config(path)
    message = str(error.value)
    assert "odd.json: unknown model_type 'mixtrall'; did you mean 'mixtral'" in message
    assert "docs/formats/models.md" in message


def test_missing_model_type_is_named() -> None:
    with pytest.raises(ModelError, match="missing key 'model_type'"):
        from_hf_config({"hidden_size": 64})


def required_keys() -> list[tuple[str, str]]:
    optional = {"head_dim", "num_key_value_heads", "n_shared_experts", "first_k_dense_replace", "model_type"}
    configs = {"mixtral": MIXTRAL, "deepseek_v3": DEEPSEEK}
    return [(name, key) for name, config in configs.items() for key in config if key not in optional | {"q_lora_rank"}]


@pytest.mark.parametrize(("name", "key"), required_keys())
def test_a_missing_key_is_named_with_the_model_type(name: str, key: str) -> None:
    config = copy.deepcopy({"mixtral": MIXTRAL, "deepseek_v3": DEEPSEEK}[name])
    del config[key]
    with pytest.raises(ModelError, match=rf"missing key '{key}'.*model_type '{name}' needs it"):
        from_hf_config(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": "4096"}, r"hidden_size = '4096'; expected an integer"),
        ({"hidden_size": 4096.0}, r"hidden_size = 4096.0; expected an integer"),
        ({"vocab_size": True}, r"vocab_size = True; expected an integer"),
        ({"tie_word_embeddings": 1}, r"tie_word_embeddings = 1; expected true or false"),
        ({"num_attention_heads": 0}, r"num_attention_heads = 0; expected at least 1"),
        ({"num_hidden_layers": 0}, r"num_hidden_layers = 0; expected 1 to 10000"),
        ({"num_hidden_layers": 10**9}, r"num_hidden_layers = 1000000000; expected 1 to 10000"),
        ({"num_experts_per_tok": 9}, r"top_k = 9; expected at most the 8 experts"),
        ({"num_key_value_heads": 5}, r"num_heads = 32 is not a multiple of num_kv_heads = 5"),
        ({"intermediate_size": -1}, r"intermediate = -1; expected at least 1"),
    ],
)
def test_wrong_values_are_explained(change: Config, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_hf_config(MIXTRAL | change)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b'{"model_type": "mixtral", "hidden', r"truncated JSON"),
        (b'{"model_type": "mixtral",\n "hidden_size": }', r"Expecting value at line 2, column 17"),
        (b"[1, 2]", "holds a JSON list; expected an object"),
        (b"\xff\xfe\x00", "is no text in UTF-8"),
        (b"[" * 100_000, "JSON"),
    ],
)
def test_a_malformed_file_is_explained(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as error:
        from_hf_config(path)
    assert "config.json" in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent.json: no such file"):
        from_hf_config(tmp_path / "absent.json")


@given(st.integers(1, len(json.dumps(MIXTRAL))))
def test_a_file_cut_anywhere_gives_one_model_error(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "config.json"
    path.write_text(json.dumps(MIXTRAL)[:-cut], encoding="utf-8")
    with pytest.raises(ModelError, match=r"truncated JSON|the file is empty"):
        from_hf_config(path)
