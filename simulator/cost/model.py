"""The cost model: the time of every op of a step, from the kernels of a device and the choices of a stack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

import numpy as np

from hardware_profiles.schema import Quantity
from simulator.arrays import FloatArray
from simulator.hardware import Hardware
from simulator.kernels.families import FAMILIES
from simulator.kernels.kernel import KernelTime, Machine, coefficients
from simulator.kernels.moe import ExpertsShape, rank_times, tile_changes
from simulator.ops import Op
from simulator.stack import StackProfile, kernel_table

#: What stands for a kernel table where the links alone set the time.
NO_TABLE = "link"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpTime:
    """The predicted time of an op.

    ``seconds`` covers all repeats of the step [s] and is that of the mean rank where ranks differ; ``imbalance_wait``
    is what the slowest rank adds [s]. ``terms`` are the bounds of one repeat [s], ``table`` names the coefficients.
    ``compared`` names all kernel tables that were looked at, where the fastest of several counts.
    """

    op: Op
    seconds: FloatArray
    imbalance_wait: FloatArray
    terms: Mapping[str, FloatArray]
    table: str
    coefficients: Mapping[str, Quantity]
    compared: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """A kernel that runs an op: the name of its table, its coefficients, and their provenance."""

    table: str
    kernel: Any
    quantities: Mapping[str, Quantity]


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """Kernels of a device as a stack uses them, each op on the processor that it names."""

    hardware: Hardware
    stack: StackProfile
    _found: dict[tuple[Any, ...], tuple[Lookup, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def time(self, op: Op) -> OpTime:
        """Price one op; zero where it has no rows."""
        family, machine = FAMILIES[op.kind], self.machine(op)
        found = self.lookups(op)
        times = [family.time(op.shape, machine, lookup.kernel) for lookup in found]
        # Of several kernels, the one that is fastest on the mean of the shapes is named; each shape takes its fastest.
        best = int(np.argmin([np.mean(time.seconds) for time in times])) if len(times) > 1 else 0
        seconds = np.minimum.reduce([time.seconds for time in times]) if len(times) > 1 else times[0].seconds
        present = op.rows > 0
        return OpTime(
            op=op,
            seconds=np.where(present, seconds, 0.0) * op.repeat,
            imbalance_wait=np.where(present, times[best].imbalance_wait, 0.0) * op.repeat,
            terms=times[best].terms,
            table=found[best].table,
            coefficients=found[best].quantities,
            compared=tuple(lookup.table for lookup in found),
        )

    def times(self, ops: Sequence[Op]) -> tuple[OpTime, ...]:
        """Price a step op by op."""
        return tuple(self.time(op) for op in ops)

    def machine(self, op: Op) -> Machine:
        """Return what an op runs on: the processor that it names, and the links of its device."""
        return Machine(silicon=self.hardware.resource(op.resource).silicon, fabric=self.hardware.fabric)

    def lookups(self, op: Op) -> tuple[Lookup, ...]:
        """Return the kernel that runs an op, or all among which the fastest does.

        Raises
        ------
        ProfileError
            The device has no kernel for it.
        """
        family = FAMILIES[op.kind]
        if family.coefficients is NoneType:
            return (Lookup(table=NO_TABLE, kernel=None, quantities={}),)
        wanted = op.backends or self.stack.backends.get(op.family, ())
        dtype = None if family.table_dtype == "none" else str(getattr(op.shape, family.table_dtype))
        key = op.kind, op.family, op.resource, wanted, dtype
        known = self._found.get(key)
        if known is None:
            known = self._found[key] = self._looked_up(op, wanted, dtype)
        return known

    def _looked_up(self, op: Op, wanted: tuple[str, ...], dtype: str | None) -> tuple[Lookup, ...]:
        family = FAMILIES[op.kind]
        choices = tuple((backend,) for backend in wanted) if family.fastest and wanted else (wanted,)
        resource, found = self.hardware.resource(op.resource), []
        where = self.hardware.device.id + (f" {op.resource}" if op.resource in self.hardware.further else "")
        for backends in choices:
            name, table = kernel_table(
                resource.kernels, op.family, backends, dtype, where, substitutes=family.substitutes
            )
            kernel = coefficients(family.coefficients, table, f"{where}: {name}")
            found.append(Lookup(table=name, kernel=kernel, quantities=table))
        return tuple(found)


def expert_times(model: CostModel, op: Op) -> KernelTime:
    """Price the routed experts of every rank: seconds of shape (..., samples, ranks) for one repeat."""
    shape: ExpertsShape = op.shape
    return rank_times(shape, model.machine(op), model.lookups(op)[0].kernel)


def expert_tile_changes(model: CostModel, op: Op) -> FloatArray:
    """Tokens over all ranks beyond which the kernel of the routed experts takes a larger row tile [tokens]."""
    shape: ExpertsShape = op.shape
    return tile_changes(model.lookups(op)[0].kernel, shape.top_k, shape.num_experts, shape.local_experts)
