"""What each stack says of a deployment: refused where the engine refuses it, and nothing where it serves it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from simulator.conditions import load_conditions
from simulator.feasibility.asked import Asked, ServerFinding
from simulator.feasibility.rules import server_findings
from simulator.parallelism import Parallelism
from simulator.stack import load_stack
from workloads.models.library import load_model, with_dtypes
from workloads.models.mixers import CompressedAttention, GatedDeltaNet, Mamba2
from workloads.models.spec import ModelSpec

ENGINES = ("vllm", "sglang")


def said(
    stack: str, model: str | ModelSpec, split: dict[str, int], *, exchange: str | None = None, **more: Any
) -> list[ServerFinding]:
    """Ask a stack; ``more`` overrides what is asked, ``weights`` and ``kv_cache`` the model's dtypes."""
    dtypes = {key: more.pop(key) for key in ("weights", "kv_cache", "attention") if key in more}
    spec = load_model(model) if isinstance(model, str) else model
    profile = load_stack(stack)
    if exchange is not None:
        profile = replace(profile, exchange=exchange)  # type: ignore[arg-type]
    asked = Asked(
        model=with_dtypes(spec, **dtypes) if dtypes else spec,
        split=Parallelism(**split),
        stack=replace(profile, overlap=more.pop("overlap", profile.overlap)),
        **{"device": "h100-sxm", "architecture": "Hopper", "exchange_chosen": True, **more},
    )
    return list(server_findings(asked, load_conditions(stack).conditions))


def refused(stack: str, model: str | ModelSpec, split: dict[str, int], **more: Any) -> list[str]:
    return [finding.message for finding in said(stack, model, split, **more) if finding.effect == "refuses"]


@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize(
    ("model", "split", "width", "remedy"),
    [
        ("qwen3-235b-a22b", {"tp": 8}, "1536/8 = 192", "use ep = 8, which keeps experts whole, or tp = 4"),
        ("qwen3-30b-a3b", {"tp": 4}, "768/4 = 192", "use ep = 4, which keeps experts whole, or tp = 2"),
        ("minimax-m2.5", {"tp": 8}, "1536/8 = 192", "use ep = 8, which keeps experts whole, or tp = 4"),
        ("qwen3-coder-480b", {"tp": 8, "pp": 2}, "2560/8 = 320", "use ep = 8, which keeps experts whole, or tp = 4"),
    ],
)
def test_experts_that_break_the_scale_blocks_are_refused_with_what_would_load(
    stack: str, model: str, split: dict[str, int], width: str, remedy: str
) -> None:
    (finding,) = (f for f in said(stack, model, split, weights="fp8_block") if f.effect == "refuses")
    assert "routed experts in fp8_block: " + width in finding.message
    assert (finding.remedy, finding.where) == (remedy, "parallelism")
    assert finding.source.split("; ")[0] in finding.message


@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize(
    ("model", "split"),
    [
        ("qwen3-235b-a22b", {"tp": 8, "ep": 8}),
        ("qwen3-235b-a22b", {"tp": 4}),
        ("qwen3-30b-a3b", {"dp": 8, "ep": 8}),
        ("deepseek-v3", {"tp": 16}),
        ("deepseek-v3", {"tp": 8, "ep": 8}),
        ("deepseek-v3", {"dp": 32, "ep": 32}),
        ("minimax-m2.5", {"tp": 4}),
    ],
)
def test_whole_blocks_are_served(stack: str, model: str, split: dict[str, int]) -> None:
    assert refused(stack, model, split, weights="fp8_block") == []


def test_what_is_not_in_blocks_may_be_divided_anyhow() -> None:
    for dtype in ("bfloat16", "fp8"):
        assert refused("vllm", "qwen3-235b-a22b", {"tp": 8}, weights=dtype) == []


@pytest.mark.parametrize("stack", ENGINES)
def test_shared_experts_and_dense_layers_are_divided_even_where_experts_are_whole(stack: str) -> None:
    split = {"tp": 32, "ep": 32}
    parts = [message.split(" in fp8_block")[0].rsplit(": ")[-1] for message in refused(stack, "deepseek-v3", split)]
    assert parts == ["dense ffn", "shared experts"]


