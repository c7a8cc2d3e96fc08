"""The cost model as a whole: what makes a step faster, slower, or neither."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware_profiles.loader import device_names
from simulator.cost.model import CostModel
from simulator.errors import ProfileError
from simulator.hardware import Hardware, load_hardware
from simulator.ops import StepShape, build_ops
from simulator.parallelism import Parallelism
from simulator.scenario.sections import Stack
from simulator.stack import customised
from simulator.step.tables import expert_seconds
from workloads.models.library import load_model, with_dtypes

CASES: dict[str, tuple[str, Parallelism, str, str | None]] = {
    "mixtral-8x7b": ("a100-sxm", Parallelism(tp=2), "vllm", None),
    "gpt-oss-20b": ("h100-sxm", Parallelism(), "vllm", None),
    "deepseek-v3": ("h800-sxm", Parallelism(dp=32, ep=32), "sglang", "deepep"),
    "qwen3-30b-a3b": ("ascend-910c", Parallelism(dp=4, ep=4), "vllm", "all_gather"),
    "llama-3.1-8b": ("h200-sxm", Parallelism(tp=4), "trtllm", None),
}
#: Rounding of the sum of a step's ops.
SLACK = 1 + 1e-9

batches = st.integers(1, 512)
contexts = st.integers(16, 16_384)


@cache
def hardware_of(device: str, devices: int) -> Hardware:
    nodes = -(-devices // load_hardware(device).node.devices)
    return load_hardware(device, nodes=nodes)


def model_of(name: str, **changes: Any) -> CostModel:
    """Cost model of a case, its silicon (``silicon_*``) and fabric (``fabric_*``) multiplied by factors."""
    device, split, stack, exchange = CASES[name]
    hardware = hardware_of(device, split.devices)
    for part in ("silicon", "fabric"):
        old = getattr(hardware, part)
        new = {}
        for key, factor in changes.items():
            if key.startswith(part):
                field = key.removeprefix(f"{part}_")
                value = getattr(old, field)
                new[field] = {k: v * factor for k, v in value.items()} if field == "peak" else value * factor
        hardware = dataclasses.replace(hardware, **{part: dataclasses.replace(old, **new)})
    return CostModel(hardware=hardware, stack=customised(Stack(name=stack, exchange=exchange)))  # type: ignore[arg-type]


def step_seconds(name: str, shape: StepShape, **changes: Any) -> float:
    cost, split = model_of(name, **changes), CASES[name][1]
    times = cost.times(build_ops(load_model(name), split, cost.stack, shape))
    return sum(float(time.seconds) + float(time.imbalance_wait) for time in times)


def shape_of(phase: str, batch: int, context: int) -> StepShape:
    if phase == "decode":
        return StepShape(decode_sequences=float(batch), decode_context=float(context))
    return StepShape(prefill_tokens=float(max(context // 2, 16)), prefill_sequences=1.0, prefill_prefix=float(batch))


@pytest.mark.parametrize(
    "better", ["silicon_memory_bandwidth", "fabric_scale_up_bandwidth", "fabric_scale_out_bandwidth"]
)
@settings(max_examples=25)
@given(
    name=st.sampled_from(sorted(CASES)),
    phase=st.sampled_from(["decode", "prefill"]),
    batch=batches,
    context=contexts,
    factor=st.floats(1.0, 4.0),
)
def test_more_bandwidth_never_slows_a_step(
    better: str, name: str, phase: str, batch: int, context: int, factor: float
) -> None:
    shape = shape_of(phase, batch, context)
    assert step_seconds(name, shape, **{better: factor}) <= step_seconds(name, shape) * SLACK


@settings(max_examples=25)
@given(
    name=st.sampled_from(sorted(CASES)),
    phase=st.sampled_from(["decode", "prefill"]),
    batch=batches,
    context=contexts,
    factor=st.floats(0.1, 1.0),
)
def test_shorter_latencies_never_slow_a_step(name: str, phase: str, batch: int, context: int, factor: float) -> None:
    shape = shape_of(phase, batch, context)
    faster = step_seconds(name, shape, fabric_scale_up_latency=factor, fabric_scale_out_latency=factor)
    assert faster <= step_seconds(name, shape) * SLACK


@settings(max_examples=25)
@given(
    name=st.sampled_from(sorted(CASES)),
    phase=st.sampled_from(["decode", "prefill"]),
    batch=batches,
    context=contexts,
    factor=st.floats(1.0, 2.0),
)
def test_more_arithmetic_never_slows_a_step(name: str, phase: str, batch: int, context: int, factor: float) -> None:
    shape = shape_of(phase, batch, context)
    assert step_seconds(name, shape, silicon_peak=factor) <= step_seconds(name, shape) * SLACK


@settings(max_examples=25)
@given(
    name=st.sampled_from(sorted(CASES)),
    phase=st.sampled_from(["decode", "prefill"]),
    batch=batches,
    context=contexts,
    factor=st.floats(1.0, 2.0),
)
def test_more_units_of_the_same_kind_hardly_ever_slow_a_step(
    name: str, phase: str, batch: int, context: int, factor: float
) -> None:
    """Units come with their arithmetic; splitting work over more of them may cost a little more merging."""
    shape = shape_of(phase, batch, context)
    assert step_seconds(name, shape, silicon_units=factor, silicon_peak=factor) <= step_seconds(name, shape) * 1.02


@settings(max_examples=25)
@given(name=st.sampled_from(sorted(CASES)), batch=st.integers(1, 256), context=contexts, more=st.integers(1, 256))
def test_more_sequences_hardly_ever_take_less_time(name: str, batch: int, context: int, more: int) -> None:
    before, after = (step_seconds(name, shape_of("decode", size, context)) for size in (batch, batch + more))
    assert after >= before * 0.97


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_pricing_many_steps_at_once_is_pricing_each(name: str, phase: str) -> None:
    cost, split, model = model_of(name), CASES[name][1], load_model(name)
    sizes = np.array([1.0, 7.0, 64.0, 300.0])
    lengths = np.array([900.0, 100.0, 4000.0, 33.0])

    def shape(size: Any, length: Any) -> StepShape:
        if phase == "decode":
            return StepShape(decode_sequences=size, decode_context=length)
        return StepShape(prefill_tokens=size * 8, prefill_sequences=1.0, prefill_prefix=length)

    together = cost.times(build_ops(model, split, cost.stack, shape(sizes, lengths)))
    for index in range(len(sizes)):
        alone = cost.times(build_ops(model, split, cost.stack, shape(sizes[index], lengths[index])))
        for many, one in zip(together, alone, strict=True):
            at = np.broadcast_to(many.seconds, sizes.shape)[index]
            assert at == pytest.approx(float(one.seconds), rel=1e-9), many.op.name


@pytest.mark.parametrize("name", CASES)
def test_every_op_that_has_rows_takes_time_and_the_others_none(name: str) -> None:
    cost, split = model_of(name), CASES[name][1]
    for time in cost.times(build_ops(load_model(name), split, cost.stack, shape_of("decode", 16, 1000))):
        assert (float(time.seconds) > 0) == (float(time.op.rows) > 0), time.op.name
        assert float(time.imbalance_wait) >= 0
        assert np.isfinite(float(time.seconds))


@cache
def routed_counts() -> np.ndarray:
    """Tokens per slot, shape (windows, layers, ranks, slots per rank), of a skewed router."""
    rng = np.random.default_rng(0)
    popularity = rng.dirichlet(np.full(256, 0.3), size=58)
    return rng.multinomial(256 * 8, popularity).reshape(1, 58, 32, 8).astype(float)


def test_relabelling_ranks_or_experts_of_a_rank_changes_no_time() -> None:
    cost, split, model = model_of("deepseek-v3"), CASES["deepseek-v3"][1], load_model("deepseek-v3")
    rng = np.random.default_rng(1)
    counts = routed_counts()
    ranks, slots = rng.permutation(32), rng.permutation(8)
    seconds = expert_seconds(cost, model, split, counts, 256, prompt=False)
    relabelled = expert_seconds(cost, model, split, counts[:, :, ranks][..., slots], 256, prompt=False)
    np.testing.assert_allclose(relabelled, seconds[:, :, ranks], rtol=1e-12)


def test_the_layer_waits_for_its_slowest_rank() -> None:
    cost, split, model = model_of("deepseek-v3"), CASES["deepseek-v3"][1], load_model("deepseek-v3")
    counts = routed_counts()
    seconds = expert_seconds(cost, model, split, counts, 256, prompt=False)
    shape = StepShape(decode_sequences=8.0, decode_context=500.0, group_tokens=256.0)
    op = next(op for op in build_ops(model, split, cost.stack, shape, counts[0]) if op.kind == "moe")
    time = cost.time(op)
    assert float(time.seconds) == pytest.approx(seconds.mean(axis=2).sum())
    assert float(time.seconds + time.imbalance_wait) == pytest.approx(seconds.max(axis=2).sum())
    even = np.full_like(counts, 8.0)
    balanced = expert_seconds(cost, model, split, even, 256, prompt=False)
    np.testing.assert_allclose(balanced, balanced[0, 0, 0], rtol=1e-12)


def test_a_hotter_receiver_slows_the_exchange_alone() -> None:
    cost, split, model = model_of("deepseek-v3"), CASES["deepseek-v3"][1], load_model("deepseek-v3")

    def seconds(share: float) -> dict[str, float]:
        shape = StepShape(decode_sequences=64.0, decode_context=500.0, max_rank_share=share)
        return {t.op.name: float(t.seconds) for t in cost.times(build_ops(model, split, cost.stack, shape))}

    even, hot = seconds(1.0), seconds(2.0)
    slower = {name for name in even if hot[name] > even[name] * SLACK}
    assert slower == {"moe_dispatch", "moe_combine"}
    assert all(hot[name] >= even[name] for name in even)


@pytest.mark.parametrize("device", [name for name in device_names() if load_hardware(name).kernels])
def test_every_accelerator_prices_a_decode_step(device: str) -> None:
    hardware = load_hardware(device)
    cost = CostModel(hardware=hardware, stack=customised(Stack(name="sglang")))
    shape = StepShape(decode_sequences=8.0, decode_context=500.0)
    total = sum(
        float(t.seconds) for t in cost.times(build_ops(load_model("qwen3-30b-a3b"), Parallelism(), cost.stack, shape))
    )
    active = 3.3e9 * 2
    assert total > active / hardware.silicon.memory_bandwidth
    assert total < 1.0


def test_a_kernel_that_no_table_describes_is_named() -> None:
    cost = model_of("mixtral-8x7b")
    bare = CostModel(hardware=dataclasses.replace(cost.hardware, kernels={}), stack=cost.stack)
    ops = build_ops(load_model("mixtral-8x7b"), Parallelism(), cost.stack, shape_of("decode", 1, 100))
    with pytest.raises(ProfileError, match="a100-sxm: no coefficients of any gemm kernel for bfloat16"):
        bare.time(next(op for op in ops if op.kind == "gemm"))


def test_a_price_names_the_tables_that_it_compared() -> None:
    cost = model_of("llama-3.1-8b")
    split, shape = CASES["llama-3.1-8b"][1], shape_of("decode", 4, 100)
    times = cost.times(build_ops(load_model("llama-3.1-8b"), split, cost.stack, shape))
    reduced = next(time for time in times if time.op.kind == "all_reduce")
    assert set(reduced.compared) == {f"all_reduce.{backend}" for backend in cost.stack.backends["all_reduce"]}
    assert all(time.table in time.compared for time in times)
    assert {table for time in times for table in time.compared} <= cost.hardware.kernels.keys()


def test_attention_over_an_8_bit_cache_is_priced_by_the_kernel_that_was_measured_on_one() -> None:
    cost = model_of("llama-3.1-8b")
    model = with_dtypes(load_model("llama-3.1-8b"), kv_cache="fp8")
    tables = {
        time.op.kind: time.table
        for phase in ("prefill", "decode")
        for time in cost.times(build_ops(model, Parallelism(), cost.stack, shape_of(phase, 8, 1000)))
        if float(time.seconds) > 0.0
    }
    assert tables["attention_prefill"] == "attention_prefill.flash.fp8"
    assert tables["attention_decode"] == "attention_decode.flash.fp8"
