"""Linear attention: states and tokens through memory, chunks in sequence, layers as the ops ask for them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardware_profiles.errors import ProfileError
from simulator.cost.model import CostModel, OpTime
from simulator.hardware import load_hardware
from simulator.kernels.kernel import coefficients
from simulator.kernels.linear_attention import (
    ConvolutionKernel,
    ScanKernel,
    causal_convolution_time,
    scan_time,
)
from simulator.ops import StepShape, build_ops
from simulator.parallelism import Parallelism
from simulator.stack import load_stack
from validation.fit.dense import judge, tables_of
from validation.kernels.dense_rows import FAMILIES
from workloads.models.library import load_model

KERNELS = Path(__file__).parents[1] / "data" / "kernels"
HARDWARE = load_hardware("h100-sxm")
H100 = HARDWARE.silicon


def kernel_of(name: str) -> ConvolutionKernel | ScanKernel:
    kind: type[Any] = ConvolutionKernel if "conv" in name else ScanKernel
    return coefficients(kind, HARDWARE.kernels[name], name)


CHUNKED = kernel_of("gated_delta_net.chunk_gated_delta_rule")
STEP = kernel_of("gated_delta_net.fused_recurrent_gated_delta_rule")


def scan(batch: Any, seq_len: Any, kernel: Any = CHUNKED) -> np.ndarray:
    return scan_time(batch, seq_len, 16, 32, 128, 128, silicon=H100, kernel=kernel).seconds


def test_long_scans_grow_linearly_with_tokens() -> None:
    assert scan(8, 32768) == pytest.approx(2 * scan(8, 16384), rel=0.02)


def test_one_long_sequence_waits_for_its_chunks_and_many_short_ones_do_not() -> None:
    assert scan(1, 32768) > scan(64, 512)


def test_a_decode_step_reads_and_writes_its_states() -> None:
    states = 1024 * 32 * 128 * 128
    assert scan(1024, 1, STEP) > states * 4 / H100.memory_bandwidth


def test_short_sequences_cost_a_convolution_as_much_as_its_blocks() -> None:
    kernel: Any = kernel_of("gated_delta_net.causal_conv1d_fn")
    times = causal_convolution_time(64, [1, 256], 16 * 128, silicon=H100, kernel=kernel)
    assert times.seconds[0] == pytest.approx(times.seconds[1])


def test_mamba2_convolves_its_groups_matrices_too() -> None:
    cost = CostModel(hardware=HARDWARE, stack=load_stack("vllm"))
    layer: Any = next(
        a for a in (each.attention for each in load_model("nemotron-3-nano").layers) if hasattr(a, "num_groups")
    )
    ops = build_ops(
        load_model("nemotron-3-nano"), Parallelism(), cost.stack, StepShape(decode_sequences=1.0, decode_context=1.0)
    )
    convolved = next(op for op in ops if op.kind == "causal_convolution").shape.channels
    assert convolved == layer.num_heads * layer.head_dim + 2 * layer.num_groups * layer.state_size


@pytest.mark.parametrize("name", ["qwen3.5-397b", "nemotron-3-nano"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_layer_costs_its_convolution_and_its_scan(name: str, phase: str) -> None:
    tokens = np.array([64.0, 512.0])
    shape = (
        StepShape(decode_sequences=tokens, decode_context=500.0)
        if phase == "decode"
        else StepShape(prefill_tokens=tokens * 1024, prefill_sequences=tokens)
    )
    cost = CostModel(hardware=HARDWARE, stack=load_stack("vllm"))

    def mixers(tp: int) -> list[OpTime]:
        ops = build_ops(load_model(name), Parallelism(tp=tp), cost.stack, shape)
        found = [op for op in ops if op.kind in {"causal_convolution", "gated_delta_net", "mamba2"}]
        return [cost.time(op) for op in found if np.all(op.rows > 0)]

    convolution, scan = mixers(1)
    assert convolution.table == f"{scan.op.kind}.causal_conv1d_{'update' if phase == 'decode' else 'fn'}"
    assert scan.table.startswith(f"{scan.op.kind}.")
    assert np.all(convolution.op.flops < scan.op.flops)
    for whole, half in zip((convolution, scan), mixers(2), strict=True):
        assert np.all(half.seconds < whole.seconds)
        assert half.op.memory_bytes == pytest.approx(whole.op.memory_bytes / 2)


def test_a_device_without_the_kernel_says_which_it_lacks_though_it_has_others_of_the_family() -> None:
    kept = {name: table for name, table in HARDWARE.kernels.items() if "fused_recurrent" not in name}
    cost = CostModel(hardware=dataclasses.replace(HARDWARE, kernels=kept), stack=load_stack("vllm"))
    ops = build_ops(
        load_model("qwen3.5-397b"), Parallelism(), cost.stack, StepShape(decode_sequences=1.0, decode_context=1.0)
    )
    with pytest.raises(ProfileError, match=r"no coefficients of kernel 'gated_delta_net\.fused_recurrent"):
        cost.times(ops)


@pytest.mark.parametrize("op", ["gated_delta_net", "mamba2"])
def test_predictions_meet_the_measured_kernels(op: str) -> None:
    for name, rows in tables_of(op, KERNELS / "h100_sxm"):
        overall, _ = judge(FAMILIES[op], rows, H100, kernel_of(name))
        assert overall.median_ape < 0.12, name
        assert overall.p90_ape < 0.25, name
