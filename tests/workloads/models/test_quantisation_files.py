"""Storage formats from every file of a checkpoint and every dialect, part by part."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.errors import ModelError
from workloads.models.dtypes import DTYPE_BYTES
from workloads.models.file import save_model
from workloads.models.hf.config import from_hf_config
from workloads.models.hf.schemes import fits_name
from workloads.models.library import load_model, with_dtypes
from workloads.models.sizes import weight_bytes

Config = dict[str, Any]

#: A small model with every part: attention, dense FFN, routed and shared experts.
TINY: Config = {
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
INT4 = {"num_bits": 4, "type": "int", "group_size": 32, "strategy": "group"}
FP8_BLOCK = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}
NVFP4 = {"num_bits": 4, "type": "float", "group_size": 16}
ATTENTION = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
MXFP4 = {"dtype": "fp4", "qscheme": "per_group", "group_size": 32, "scale_format": "e8m0"}


def formats(quantization: Config | None, **more: Any) -> tuple[str, ...]:
    """Read attention, routed experts, shared experts, dense FFN and KV cache."""
    dtypes = from_hf_config(TINY | {"quantization_config": quantization} | more).dtypes
    return dtypes.attention, dtypes.experts, dtypes.shared, dtypes.dense_ffn, dtypes.kv_cache


BF16 = "bfloat16"
DIALECTS: dict[str, tuple[Config, tuple[str, ...]]] = {
    "shared experts left alone": (
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"targets": ["Linear"], "weights": INT4}}}
        | {"ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", r"re:.*mlp\.(gate|up|down)_proj.*"]},
        (BF16, "int4", BF16, BF16, BF16),
    ),
    "groups by pattern": (
        {
            "quant_method": "compressed-tensors",
            "format": "mixed-precision",
            "config_groups": {
                "group_0": {"targets": ["re:.*self_attn.*"], "weights": FP8_BLOCK},
                "group_1": {"targets": [r"re:.*mlp\.experts\..*_proj$"], "weights": NVFP4},
            },
        },
        ("fp8_block", "nvfp4", BF16, BF16, BF16),
    ),
    "modelopt without a method": (
        {"quant_algo": "FP8", "kv_cache_scheme": "FP8", "ignore": ["lm_head"], "producer": {"name": "modelopt"}},
        ("fp8", "fp8", "fp8", "fp8", "fp8"),
    ),
    "modelopt with a cache of four bits": (
        {"quant_method": "modelopt_fp4", "quant_algo": "NVFP4", "kv_cache_quant_algo": "NVFP4"},
        ("nvfp4", "nvfp4", "nvfp4", "nvfp4", "nvfp4"),
    ),
    "mixed precision by layer": (
        {
            "quant_method": "modelopt",
            "quant_algo": "MIXED_PRECISION",
            "quantized_layers": {f"model.layers.{i}.mlp.experts": {"quant_algo": "NVFP4"} for i in range(4)}
            | {f"model.layers.{i}.mlp.shared_experts.up_proj": {"quant_algo": "FP8"} for i in range(4)}
            | {f"model.layers.{i}.mlp.shared_experts.gate_proj": {"quant_algo": "FP8"} for i in range(4)},
        },
        (BF16, "nvfp4", "fp8", BF16, BF16),
    ),
    "mixed precision by groups": (
        {
            "quant_algo": "MIXED_PRECISION",
            "config_groups": {
                "group_0": {"weights": {"num_bits": 8, "type": "float"}, "targets": ["*.self_attn.*"]},
                "group_1": {"weights": NVFP4, "targets": ["*.mlp.experts.*"]},
            },
        },
        ("fp8", "nvfp4", BF16, BF16, BF16),
    ),
    "quark": (
        {
            "quant_method": "quark",
            "global_quant_config": {"weight": MXFP4},
            "layer_quant_config": {"*self_attn*": {"weight": {"dtype": "fp8_e4m3", "qscheme": "per_channel"}}},
            "exclude": ["lm_head", "re:.*shared_experts.*"],
            "kv_cache_quant_config": {"*kv_proj": {"output_tensors": {"dtype": "fp8_e4m3"}}},
        },
        ("fp8", "mxfp4", BF16, "mxfp4", "fp8"),
    ),
    "auto-round": (
        {
            "quant_method": "auto-round",
            "bits": 4,
            "group_size": 128,
            "sym": True,
            "extra_config": {
                f"model.layers.{i}.self_attn.{name}": {"bits": 16} for i in range(4) for name in ATTENTION
            },
        },
        (BF16, "int4", "int4", "int4", BF16),
    ),
    "auto-round of mxfp4": (
        {"quant_method": "intel/auto-round", "bits": 4, "data_type": "mx_fp", "group_size": 32},
        ("mxfp4", "mxfp4", "mxfp4", "mxfp4", BF16),
    ),
    "gptq that skips and changes modules": (
        {
            "quant_method": "gptq",
            "bits": 4,
            "group_size": 128,
            "dynamic": {"-:.*self_attn.*": {}, "+:.*shared_experts.*": {"bits": 8}},
        },
        (BF16, "int4", "int8", "int4", BF16),
    ),
    "gptq in Marlin's layout": ({"quant_method": "gptq_marlin", "bits": 8}, ("int8", "int8", "int8", "int8", BF16)),
    "awq in Marlin's layout": ({"quant_method": "awq_marlin", "bits": 4}, ("int4", "int4", "int4", "int4", BF16)),
    "awq of the older form": (
        {"w_bit": 4, "q_group_size": 128, "zero_point": True, "modules_to_not_convert": ["self_attn"]},
        (BF16, "int4", "int4", "int4", BF16),
    ),
    "w4afp8": ({"quant_method": "w4afp8"}, ("fp8_block", "int4", "fp8_block", "fp8_block", BF16)),
    "bitsandbytes": ({"load_in_4bit": True}, ("int4", "int4", "int4", "int4", BF16)),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_gives_each_part_its_format(name: str) -> None:
    quantization, expected = DIALECTS[name]
    assert formats(quantization) == expected


def test_the_experts_of_deepseek_v4_have_a_key_of_their_own() -> None:
    blocks = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    assert formats(blocks, expert_dtype="fp4") == ("fp8_block", "mxfp4", "fp8_block", "fp8_block", BF16)
    with pytest.raises(ModelError, match="expert_dtype = 'fp3'; expected one of fp4"):
        formats(blocks, expert_dtype="fp3")


def test_mixed_precision_that_names_no_modules_says_what_is_missing() -> None:
    with pytest.raises(
        ModelError, match=r"no quantized_layers says which; expected it here or in hf_quant_config.json"
    ):
        formats({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "ignore": ["lm_head"]})


def checkpoint(folder: Path, config: Config, **files: Config) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_a_quantisation_file_beside_the_configuration_is_read(tmp_path: Path) -> None:
    left_alone = [f"model.layers.{i}.self_attn.{m}" for i in range(4) for m in ("q_a_proj", "q_b_proj", "kv_b_proj")]
    beside = {
        "producer": {"name": "modelopt"},
        "quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "exclude_modules": left_alone},
    }
    folder = checkpoint(tmp_path / "tiny-NVFP4", TINY, hf_quant_config=beside)
    for source in (folder, folder / "config.json"):
        spec = load_model(source)
        assert (spec.dtypes.experts, spec.dtypes.shared, spec.dtypes.kv_cache) == ("nvfp4", "nvfp4", "fp8")
    assert not any("no file confirms" in note for note in spec.notes)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("quantize_config", {"bits": 4, "group_size": 128, "desc_act": False}),
        ("quant_config", {"w_bit": 4, "q_group_size": 128, "zero_point": True, "version": "GEMM"}),
    ],
)
def test_older_quantisation_files_are_read_too(tmp_path: Path, name: str, content: Config) -> None:
    spec = load_model(checkpoint(tmp_path / "tiny", TINY, **{name: content}))
    assert (spec.dtypes.attention, spec.dtypes.experts) == ("int4", "int4")


def test_files_that_disagree_are_told_and_the_configuration_rules(tmp_path: Path) -> None:
    config = TINY | {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}
    beside = {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}}
    spec = load_model(checkpoint(tmp_path / "tiny", config, hf_quant_config=beside))
    assert (spec.dtypes.experts, spec.dtypes.kv_cache) == ("fp8", "bfloat16")
    assert any("disagree on the quantisation" in note for note in spec.notes)


def test_files_that_agree_complete_each_other(tmp_path: Path) -> None:
    config = TINY | {"quantization_config": {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}}
    layers = {f"model.layers.{i}.mlp.experts": {"quant_algo": "NVFP4"} for i in range(4)}
    beside = {
        "quantization": {"quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": "FP8", "quantized_layers": layers}
    }
    spec = load_model(checkpoint(tmp_path / "tiny", config, hf_quant_config=beside))
    assert (spec.dtypes.experts, spec.dtypes.attention, spec.dtypes.kv_cache) == ("nvfp4", BF16, "fp8")
    assert spec.notes == ()


def test_what_the_original_of_a_checkpoint_says_gives_way_to_the_file_beside_it(tmp_path: Path) -> None:
    inner = {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": INT4}},
    }
    config = {"model_type": "kimi_k25", "text_config": TINY | {"quantization_config": inner}}
    beside = {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}}
    spec = load_model(checkpoint(tmp_path / "tiny-NVFP4", config, hf_quant_config=beside))
    assert (spec.dtypes.experts, spec.dtypes.kv_cache) == ("nvfp4", "fp8")
    assert any("disagree on the quantisation" in note for note in spec.notes)


def test_lists_of_other_towers_and_of_an_lm_head_leave_the_layers_alone() -> None:
    layers = {"model.layers.1.mlp.experts": {"quant_algo": "NVFP4"}, "lm_head": {"quant_algo": "FP8"}}
    mixed = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    spec = from_hf_config(TINY | {"quantization_config": mixed})
    assert dict(spec.dtypes.stored)["lm_head"] == 1.0
    fp8 = {"quant_method": "fp8", "ignored_layers": ["vision_tower.layers.0.self_attn.q_proj", "mtp.layers.1.mlp"]}
    assert formats(fp8) == ("fp8", "fp8", "fp8", "fp8", BF16)
    assert from_hf_config(TINY | {"quantization_config": fp8}).notes == ()
    whole = {"quant_method": "awq", "bits": 4, "modules_to_not_convert": [f"model.layers.{i}." for i in range(4)]}
    assert formats(whole) == (BF16, BF16, BF16, BF16, BF16)


def test_a_part_in_two_formats_is_sized_exactly_and_told() -> None:
    kept = [f"model.layers.{i}.self_attn.{m}" for i in range(4) for m in ("q_a_proj", "kv_a_proj_with_mqa")]
    config = {"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": kept}
    spec = from_hf_config(TINY | {"quantization_config": config})
    whole, none = with_dtypes(spec, attention="nvfp4"), with_dtypes(spec, attention="bfloat16")
    matrices = 4 * (64 * 32 + 64 * 20)
    difference = weight_bytes(spec)["attention"] - weight_bytes(whole)["attention"]
    assert difference == pytest.approx(matrices * (2 - 0.5625))
    assert weight_bytes(spec)["attention"] < weight_bytes(none)["attention"]
    assert any("of the weights of attention are nvfp4, the rest bfloat16" in note for note in spec.notes)


def test_scales_are_counted_by_the_group_that_the_file_gives() -> None:
    spec = from_hf_config(TINY | {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}})
    experts = 3 * 16 * 3 * 64 * 32
    assert weight_bytes(spec)["routed_experts"] == pytest.approx(experts * (0.5 + 2 / 128))
    rows = from_hf_config(TINY | {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": -1}})
    assert weight_bytes(rows)["routed_experts"] == pytest.approx(experts * 0.5)
    zeros = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
    asymmetric = from_hf_config(TINY | {"quantization_config": zeros})
    assert weight_bytes(asymmetric)["routed_experts"] == pytest.approx(experts * (0.5 + 2.5 / 128))


@pytest.mark.parametrize("name", ["tiny-NVFP4", "tiny-FP8", "tiny-AWQ", "tiny-w4a16", "tiny-GPTQ-int4", "tiny-int8"])
def test_a_name_that_promises_a_format_no_file_confirms_is_told(tmp_path: Path, name: str) -> None:
    spec = load_model(checkpoint(tmp_path / name, TINY))
    assert any(f"the name '{name}' says" in note for note in spec.notes)


def test_a_name_that_promises_what_the_files_hold_is_not(tmp_path: Path) -> None:
    config = TINY | {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    assert load_model(checkpoint(tmp_path / "tiny-FP8", config)).notes == ()
    assert load_model(checkpoint(tmp_path / "tiny-Instruct-2507", TINY)).notes == ()


CASES = Path(__file__).parents[3].parent / "shared" / "cases"


@pytest.mark.skipif(not CASES.is_dir(), reason="the published configurations are not at hand")
def test_a_published_checkpoint_of_two_files_has_the_size_of_both() -> None:
    spec = load_model(CASES / "sidecar_nvfp4")
    assert sum(weight_bytes(spec).values()) == pytest.approx(386e9, rel=0.01)
    assert load_model(CASES / "modelopt031_no_quant_method.json").dtypes.attention == "fp8"
    shared = load_model(CASES / "kimi_k25_shared_bf16.json")
    assert sum(weight_bytes(shared).values()) == pytest.approx(594.2e9, rel=0.001)


def test_more_patterns_than_can_be_tried_are_refused() -> None:
    many = [f"re:.*layers.{number}$" for number in range(20_000)]
    with pytest.raises(ModelError, match="ignore has 20,000 patterns, expected at most 250"):
        formats({"quant_method": "modelopt", "quant_algo": "FP8", "ignore": many})


@given(
    st.lists(st.sampled_from(["a", "ab", "layers", "1", "11", ""]), min_size=1, max_size=4).map(".".join),
    st.lists(st.sampled_from(["a", "ab", "layers", "1", "11", "b"]), min_size=1, max_size=4).map(".".join),
)
def test_a_plain_name_fits_where_its_parts_follow_each_other(pattern, module):
    expected = re.search(r"(?:^|\.)" + re.escape(pattern.rstrip(".")) + r"(?:\.|$)", module) is not None
    assert fits_name(pattern, module) == expected


@pytest.mark.parametrize("method", ["gptq", "awq", "hqq"])
@pytest.mark.parametrize("group", [0, -2])
def test_a_group_of_no_weights_is_refused(method: str, group: int) -> None:
    with pytest.raises(ModelError, match=rf"group_size = {group}; expected -1 .* or a number above 0"):
        formats({"quant_method": method, "bits": 4, "nbits": 4, "group_size": group})


@pytest.mark.parametrize(
    ("block", "size"), [([64, 64], 1 + 4 / 64**2), ([1, 128], 1 + 4 / 128), ([128, 128], 1 + 4 / 128**2)]
)
def test_scales_are_counted_by_the_blocks_of_the_file(block: list[int], size: float, tmp_path: Path) -> None:
    spec = from_hf_config(TINY | {"quantization_config": {"quant_method": "fp8", "weight_block_size": block}})
    held = dict(spec.dtypes.stored).get("routed_experts", DTYPE_BYTES[spec.dtypes.experts])
    assert (spec.dtypes.experts, held) == ("fp8_block", size)
    own = block != [128, 128]
    assert dict(spec.dtypes.blocks).get("routed_experts") == (tuple(block) if own else None)
    assert len([note for note in spec.notes if "weights share a scale" in note]) == own
    save_model(spec, tmp_path / "tiny.toml")
    assert load_model(tmp_path / "tiny.toml").dtypes == spec.dtypes
    assert with_dtypes(spec, weights="fp8_block").dtypes.blocks == ()


@pytest.mark.parametrize("block", [[128], [128, 0], [128, 128, 128], "wide", [True, 128], 128, {"rows": 128}])
def test_blocks_that_are_none_are_refused_by_their_key(block: Any) -> None:
    with pytest.raises(ModelError, match=r"weight_block_size = .* expected two numbers above 0, such as \[128, 128\]"):
        formats({"quant_method": "fp8", "weight_block_size": block})


@pytest.mark.parametrize(
    "told",
    [
        {"quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 64}}}},
        {"quant_type": "int4_weight_only", "quant_type_kwargs": {"group_size": 64}},
    ],
)
def test_groups_of_torchao_have_a_scale_and_a_zero_point(told: Config) -> None:
    spec = from_hf_config(TINY | {"quantization_config": {"quant_method": "torchao", **told}})
    assert dict(spec.dtypes.blocks)["routed_experts"] == (1, 64)
    assert dict(spec.dtypes.stored).get("routed_experts", DTYPE_BYTES["int4"]) == 0.5 + 4 / 64


@pytest.mark.parametrize("blocks", ["routed = [64, 64]", "routed_experts = [64]", "routed_experts = 64"])
def test_blocks_of_a_model_file_are_two_numbers_of_a_part(blocks: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    save_model(from_hf_config(TINY), path)
    path.write_text(path.read_text(encoding="utf-8") + f"\n[dtypes.blocks]\n{blocks}\n", encoding="utf-8")
    with pytest.raises(ModelError, match=r"dtypes\.blocks"):
        load_model(path)
