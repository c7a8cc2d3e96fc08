"""The records of kernel families: complete, true to their dataclasses, and behind every kernel table and op."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from types import NoneType

import pytest

from hardware_profiles.loader import device_names, load_device
from simulator.cost.model import CostModel
from simulator.hardware import load_hardware
from simulator.kernels.families import FAMILIES, table_family
from simulator.kernels.kernel import coefficients
from simulator.ops import StepShape, build_ops
from simulator.parallelism import Parallelism
from simulator.stack import load_stack
from workloads.models.library import load_model, model_names

ROOT = Path(__file__).parents[2]
THEORY, KERNELS = ROOT / "docs" / "theory", ROOT / "simulator" / "kernels"
BOTH = StepShape(prefill_tokens=64.0, prefill_sequences=2.0, decode_sequences=8.0, decode_context=500.0)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_record_says_how_why_and_where_its_ops_are_priced(kind: str) -> None:
    family = FAMILIES[kind]
    assert kind in family.kinds
    assert family.equation
    assert family.validity
    assert family.references
    assert (THEORY / family.theory).is_file()
    assert family.coefficients is NoneType or dataclasses.is_dataclass(family.coefficients)
    assert all(hasattr(family.shape, name) for name in family.axes)


@pytest.mark.parametrize("module", sorted(path.stem for path in KERNELS.glob("*.py") if path.stem != "__init__"))
def test_every_kernel_function_has_sources_and_an_example(module: str) -> None:
    found = vars(importlib.import_module(f"simulator.kernels.{module}"))
    home = f"simulator.kernels.{module}"
    functions = {name: each for name, each in found.items() if callable(each) and name.endswith("_time")}
    for name, function in functions.items():
        if function.__module__ == home and not name.startswith("_"):
            assert "References\n" in (function.__doc__ or ""), name
            assert "Examples\n" in (function.__doc__ or ""), name


@pytest.mark.parametrize("device", [name for name in device_names() if load_device(name).main.kernels])
def test_every_kernel_table_fills_the_coefficients_of_its_family(device: str) -> None:
    for name, table in load_device(device).main.kernels.items():
        kind = table_family(name).coefficients
        assert coefficients(kind, table, name)


@pytest.mark.parametrize("name", model_names())
def test_every_op_of_every_model_has_the_shape_of_its_family(name: str) -> None:
    stack = load_stack("sglang")
    for op in build_ops(load_model(name), Parallelism(tp=2, pp=2), stack, BOTH):
        assert isinstance(op.shape, FAMILIES[op.kind].shape), op.name


def test_a_family_of_no_coefficients_needs_no_table() -> None:
    hardware = dataclasses.replace(load_hardware("h100-sxm"), kernels={})
    cost = CostModel(hardware=hardware, stack=load_stack("sglang"))
    ops = build_ops(load_model("llama-3.1-8b"), Parallelism(pp=2), cost.stack, BOTH)
    sent = cost.time(next(op for op in ops if op.kind == "send"))
    assert float(sent.seconds) > 0.0
    assert not sent.coefficients
