"""What each physical term carries."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from simulator.hardware import load_hardware
from simulator.kernels.attention import AttentionDecodeKernel, AttentionPrefillKernel
from simulator.kernels.gemm import GemmKernel
from simulator.kernels.mla import MlaDecodeKernel, MlaPrefillKernel
from simulator.kernels.moe import MoeKernel
from validation.kernels.ablation import TERMS, ablate, without

SAMPLES = Path(__file__).parents[2] / "data" / "kernels" / "a100_sxm"
KERNELS = {
    "gemm": GemmKernel,
    "attention_prefill": AttentionPrefillKernel,
    "mla_prefill": MlaPrefillKernel,
    "attention_decode": AttentionDecodeKernel,
    "mla_decode": MlaDecodeKernel,
    "moe": MoeKernel,
}


@pytest.mark.parametrize("op", TERMS)
def test_every_term_names_coefficients_of_its_kernel(op: str) -> None:
    known = {field.name for field in fields(KERNELS[op])}
    assert all(set(changes) <= known for changes in TERMS[op].values())


def test_a_term_is_taken_from_its_own_family_alone() -> None:
    hardware = load_hardware("h100-sxm")
    changed = without(hardware, "gemm", {"launch": 0.0})
    assert changed.kernels["gemm.cublas.bfloat16"]["launch"].value == 0.0
    assert changed.kernels["gemm.cublas.bfloat16"]["tile"] == hardware.kernels["gemm.cublas.bfloat16"]["tile"]
    assert changed.kernels["moe.triton.bfloat16"] == hardware.kernels["moe.triton.bfloat16"]


def test_without_its_fixed_costs_a_model_is_worse() -> None:
    found = ablate("a100-sxm", SAMPLES)
    assert all(variants["launch"][0] > variants["the whole model"][0] for variants in found.values())
