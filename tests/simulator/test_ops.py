"""The ops of a step: what they compute, read and send, against counts made elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.ops import Op, StepShape, build_ops
from simulator.parallelism import Parallelism
from simulator.scenario.sections import Stack
from simulator.stack import customised, load_stack
from workloads.models.library import load_model, model_names
from workloads.models.mixers import LatentAttention
from workloads.models.sizes import weight_bytes
from workloads.models.spec import ModelSpec
from workloads.models.work import flops_per_token, kv_bytes_per_token_by_layer

STACK = load_stack("sglang")
ONE = Parallelism()
DEEPSEEK = load_model("deepseek-v3")
MIXTRAL = load_model("mixtral-8x7b")


def ops_of(model: ModelSpec, shape: StepShape, split: Parallelism = ONE, exchange: str | None = None) -> tuple[Op, ...]:
    stack = customised(Stack(name="sglang", exchange=exchange)) if exchange else STACK  # type: ignore[arg-type]
    return build_ops(model, split, stack, shape)


def total(ops: tuple[Op, ...], what: str, **only: str) -> float:
    chosen = [op for op in ops if all(getattr(op, name) == value for name, value in only.items())]
    return sum(float(getattr(op, what)) * op.repeat for op in chosen)


def indexer_share(model: ModelSpec) -> float:
    """Sparse attention's indexer and Mamba's convolution are counted in one place and not the other."""
    sparse = any(isinstance(a, LatentAttention) and a.index_top_k for a in (layer.attention for layer in model.layers))
    return 0.06 if sparse else 0.005


@pytest.mark.parametrize("name", model_names())
def test_a_decode_step_computes_what_its_tokens_need(name: str) -> None:
    model = load_model(name)
    ops = ops_of(model, StepShape(decode_sequences=64.0, decode_context=1000.0))
    wanted = 64 * sum(flops_per_token(model, phase="decode", context=1000.0).values())
    assert total(ops, "flops") == pytest.approx(wanted, rel=indexer_share(model))


@pytest.mark.parametrize("name", model_names())
def test_a_prompt_computes_what_its_tokens_need_and_one_row_of_logits(name: str) -> None:
    model = load_model(name)
    ops = ops_of(model, StepShape(prefill_tokens=1000.0, prefill_sequences=1.0))
    wanted = flops_per_token(model, phase="prefill", context=1000.0)
    everything = 1000 * sum(wanted.values()) - 999 * wanted["lm_head"]
    assert total(ops, "flops") == pytest.approx(everything, rel=indexer_share(model))


@pytest.mark.parametrize("name", model_names())
def test_a_large_step_reads_every_weight_once(name: str) -> None:
    model = load_model(name)

    def read(tokens: float) -> float:
        return total(ops_of(model, StepShape(decode_sequences=tokens, decode_context=1.0)), "memory_bytes")

    # Activations and KV cache grow with the tokens, weights do not.
    weights = 2 * read(1e5) - read(2e5)
    stored = weight_bytes(model)
    assert weights == pytest.approx(sum(stored.values()) - stored["embedding"], rel=0.01)


@pytest.mark.parametrize("name", ["mixtral-8x7b", "deepseek-v3", "gpt-oss-20b", "qwen3-30b-a3b"])
def test_a_longer_context_reads_more_kv_cache(name: str) -> None:
    model = load_model(name)

    def read(context: float) -> float:
        ops = ops_of(model, StepShape(decode_sequences=8.0, decode_context=context))
        return total(ops, "memory_bytes", component="attention")

    grown = (read(6000.0) - read(5000.0)) / 8 / 1000
    windows = [getattr(layer.attention, "window", None) for layer in model.layers]
    held = sum(size for size, window in zip(kv_bytes_per_token_by_layer(model), windows, strict=True) if window is None)
    assert grown == pytest.approx(held, rel=1e-9)


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_tensor_parallel_ranks_share_the_arithmetic(tp: int) -> None:
    shape = StepShape(decode_sequences=32.0, decode_context=500.0)
    alone, shared = ops_of(MIXTRAL, shape), ops_of(MIXTRAL, shape, Parallelism(tp=tp))
    split = [op.name for op in alone if op.name != "router"]
    for name in split:
        whole = sum(float(op.flops) * op.repeat for op in alone if op.name == name)
        part = sum(float(op.flops) * op.repeat for op in shared if op.name == name)
        assert part * tp == pytest.approx(whole, rel=1e-9), name
    assert total(shared, "message_bytes", kind="all_reduce") > 0
    assert total(alone, "message_bytes") == 0


@pytest.mark.parametrize(("dp", "ep"), [(8, 8), (8, 4), (4, 2), (2, 1)])
def test_expert_parallel_ranks_share_the_experts_work(dp: int, ep: int) -> None:
    shape = StepShape(decode_sequences=32.0, decode_context=500.0)
    alone = ops_of(MIXTRAL, StepShape(decode_sequences=32.0 * dp, decode_context=500.0))
    rank = ops_of(MIXTRAL, shape, Parallelism(dp=dp, ep=ep), "all_to_all")
    assert total(rank, "flops", name="routed_experts") * dp == pytest.approx(
        total(alone, "flops", name="routed_experts"), rel=1e-9
    )


@pytest.mark.parametrize("exchange", ["all_to_all", "deepep", "deepep_normal", "deepep_low_latency", "all_gather"])
@pytest.mark.parametrize("split", [Parallelism(dp=8, ep=8), Parallelism(dp=32, ep=32), Parallelism(tp=4, dp=4, ep=16)])
def test_every_copy_that_is_dispatched_is_combined(exchange: str, split: Parallelism) -> None:
    """The way there may be in 8 bits with scales and the way back in 16; the copies are the same."""
    tokens = np.array([1.0, 64.0, 4000.0])
    ops = {op.name: op for op in ops_of(DEEPSEEK, StepShape(decode_sequences=tokens), split, exchange)}
    there, back = ops["moe_dispatch"], ops["moe_combine"]
    element = getattr(there.shape, "element_bytes", 2.0)
    np.testing.assert_allclose(there.message_bytes / element, back.message_bytes / 2.0, rtol=1e-12)
    assert there.repeat == back.repeat == len(DEEPSEEK.moe_layers)
    assert (there.message_bytes > 0).all()
    if exchange != "all_gather":
        hidden = DEEPSEEK.hidden
        copies = tokens * 8 / split.tp * split.etp
        np.testing.assert_allclose(back.message_bytes / 2.0 / hidden, copies, rtol=1e-12)
        assert element == pytest.approx(1.0 + 4.0 / 128)


@pytest.mark.parametrize("split", [ONE, Parallelism(tp=8, ep=8), Parallelism(tp=4, ep=1)])
def test_ranks_that_hold_the_same_tokens_exchange_none(split: Parallelism) -> None:
    ops = ops_of(DEEPSEEK, StepShape(decode_sequences=64.0, decode_context=500.0), split)
    assert not [op for op in ops if op.component in {"dispatch", "combine"}]


def test_a_step_is_the_sum_of_its_drivers() -> None:
    """Ops of the tokens do not care whether tokens are prompt or decoded; the others see only their own."""
    prompt, decode = (
        StepShape(prefill_tokens=300.0, prefill_sequences=2.0),
        StepShape(decode_sequences=40.0, decode_context=700.0),
    )
    both = StepShape(prefill_tokens=300.0, prefill_sequences=2.0, decode_sequences=40.0, decode_context=700.0)
    for driver, shapes in {"prefill": [prompt], "decode": [decode], "logits": [prompt, decode]}.items():
        apart = sum(total(ops_of(DEEPSEEK, shape), "flops", driver=driver) for shape in shapes)
        assert total(ops_of(DEEPSEEK, both), "flops", driver=driver) == pytest.approx(apart)
    alone = total(ops_of(DEEPSEEK, StepShape(decode_sequences=340.0)), "flops", driver="tokens")
    assert total(ops_of(DEEPSEEK, both), "flops", driver="tokens") == pytest.approx(alone)


def test_absent_work_has_no_rows() -> None:
    ops = ops_of(DEEPSEEK, StepShape(decode_sequences=4.0, decode_context=100.0))
    assert {op.name for op in ops if not float(op.rows)} == {"kv_b_proj", "mla_prefill"}


def test_layers_of_one_kind_are_folded_into_repeats() -> None:
    ops = {op.name: op for op in ops_of(DEEPSEEK, StepShape(decode_sequences=4.0, decode_context=100.0))}
    assert ops["routed_experts"].repeat == 58
    assert ops["ffn_up"].repeat == 3
    assert ops["mla_decode"].repeat == 61
    assert ops["lm_head"].repeat == 1


def test_arrays_of_steps_are_built_at_once() -> None:
    batches = np.array([1.0, 8.0, 64.0])
    together = ops_of(DEEPSEEK, StepShape(decode_sequences=batches, decode_context=900.0))
    for index, batch in enumerate(batches):
        alone = ops_of(DEEPSEEK, StepShape(decode_sequences=batch, decode_context=900.0))
        for many, one in zip(together, alone, strict=True):
            assert np.broadcast_to(many.flops, (3,))[index] == pytest.approx(float(one.flops))
            assert np.broadcast_to(many.memory_bytes, (3,))[index] == pytest.approx(float(one.memory_bytes))


def test_a_chunk_computes_the_pairs_that_the_whole_prompt_would() -> None:
    whole = ops_of(MIXTRAL, StepShape(prefill_tokens=1000.0, prefill_sequences=1.0))
    chunks = [
        ops_of(MIXTRAL, StepShape(prefill_tokens=250.0, prefill_sequences=1.0, prefill_prefix=250.0 * n))
        for n in range(4)
    ]
    split = sum(total(ops, "flops", name="attention_prefill") for ops in chunks)
    assert split == pytest.approx(total(whole, "flops", name="attention_prefill"))


def test_pipeline_stages_hand_the_activations_on() -> None:
    ops = ops_of(MIXTRAL, StepShape(decode_sequences=16.0, decode_context=100.0), Parallelism(tp=2, pp=4))
    sent = [op for op in ops if op.kind == "send"]
    assert [op.repeat for op in sent] == [3.0]
    assert float(sent[0].message_bytes) == 16 * MIXTRAL.hidden * 2
