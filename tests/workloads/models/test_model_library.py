"""The model library: names, aliases, variants, own files, the file format and its round trip."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.errors import ModelError
from workloads.models.checks import check
from workloads.models.file import read_toml, spec_from_table, spec_to_table
from workloads.models.hf.config import FAMILIES, from_hf_config
from workloads.models.library import load_model, model_names, save_model, with_dtypes
from workloads.models.mixers import GroupedQueryAttention, LatentAttention, Mamba2
from workloads.models.spec import DenseFFN, DTypes, Layer, ModelSpec, MoE

EXPECTED = {
    "deepseek-r1",
    "deepseek-v2-lite",
    "deepseek-v3",
    "deepseekmoe-16b",
    "glam-143b",
    "gpt-oss-120b",
    "gpt-oss-20b",
    "grok-1",
    "kimi-k2",
    "llama-3.1-70b",
    "llama-3.1-8b",
    "llama-4-maverick",
    "llama-4-scout",
    "minimax-m2.5",
    "mixtral-8x22b",
    "mixtral-8x7b",
    "phi-3.5-moe",
    "qwen3-235b-a22b",
    "qwen3-30b-a3b",
}

TINY = """
hidden = 64
vocab = 100

[attention.full]
kind = "grouped_query"
num_heads = 4
num_kv_heads = 2
head_dim = 16

[ffn.moe]
kind = "moe"
num_experts = 8
top_k = 2
intermediate = 32