@pytest.mark.parametrize("stack", ENGINES)
def test_shared_experts_are_whole_where_tokens_travel_to_experts(stack: str) -> None:
    assert not [m for m in refused(stack, "deepseek-v3", {"tp": 32, "dp": 2, "ep": 64}) if "shared experts" in m]


@pytest.mark.parametrize("stack", ENGINES)
def test_merged_matrices_need_whole_blocks_even_on_one_device(stack: str) -> None:
    (message,) = refused(stack, "deepseek-v2-lite", {}, weights="fp8_block")
    assert "dense ffn in fp8_block: 10944 wide on each rank, no multiple of 128 (gate and up (output))" in message


@pytest.mark.parametrize("stack", ENGINES)
def test_attention_needs_whole_blocks_in_rows_and_columns(stack: str) -> None:
    (message,) = refused(stack, "gpt-oss-120b", {"tp": 8}, attention="fp8_block")
    assert "attention in fp8_block" in message
    assert "keys and values (output)" in message
    assert refused(stack, "llama-3.1-70b", {"tp": 8}, weights="fp8_block") == []


@pytest.mark.parametrize("stack", ENGINES)
def test_groups_of_sixteen_must_lie_on_one_rank(stack: str) -> None:
    more = {"weights": "nvfp4", "architecture": "Blackwell"}
    (message,) = refused(stack, "deepseek-v2-lite", {"tp": 8}, **more)
    assert "dense ffn in nvfp4: 10944/8 = 1368 wide on each rank, no multiple of 16 (down (input))" in message
    assert refused(stack, "deepseek-v2-lite", {"tp": 4}, **more) == []


def grouped(group: int) -> ModelSpec:
    """A dense model of 29,568 wide layers in 4 bits, with a scale per so many weights."""
    model = load_model("llama-3.1-70b")
    layers = tuple(replace(each, ffn=replace(each.ffn, intermediate=29568)) for each in model.layers)  # type: ignore[type-var]
    stored = tuple((part, 0.5 + 2.5 / group) for part in ("attention", "dense_ffn"))
    dtypes = replace(model.dtypes, attention="int4", dense_ffn="int4", stored=stored)
    return replace(model, layers=layers, dtypes=dtypes)


@pytest.mark.parametrize("stack", ENGINES)
def test_the_groups_that_a_file_tells_must_lie_on_one_rank(stack: str) -> None:
    (message,) = refused(stack, grouped(128), {"tp": 4})
    assert "29568/4 = 7392 wide on each rank, no multiple of 128 (down (input))" in message
    assert refused(stack, grouped(32), {"tp": 4}) == []
    assert refused(stack, grouped(128), {}) == []


@pytest.mark.parametrize("group", [32, 128])
def test_shapes_that_marlin_does_not_take_are_warned_of(group: int) -> None:
    warned = [f.message for f in said("vllm", grouped(group), {"tp": 4}) if f.effect == "warns"]
    assert any("no multiple of 128" in message or "no multiple of 64" in message for message in warned)
    assert any("Marlin takes no such shape" in message for message in warned)


def test_experts_of_int4_that_marlin_does_not_take_run_on_another_kernel() -> None:
    found = said("vllm", "deepseek-v2-lite", {"tp": 4}, weights="int4")
    assert any("routed experts in int4: 1408/4 = 352" in f.message and f.effect == "warns" for f in found)


def test_groups_of_experts_must_lie_on_one_rank() -> None:
    model = with_dtypes(load_model("qwen3-30b-a3b"), weights="int4")
    model = replace(model, dtypes=replace(model.dtypes, stored=(("routed_experts", 0.5 + 2.0 / 128),)))
    (finding,) = (f for f in said("vllm", model, {"tp": 4}) if f.effect == "refuses")
    assert "routed experts in int4: 768/4 = 192 wide on each rank, no multiple of 128" in finding.message
    assert finding.remedy == "use ep = 4, which keeps experts whole, or tp = 2"
    assert refused("vllm", model, {"tp": 4, "ep": 4}) == refused("vllm", model, {"tp": 2}) == []


