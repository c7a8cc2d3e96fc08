"""Weights that a server widens before it multiplies, for want of arithmetic in their format."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import cast

from simulator.conditions import Condition
from workloads.models.spec import DType, ModelSpec

#: The parts whose weights are multiplied.
_PARTS = ("attention", "experts", "shared_experts", "dense_ffn")


def widened(model: ModelSpec, architecture: str, conditions: tuple[Condition, ...]) -> ModelSpec:
    """Return the model in the formats that it is priced in: those that kernels widen, where its stack does so.

    Parameters
    ----------
    model : ModelSpec
        The model as it is stored.
    architecture : str
        Generation of the device.
    conditions : tuple of Condition
        The conditions of its stack.
    """
    priced = {
        dtype: condition.priced_as
        for condition in conditions
        if condition.priced_as and architecture in condition.architectures
        for dtype in condition.dtypes
    }
    changes = {
        field.name: cast("DType", priced[dtype])
        for field in fields(model.dtypes)
        if field.name in _PARTS and (dtype := getattr(model.dtypes, field.name)) in priced
    }
    return replace(model, dtypes=replace(model.dtypes, **changes)) if changes else model  # type: ignore[arg-type]