[[layers]]
count = 3
attention = "full"
ffn = "moe"
"""


def test_the_promised_models_are_built_in() -> None:
    assert set(model_names()) >= EXPECTED


@pytest.mark.parametrize("name", model_names())
def test_every_built_in_model_is_sound_and_named_after_its_file(name: str) -> None:
    spec = load_model(name)
    assert check(spec) == []
    assert spec.name == name
    assert spec.source


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("DeepSeek-R1", "deepseek-r1"),
        ("deepseek-ai/DeepSeek-R1", "deepseek-r1"),
        ("MIXTRAL-8X7B", "mixtral-8x7b"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b"),
        ("openai/gpt-oss-120b", "gpt-oss-120b"),
        ("MiniMaxAI/MiniMax-M2", "minimax-m2.5"),
        ("meta-llama/Llama-3.1-70B-Instruct", "llama-3.1-70b"),
    ],
)
def test_aliases_ignore_case_and_organisation(given: str, name: str) -> None:
    assert load_model(given) == load_model(name)


def test_a_variant_sets_dtypes_and_context() -> None:
    plain, fp8 = load_model("qwen3-235b-a22b"), load_model("Qwen/Qwen3-235B-A22B-FP8")
    assert plain.dtypes.experts == "bfloat16"
    assert (fp8.dtypes.attention, fp8.dtypes.experts) == ("fp8_block", "fp8_block")
    assert fp8.layers == plain.layers
    assert load_model("Qwen3-30B-A3B-Instruct-2507").max_context == 262144


def test_every_alias_and_variant_loads_and_means_one_model() -> None:
    seen: dict[str, str] = {}
    for file in (Path(__file__).parents[3] / "workloads" / "models" / "catalogue").glob("*.toml"):
        table = read_toml(file)
        for other in [*table.get("aliases", []), *table.get("variants", {})]:
            assert load_model(other).name == file.stem
            assert seen.setdefault(other.lower(), file.stem) == file.stem


@pytest.mark.parametrize(
    ("name", "attention", "experts", "dense_ffn"),
    [
        ("deepseek-v3", "fp8_block", "fp8_block", "fp8_block"),
        ("deepseek-r1", "fp8_block", "fp8_block", "fp8_block"),
        ("kimi-k2", "fp8_block", "fp8_block", "fp8_block"),
        ("gpt-oss-20b", "bfloat16", "mxfp4", "bfloat16"),
        ("mixtral-8x22b", "bfloat16", "bfloat16", "bfloat16"),
    ],
)
def test_models_come_in_the_precision_that_they_are_published_in(
    name: str, attention: str, experts: str, dense_ffn: str
) -> None:
    dtypes = load_model(name).dtypes
    assert (dtypes.attention, dtypes.experts, dtypes.dense_ffn) == (attention, experts, dense_ffn)
    assert dtypes.embedding == "bfloat16"


def test_unknown_model_names_the_nearest_one() -> None:
    with pytest.raises(ModelError, match=r"unknown model 'mixtrl-8x7b'; did you mean 'mixtral-8x7b'"):
        load_model("mixtrl-8x7b")


def test_dtypes_of_parts_go_before_those_of_all_weights() -> None:
    spec = with_dtypes(load_model("deepseek-v3"), weights="bfloat16", experts="nvfp4", kv_cache="fp8")
    assert spec.dtypes == DTypes(attention="bfloat16", experts="nvfp4", dense_ffn="bfloat16", kv_cache="fp8")


def test_unknown_dtype_names_the_nearest_one() -> None:
    with pytest.raises(ModelError, match=r"mixtral-8x7b: dtypes.attention = 'fp9'; did you mean"):
        with_dtypes(load_model("mixtral-8x7b"), weights="fp9")  # type: ignore[arg-type]


def test_a_model_in_an_own_folder_goes_before_the_built_in_one(tmp_path: Path) -> None:
    (tmp_path / "mixtral-8x7b.toml").write_text(TINY, encoding="utf-8")
    assert load_model("mixtral-8x7b", tmp_path).hidden == 64
    assert load_model("deepseek-v3", tmp_path).hidden == 7168
    assert model_names(tmp_path) == model_names()


def test_a_model_can_build_on_a_built_in_one(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('base = "deepseek-v3"\nvocab = 1000\n', encoding="utf-8")
    assert load_model("mine", tmp_path) == dataclasses.replace(load_model("deepseek-v3"), name="mine", vocab=1000)
    (tmp_path / "worse.toml").write_text('base = "deepsek-v3"\n', encoding="utf-8")
    with pytest.raises(ModelError, match=r"worse.toml: base = 'deepsek-v3'; did you mean 'deepseek-v3'"):
        load_model("worse", tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere: not a folder of models"):
        load_model("mixtral-8x7b", tmp_path / "nowhere")


def test_paths_load_a_toml_a_config_json_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY, encoding="utf-8")
    assert load_model(tmp_path / "tiny.toml").name == "tiny"
    config = {
        "model_type": "mixtral",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "vocab_size": 100,
    }
    checkpoint = tmp_path / "my-mixtral"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load_model(str(checkpoint / "config.json")).name == "my-mixtral"
    assert load_model(checkpoint) == load_model(checkpoint / "config.json")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("hidden = 64", "hiden = 64", r"tiny.toml: unknown key 'hiden'; did you mean 'hidden'"),
        ("hidden = 64", "", r"tiny.toml: missing key 'hidden'"),
        ("hidden = 64", 'hidden = "64"', r"tiny.toml: hidden = '64'; expected an integer"),
        ("hidden = 64", "hidden = 0", r"tiny.toml: hidden = 0; expected at least 1"),
        ("hidden = 64", "hidden = 64\ntied_embeddings = 1", r"tied_embeddings = 1; expected true or false"),
        ("hidden = 64", "hidden = ", r"tiny.toml: not valid TOML"),
        ('kind = "moe"', 'kind = "mo"', r"ffn.moe: kind = 'mo'; did you mean 'moe'"),
        ("top_k = 2", "top_k = 9", r"layer 0: ffn.top_k = 9; expected at most the 8 experts"),
        ("top_k = 2", "topk = 2", r"ffn.moe: unknown key 'topk'; did you mean 'top_k'"),
        ("top_k = 2", "", r"ffn.moe: missing key 'top_k'"),
        ("num_kv_heads = 2", "num_kv_heads = 3", r"num_heads = 4 is not a multiple of num_kv_heads = 3"),
        ('attention = "full"', 'attention = "ful"', r"layers\[0\]: attention = 'ful'; did you mean 'full'"),
        ('attention = "full"', "", r"layers\[0\]: missing key 'attention'"),
        ('attention = "full"\nffn = "moe"', 'attention = "none"\nffn = "none"', r"neither attention nor ffn"),
        ('attention = "full"', "attention = []", r"attention = \[\]; expected at least one name"),
        ("count = 3", "count = 0", r"layers\[0\]: count = 0; expected an integer from 1"),
        ("count = 3", "count = 1000000000", r"count = 1000000000; expected an integer from 1"),
        ("vocab = 100", 'vocab = 100\n[dtypes]\nexperts = "fp7"', r"dtypes.experts = 'fp7'; did you mean"),
        ("vocab = 100", "vocab = 100\n[published]\ntotal = nan", r"published_total = nan; expected a positive number"),
        (
            "vocab = 100",
            'vocab = 100\n[published]\nactive_convention = "al"',
            r"active_convention = 'al'; did you mean",
        ),
        ("[[layers]]", "[layer]", r"tiny.toml: unknown key 'layer'; did you mean 'layers'"),
    ],
)
def test_a_faulty_model_file_is_explained_in_one_message(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TINY
    (tmp_path / "tiny.toml").write_text(TINY.replace(old, new), encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path / "tiny.toml")


def test_a_missing_model_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent.toml: no such file"):
        load_model(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ('variants = "fp8"', "expected a table per name"),
        ('aliases = "other"', "expected a list of names"),
        ("[variants.tiny-fp8]\nexpert = 'fp8'", "unknown key 'expert'; did you mean 'experts'"),
        ("[variants.tiny-fp8]\nexperts = 'fp5'", "dtypes.experts = 'fp5'; did you mean"),
        ("[variants.tiny-fp8]\nmax_context = 0", "max_context = 0; expected at least 1"),
    ],
)
def test_faulty_aliases_and_variants_are_explained(tmp_path: Path, extra: str, message: str) -> None:
    head, rest = TINY.split("\n\n", 1)
    (tmp_path / "tiny.toml").write_text(f"{head}\n{extra}\n\n{rest}", encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        load_model("tiny-fp8", tmp_path)


@pytest.mark.parametrize("name", model_names())
def test_a_saved_model_loads_equal(name: str, tmp_path: Path) -> None:
    spec = load_model(name)
    save_model(spec, tmp_path / "copy.toml")
    assert load_model(tmp_path / "copy.toml") == spec


def test_saving_where_nothing_can_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be written: No such file or directory"):
        save_model(load_model("mixtral-8x7b"), tmp_path / "nowhere" / "model.toml")


def test_the_writer_finds_the_repeating_pattern_of_layers() -> None:
    runs = spec_to_table(load_model("gpt-oss-120b"))["layers"]
    assert runs == [{"count": 36, "attention": ["grouped_query_1", "grouped_query_2"], "ffn": "moe"}]


blocks = st.sampled_from(
    [
        Layer(attention=GroupedQueryAttention(num_heads=4, num_kv_heads=2, head_dim=8), ffn=DenseFFN(intermediate=8)),
        Layer(attention=Mamba2(num_heads=2, head_dim=4, state_size=4, num_groups=1, conv_kernel=4), ffn=None, norms=1),
        Layer(attention=None, ffn=MoE(num_experts=4, top_k=2, intermediate=8), norms=1),
        Layer(
            attention=LatentAttention(
                num_heads=2, q_lora_rank=None, kv_lora_rank=4, qk_nope_head_dim=4, qk_rope_head_dim=2, v_head_dim=4
            ),
            ffn=MoE(num_experts=4, top_k=2, intermediate=8, shared_intermediate=8, shared_gate=True),
        ),
    ]
)


@given(st.lists(blocks, min_size=1, max_size=40))
def test_any_order_of_layers_survives_the_table(layers: list[Layer]) -> None:
    spec = ModelSpec(name="any", hidden=16, vocab=10, layers=tuple(layers))
    assert spec_from_table(spec_to_table(spec), "any") == spec


def test_check_lists_every_problem_at_once() -> None:
    moe = MoE(num_experts=6, top_k=9, intermediate=0, num_groups=4, top_k_groups=5)
    spec = ModelSpec(name="bad", hidden=-1, vocab=10, layers=(Layer(attention=None, ffn=moe),))
    problems = check(spec)
    for part in ("hidden = -1", "top_k = 9", "intermediate = 0", "multiple of num_groups = 4", "top_k_groups = 5"):
        assert any(part in problem for problem in problems)


def test_group_limited_routing_must_reach_enough_experts() -> None:
    moe = MoE(num_experts=16, top_k=8, intermediate=8, num_groups=8, top_k_groups=2)
    spec = ModelSpec(name="bad", hidden=8, vocab=10, layers=(Layer(attention=None, ffn=moe),))
    assert check(spec) == ["layer 0: ffn.top_k = 8; expected at most the 4 experts of 2 groups"]


def test_a_model_without_layers_is_refused() -> None:
    assert check(ModelSpec(name="empty", hidden=8, vocab=10, layers=())) == [
        "layers is empty; expected at least one layer"
    ]


DATA = Path(__file__).parents[2] / "data"
SHARED = Path(__file__).parents[3].parent / "shared" / "models"
PUBLISHED = {file.stem: file for folder in (SHARED, DATA / "models") for file in sorted(folder.glob("*.json"))}


@pytest.mark.parametrize("file", PUBLISHED.values(), ids=PUBLISHED)
def test_built_in_models_equal_the_published_configurations(file: Path) -> None:
    imported, built_in = from_hf_config(file), load_model(file.stem)
    for field in ("hidden", "vocab", "layers", "tied_embeddings", "mtp_layers", "max_context", "dtypes"):
        assert getattr(imported, field) == getattr(built_in, field), field
    assert imported.published_active_convention == built_in.published_active_convention


DOCS = Path(__file__).parents[3] / "docs" / "formats" / "models.md"


def test_the_model_file_in_the_documentation_is_the_built_in_model(tmp_path: Path) -> None:
    example = DOCS.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    (tmp_path / "gpt-oss-20b.toml").write_text(example, encoding="utf-8")
    assert load_model(tmp_path / "gpt-oss-20b.toml") == load_model("gpt-oss-20b")


def test_the_documentation_lists_every_model_type() -> None:
    known = DOCS.read_text(encoding="utf-8").split("Known types:")[1].split("`quantization_config`")[0]
    assert sorted(re.findall(r"`([^`]+)`", known)) == sorted(FAMILIES)
