"""Validation predicts on the product's hardware: it has no silicon and no links of its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import validation
from hardware_profiles.loader import device_names
from simulator.hardware import load_hardware
from simulator.kernels.gemm import GemmKernel, gemm_time
from simulator.kernels.kernel import Fabric, Silicon, coefficients
from validation.kernels.collective_rows import joined
from validation.kernels.formats import filled
from validation.kernels.rows import predict_op

ROOT = Path(validation.__file__).parent
#: Cases may build the testbed of their paper.
MODULES = sorted(path for path in ROOT.rglob("*.py") if ROOT / "cases" not in path.parents)
SUSTAINED = [name for name in device_names() if load_hardware(name).silicon.sustained != 1.0]


def built(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id


def test_no_silicon_and_no_fabric_is_built_in_validation() -> None:
    kinds = {Silicon.__name__, Fabric.__name__}
    assert [module.name for module in MODULES if kinds & set(built(module))] == []


@pytest.mark.parametrize("device", SUSTAINED)
def test_a_measured_product_is_predicted_at_the_sustained_rate_of_the_product(device: str) -> None:
    hardware = load_hardware(device)
    shape = {"m": [8192.0], "n": [8192.0], "k": [8192.0]}
    frame = filled("gemm", pd.DataFrame({"dtype": ["bfloat16"], **shape}).assign(latency_us=1.0))
    (block,) = predict_op("gemm", frame, hardware)
    kernel = coefficients(GemmKernel, hardware.kernels[block.table], block.table)
    axes = {name: np.asarray(value) for name, value in shape.items()}
    own = gemm_time(**axes, dtype="bfloat16", silicon=hardware.silicon, kernel=kernel, in_turn=None)
    assert block.seconds == pytest.approx(own.seconds)


@pytest.mark.parametrize("device", ["a100-sxm", "b200-sxm", "gb200", "ascend-910c-die"])
def test_measured_ranks_share_one_domain_and_nothing_else_of_the_links_changes(device: str) -> None:
    fabric = load_hardware(device).fabric
    assert joined(load_hardware(device), 2) == fabric
    wide = joined(load_hardware(device), 4 * fabric.domain)
    assert wide.domain == 4 * fabric.domain
    assert (wide.scale_out_bandwidth, wide.switch_reduction) == (fabric.scale_out_bandwidth, fabric.switch_reduction)
