"""The ops of every family's layers compute, and read, what the model's own sizes say."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from simulator.ops import Op, StepShape, build_ops
from simulator.parallelism import Parallelism
from simulator.stack import load_stack
from workloads.models.hf.config import from_hf_config
from workloads.models.sizes import weight_bytes
from workloads.models.spec import ModelSpec
from workloads.models.work import flops_per_token

STACK = load_stack("sglang")
TABLE = Path(__file__).parents[1] / "data" / "transformers-5.24.0.csv"
with TABLE.open(encoding="utf-8", newline="") as file:
    CONFIGS = {row["name"]: row["config"] for row in csv.DictReader(file)}


def ops_of(model: ModelSpec, shape: StepShape) -> tuple[Op, ...]:
    return build_ops(model, Parallelism(), STACK, shape)


def total(ops: tuple[Op, ...], what: str) -> float:
    return sum(float(getattr(op, what)) * op.repeat for op in ops)


def tolerance(model: ModelSpec) -> float:
    """The scores of an indexer, and convolutions, are counted in one place and not the other."""
    indexed = any(getattr(layer.attention, "index_top_k", 0) for layer in model.layers)
    return 0.08 if indexed else 0.006


@pytest.mark.parametrize("name", CONFIGS)
def test_a_decode_step_computes_what_its_tokens_need(name: str) -> None:
    model = from_hf_config(json.loads(CONFIGS[name]))
    ops = ops_of(model, StepShape(decode_sequences=64.0, decode_context=1000.0))
    wanted = 64 * sum(flops_per_token(model, phase="decode", context=1000.0).values())
    assert total(ops, "flops") == pytest.approx(wanted, rel=tolerance(model))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_prompt_computes_what_its_tokens_need_and_one_row_of_logits(name: str) -> None:
    model = from_hf_config(json.loads(CONFIGS[name]))
    ops = ops_of(model, StepShape(prefill_tokens=1000.0, prefill_sequences=1.0))
    wanted = flops_per_token(model, phase="prefill", context=1000.0)
    everything = 1000 * sum(wanted.values()) - 999 * wanted["lm_head"]
    assert total(ops, "flops") == pytest.approx(everything, rel=tolerance(model))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_large_step_reads_every_weight_once(name: str) -> None:
    model = from_hf_config(json.loads(CONFIGS[name]))

    def read(tokens: float) -> float:
        return total(ops_of(model, StepShape(decode_sequences=tokens, decode_context=1.0)), "memory_bytes")

    # Activations and KV cache grow with the tokens, weights do not; encoders read nothing for text.
    weights = 2 * read(1e5) - read(2e5)
    stored = weight_bytes(model)
    head = stored["embedding"] if model.tied_embeddings else 0.0
    assert weights == pytest.approx(sum(stored.values()) - stored["embedding"] - stored["encoders"] + head, rel=0.01)
