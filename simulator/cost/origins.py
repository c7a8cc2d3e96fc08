"""Whose kernels price the ops of a step, and where two sides of a comparison rest on different ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from simulator.cost.model import CostModel
from simulator.cost.uncertainty import kernel_origin
from simulator.hardware import MAIN, Hardware
from simulator.kernels.kernel import ARITHMETIC, dtype_bytes
from simulator.ops import Op

#: What the ops of a family are called where whole families are compared.
_WORDS: Mapping[str, str] = {"gemm": "GEMMs", "moe": "experts"}
#: How a warning of mixed evidence begins.
MIXED = "mixed evidence: "
#: The format in which a comparison begins.
_REFERENCE = "bfloat16"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOrigin:
    """Whose a kernel table is: the id of a device, and the dtype that it was measured in; empty where it has none."""

    device: str
    dtype: str


def table_origin(hardware: Hardware, table: str, resource: str, folder: Path | None) -> TableOrigin:
    """Find the device that a kernel table of an op's resource was fitted on; itself where none is known."""
    device, _ = kernel_origin(hardware.device, table, resource, folder)
    parts = table.split(".")
    return TableOrigin(device=hardware.device.id if device is None else device.id, dtype=(*parts, "", "")[2])


def borrowed_kernels(hardware: Hardware, tables: Iterable[str], folder: Path | None) -> tuple[str, ...]:
    """Say which kernel families a device takes from which relatives, one line in all."""
    families: dict[str, dict[str, None]] = {}
    for table in sorted(tables):
        origin = table_origin(hardware, table, MAIN, folder).device
        if origin != hardware.device.id:
            families.setdefault(origin, {})[table.split(".")[0]] = None
    if not families:
        return ()
    taken = "; ".join(f"{', '.join(names)} from its relative's kernels: {origin}" for origin, names in families.items())
    return (f"extrapolated: {hardware.device.id} takes {taken}",)


def mixed_evidence(cost: CostModel, ops: Sequence[Op], folder: Path | None) -> tuple[str, ...]:
    """Warn where matrix kernels of one dtype are another device's, or stand for another dtype's, and others are own.

    Whoever compares the dtypes then compares two kernel libraries on two devices: the ratio of their times is no
    measurement, and can be far above that of the bytes, which bounds it where weights are what kernels wait for.

    Parameters
    ----------
    cost : CostModel
        Kernels of the device as the stack uses them.
    ops : sequence of Op
        Ops of steps, at least one of each kind.
    folder : Path or None
        Folder of user profiles.
    """
    hardware, own = cost.hardware, cost.hardware.device.id
    found: dict[tuple[str, TableOrigin], dict[str, None]] = {}
    for op in ops:
        if op.family not in _WORDS or op.resource != MAIN or not _has_reference(hardware, op.family):
            continue
        dtype = str(op.shape.dtype)
        origins = {table_origin(hardware, each.table, op.resource, folder) for each in cost.lookups(op)}
        origin = min(origins, key=lambda each: (each.device != own, each.device, each.dtype))
        if origin.device == own and (origin.dtype == _REFERENCE or _alike(origin.dtype, dtype)):
            continue
        found.setdefault((dtype, origin), {})[_WORDS[op.family]] = None
    said = []
    for (dtype, origin), families in found.items():
        words, ratio = " and ".join(families), dtype_bytes(_REFERENCE) / dtype_bytes(dtype)
        whose = "its own" if origin.device == own else f"{origin.device}'s"
        said.append(
            f"{MIXED}{dtype} {words} of {own} rest on {whose} {origin.dtype or 'unnamed'} kernels, its "
            f"{_REFERENCE} ones on its own {_REFERENCE} kernels: do not read a ratio of the two as a measurement; by "
            f"bytes alone it is at most {ratio:.1f}x"
        )
    return tuple(said)


def _has_reference(hardware: Hardware, family: str) -> bool:
    """Whether a device has kernels of its own in the reference format; else both sides of a comparison are borrowed."""
    names = (name.split(".") for name in hardware.device.main.kernels)
    return any((parts[0], parts[-1]) == (family, _REFERENCE) for parts in names)


def _alike(one: str, other: str) -> bool:
    """Whether kernels of two dtypes do the same arithmetic on as many bytes, but for scales."""
    if not one:
        return False
    near = 0.8 < dtype_bytes(one) / dtype_bytes(other) < 1.25
    return near and ARITHMETIC.get(one, one) == ARITHMETIC.get(other, other)