def own_blocks(block: tuple[int, int]) -> ModelSpec:
    """Qwen3-30B-A3B in fp8 with a scale per block of another size."""
    model = with_dtypes(load_model("qwen3-30b-a3b"), weights="fp8_block")
    blocks = tuple((part, block) for part in ("attention", "routed_experts"))
    return replace(model, dtypes=replace(model.dtypes, blocks=blocks))


@pytest.mark.parametrize("stack", ENGINES)
@pytest.mark.parametrize(("block", "tp", "no"), [((64, 64), 4, 0), ((64, 64), 8, 2), ((1, 128), 4, 1), ((1, 64), 4, 0)])
def test_the_blocks_of_the_checkpoint_decide_what_divides(stack: str, block: tuple[int, int], tp: int, no: int) -> None:
    found = [message for message in refused(stack, own_blocks(block), {"tp": tp}) if "routed experts" in message]
    assert len(found) == (no > 0)
    assert all(f"no multiple of {block[1]}" in message for message in found)
    assert all("gate and up" in message for message in found) == (no != 1)


def test_tensorrt_llm_takes_blocks_of_one_size() -> None:
    (message,) = refused("trtllm", own_blocks((64, 64)), {"tp": 4})
    assert "one scale for 64 x 64 weights (attention, routed experts); it takes 128 x 128" in message
    assert refused("trtllm", own_blocks((128, 128)), {"tp": 2}) == []


@pytest.mark.parametrize(("stack", "effect"), [("vllm", "refuses"), ("sglang", "warns"), ("trtllm", "refuses")])
@pytest.mark.parametrize("tp", [4, 8])
def test_experts_without_a_whole_group_are_told_by_every_stack(stack: str, effect: str, tp: int) -> None:
    model = with_dtypes(load_model("qwen3-30b-a3b"), weights="int4")
    model = replace(model, dtypes=replace(model.dtypes, blocks=(("routed_experts", (1, 128)),)))
    found = [f for f in said(stack, model, {"tp": tp}) if "no multiple of 128" in f.message and "routed" in f.message]
    assert [finding.effect for finding in found] == [effect]
    assert [
        f for f in said(stack, model, {"tp": 2}) if "no multiple of 128" in f.message and "routed" in f.message
    ] == []


@pytest.mark.parametrize(
    ("stack", "method", "effects"),
    [
        ("trtllm", "bitsandbytes", ["refuses"]),
        ("trtllm", "hqq", ["refuses"]),
        ("sglang", "hqq", ["refuses"]),
        ("sglang", "bitsandbytes", ["warns"]),
        ("vllm", "bitsandbytes", []),
        ("trtllm", "", []),
    ],
)
def test_methods_of_quantisation_that_a_server_does_not_read(stack: str, method: str, effects: list[str]) -> None:
    model = replace(load_model("qwen3-30b-a3b"), quant_method=method)
    assert [f.effect for f in said(stack, model, {})] == effects
    assert said(stack, model, {}, weights="int8") == []  # quantised anew, by something else


def test_tensorrt_llm_tells_what_it_leaves_out_or_has_no_kernel_for() -> None:
    found = said("trtllm", "mixtral-8x7b", {"tp": 2}, redundant_slots=8)
    assert [(f.effect, "silently left out" in f.message) for f in found] == [("warns", True)]
    found = said("trtllm", "gpt-oss-120b", {"dp": 8, "ep": 8}, exchange="deepep_low_latency")
    assert ["hidden size of 2880" in f.message for f in found if f.effect == "refuses"] == [True]
    mixer = Mamba2(num_heads=64, head_dim=64, state_size=128, num_groups=8, conv_kernel=4)
    model = load_model("llama-3.1-8b")
    model = replace(model, layers=(replace(model.layers[0], attention=mixer), *model.layers[1:]))
    assert ["tp = 16 does not divide the 8 Mamba groups" in f.message for f in said("trtllm", model, {"tp": 16})] == [
        True
    ]


@pytest.mark.parametrize(
    ("stack", "dtype", "architecture", "effect", "why"),
    [
        ("vllm", "fp8_block", "Ampere", "warns", "Marlin widens them to 16 bits"),
        ("vllm", "fp8", "Ampere", "warns", "Marlin widens them to 16 bits"),
        ("vllm", "nvfp4", "Hopper", "warns", "Marlin widens them to 16 bits"),
        ("vllm", "nvfp4", "Ampere", "warns", "Marlin widens them to 16 bits"),
        ("vllm", "int8", "Blackwell", "refuses", "end with Hopper"),
        ("sglang", "fp8_block", "Ampere", "refuses", "its Triton experts need fp8 arithmetic"),
        ("sglang", "nvfp4", "Hopper", "warns", "Marlin widens them to 16 bits"),
        ("trtllm", "nvfp4", "Hopper", "refuses", "begins with Blackwell"),
        ("trtllm", "fp8", "Ampere", "refuses", "Ampere runs 16 bits, int8 and int4"),
        ("trtllm", "mxfp4", "Ampere", "refuses", "Ampere runs 16 bits, int8 and int4"),
    ],
)
def test_weights_that_a_generation_does_not_compute_as_stored(
    stack: str, dtype: str, architecture: str, effect: str, why: str
) -> None:
    found = said(stack, "qwen3-235b-a22b", {"tp": 4}, weights=dtype, architecture=architecture)
    (finding, *_) = (f for f in found if f.where == "model.weights")
    assert finding.effect == effect
    assert why in finding.message


@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize(("dtype", "architecture"), [("fp8", "Hopper"), ("int4", "Ampere"), ("nvfp4", "Blackwell")])
def test_weights_that_a_generation_computes_as_stored_are_served(stack: str, dtype: str, architecture: str) -> None:
    found = said(stack, "qwen3-235b-a22b", {"tp": 4}, weights=dtype, architecture=architecture)
    assert [f for f in found if f.where == "model.weights"] == []


@pytest.mark.parametrize(("stack", "dtype"), [("vllm", "mxfp4"), ("sglang", "int8"), ("trtllm", "int4")])
def test_formats_of_the_cache_that_a_server_does_not_know_are_refused(stack: str, dtype: str) -> None:
    (finding,) = said(stack, "qwen3-30b-a3b", {}, kv_cache=dtype)
    assert (finding.effect, finding.where) == ("refuses", "model.kv_cache")
    assert finding.remedy == "use model.kv_cache = 'bfloat16' or 'fp8'"
    assert said(stack, "qwen3-30b-a3b", {}, kv_cache="fp8") == []


def test_caches_in_fp8_on_ampere_depend_on_the_attention() -> None:
    more = {"weights": "int4", "kv_cache": "fp8", "architecture": "Ampere"}
    (latent,) = refused("vllm", "deepseek-v3", {"tp": 16}, **more)
    assert "need compute capability 8.9" in latent
    (grouped_query,) = said("vllm", "qwen3-30b-a3b", {}, **more)
    assert grouped_query.effect == "warns"
    assert said("vllm", "qwen3-30b-a3b", {}, **more | {"architecture": "Hopper"}) == []


def test_sparse_latent_attention_is_refused_on_ampere() -> None:
    assert any(
        "sparse latent attention" in m for m in refused("vllm", "deepseek-v3.2", {"tp": 16}, architecture="Ampere")
    )
    assert refused("vllm", "deepseek-v3.2", {"tp": 8}) == []


def test_vllm_spreads_experts_over_all_ranks_or_none() -> None:
    (message,) = refused("vllm", "mixtral-8x7b", {"tp": 8, "ep": 4})
    assert "ep = 4 of tp x dp = 8 ranks" in message
    assert (
        refused("sglang", "mixtral-8x7b", {"tp": 8, "ep": 4})
        == refused("trtllm", "mixtral-8x7b", {"tp": 8, "ep": 4})
        == []
    )


def test_tensorrt_llm_repeats_attention_on_all_ranks_or_none() -> None:
    (message,) = refused("trtllm", "deepseek-v3", {"tp": 2, "dp": 4, "ep": 8})
    assert "tp = 2 with dp = 4" in message
    assert refused("trtllm", "deepseek-v3", {"dp": 8, "ep": 8}) == []


@pytest.mark.parametrize("stack", ENGINES)
@pytest.mark.parametrize(
    ("mixer", "said_of"),
    [
        (
            GatedDeltaNet(num_key_heads=16, num_value_heads=64, key_head_dim=128, value_head_dim=128, conv_kernel=4),
            "16 key heads of linear attention",
        ),
        (Mamba2(num_heads=64, head_dim=64, state_size=128, num_groups=8, conv_kernel=4), "8 Mamba groups"),
        (
            CompressedAttention(
                num_heads=64,
                head_dim=512,
                q_lora_rank=1024,
                o_lora_rank=1024,
                o_groups=8,
                window_tokens=128,
                rope_head_dim=64,
            ),
            "8 groups of outputs of compressed attention",
        ),
    ],
)
def test_heads_and_groups_of_linear_mixers_must_divide(stack: str, mixer: Any, said_of: str) -> None:
    model = load_model("llama-3.1-8b")
    model = replace(model, layers=(replace(model.layers[0], attention=mixer), *model.layers[1:]))
    (message,) = refused(stack, model, {"tp": 32})
    assert f"tp = 32 does not divide the {said_of}" in message
    assert refused(stack, model, {"tp": 8}) == []


def test_one_mamba_group_is_repeated() -> None:
    mixer = Mamba2(num_heads=64, head_dim=64, state_size=128, num_groups=1, conv_kernel=4)
    model = load_model("llama-3.1-8b")
    assert refused("vllm", replace(model, layers=(replace(model.layers[0], attention=mixer),)), {"tp": 8}) == []


@pytest.mark.parametrize("stack", ENGINES)
def test_redundant_experts_need_expert_parallelism(stack: str) -> None:
    (message,) = refused(stack, "mixtral-8x7b", {"tp": 2}, redundant_slots=8)
    assert "8 redundant experts with ep = 1" in message
    assert refused(stack, "mixtral-8x7b", {"tp": 2, "ep": 2}, redundant_slots=8) == []


@pytest.mark.parametrize(
    ("stack", "draft", "no"),
    [("vllm", "mtp", 1), ("vllm", "none", 0), ("sglang", "none", 1), ("trtllm", "mtp", 0), ("trtllm", "none", 1)],
)
def test_drafts_and_pipeline_stages(stack: str, draft: str, no: int) -> None:
    split = {"tp": 8, "pp": 2}
    assert len(refused(stack, "deepseek-v3", split, drafts=1, draft=draft)) == no
    assert refused(stack, "deepseek-v3", {"tp": 8}, drafts=1, draft=draft) == []
    assert refused(stack, "deepseek-v3", split, drafts=1, draft=draft, phases=("prefill",)) == []


def test_a_model_without_layers_to_draft_with_is_warned_of() -> None:
    assert [f.where for f in said("vllm", "qwen3-30b-a3b", {}, drafts=2)] == ["speculation"]
    assert said("vllm", "deepseek-v3", {"tp": 8}, drafts=1) == []


def test_two_batches_overlap_with_deepep_alone_in_vllm() -> None:
    split = {"dp": 8, "ep": 8}
    (message,) = refused("vllm", "deepseek-v3", split, overlap="two_batch")
    assert "two batches with the exchange all_gather" in message
    assert refused("vllm", "deepseek-v3", split, overlap="two_batch", exchange="deepep") == []
    assert refused("sglang", "deepseek-v3", split, overlap="two_batch") == []


def test_deepep_has_kernels_for_some_sizes_choices_and_ranks() -> None:
    assert any("hidden size of 2880" in m for m in refused("sglang", "gpt-oss-120b", {"dp": 8, "ep": 8}))
    padded = said("vllm", "gpt-oss-120b", {"dp": 8, "ep": 8}, exchange="deepep_low_latency")
    assert [(f.effect, "padded to the next" in f.message) for f in padded] == [("warns", True)]
    many = load_model("deepseek-v3")
    assert many.moe is not None
    moe = replace(many.moe, top_k=12)
    many = replace(many, layers=tuple(replace(layer, ffn=moe) for layer in many.layers))
    assert any("12 experts per token" in m for m in refused("sglang", many, {"dp": 8, "ep": 8}))
    for ranks, no in ((8, 0), (16, 0), (160, 0), (6, 1), (12, 1), (176, 1)):
        found = [m for m in refused("sglang", "deepseek-v3", {"dp": ranks, "ep": ranks}) if f"over {ranks} ranks" in m]
        assert len(found) == no, ranks


def test_an_exchange_that_nobody_asked_for_is_no_reason_to_refuse() -> None:
    found = said("sglang", "gpt-oss-120b", {"dp": 8, "ep": 8}, exchange_chosen=False)
    (finding,) = (f for f in found if "hidden size of 2880" in f.message)
    assert (finding.effect, "stack.exchange says what it takes instead" in finding.message) == ("warns", True)


def test_limits_of_deepep_hold_for_the_devices_that_it_is_built_for() -> None:
    assert refused("sglang", "deepseek-v3", {"dp": 320, "ep": 320}, architecture="Da Vinci") == []


def test_deepep_needs_whole_experts_on_every_rank() -> None:
    split = {"dp": 8, "ep": 4}
    assert any("deepep_normal with ep = 4 of 8 ranks" in f.message for f in said("sglang", "deepseek-v3", split))
    assert any("an all-to-all needs" in m for m in refused("vllm", "deepseek-v3", {"dp": 8}, exchange="deepep"))


def test_a_rank_dispatches_so_many_tokens_at_once() -> None:
    split = {"dp": 8, "ep": 8}
    assert said("sglang", "deepseek-v3", split, decoding=128) == []
    (warning,) = said("sglang", "deepseek-v3", split, decoding=129)
    assert (warning.effect, "SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK" in warning.message) == ("warns", True)
    assert any("258 decoded tokens" in f.message for f in said("sglang", "deepseek-v3", split, decoding=129, drafts=1))
    assert len(refused("sglang", "deepseek-v3", split, decoding=1025)) == 1


@pytest.mark.parametrize(("stack", "most"), [("vllm", 512), ("sglang", 512), ("trtllm", 128)])
def test_steps_beyond_the_largest_graph_are_warned_of(stack: str, most: int) -> None:
    assert said(stack, "qwen3-30b-a3b", {}, decoding=most) == []
    (finding,) = said(stack, "qwen3-30b-a3b", {}, decoding=most + 1)
    assert (finding.effect, f"of {most}" in finding.message) == ("warns", True)
    assert said(stack, "qwen3-30b-a3b", {}, decoding=most + 1, phases=("prefill",)) == []


def test_prefix_caches_of_models_with_a_state_are_warned_of() -> None:
    assert [f.where for f in said("vllm", "nemotron-3-nano", {}, prefix_cache=True)] == ["prefix_cache"]
    for model in ("qwen3-30b-a3b", "gpt-oss-20b", "deepseek-v3.2"):
        assert not [f for f in said("vllm", model, {}, prefix_cache=True) if f.where == "prefix_cache"]


@pytest.mark.parametrize("stack", [*ENGINES, "trtllm"])
def test_requests_beyond_the_context_are_refused(stack: str) -> None:
    (message,) = refused(stack, "qwen3-235b-a22b", {"tp": 4}, longest=100_000)
    assert "beyond the model's context of 40960" in message
    assert refused(stack, "qwen3-235b-a22b", {"tp": 4}, longest=40_960) == []


def test_what_is_refused_comes_first() -> None:
    found = said("vllm", "qwen3-235b-a22b", {"tp": 8}, weights="fp8_block", decoding=1000)
    assert [finding.effect for finding in found] == ["refuses", "warns"]
