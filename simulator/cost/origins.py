"""Whose kernels price the ops of a step, and where two sides of a comparison rest on different ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from simulator.cost.model import CostModel
from simulator.cost.uncertainty import kernel_origin
from simulator.hardware import MAIN, Hardware
from simulator.kernels.families import FAMILIES
from simulator.kernels.kernel import ARITHMETIC, dtype_bytes
from simulator.ops import Op

#: What the ops of a family are called where whole families are compared.
_WORDS: Mapping[str, str] = {
    "gemm": "GEMMs",
    "moe": "experts",
    "attention_prefill": "attention",
    "attention_decode": "attention",
    "mla_prefill": "attention",
    "mla_decode": "attention",
}
#: How a warning of mixed evidence begins.
MIXED = "mixed evidence: "
#: The format in which a comparison usually begins.
_USUAL = "bfloat16"
#: Dots in the name of a kernel table that says its format: family, backend, format [1].
_WITH_FORMAT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOrigin:
    """Whose a kernel table is: the id of a device, and the dtype that it was measured in; empty where it has none."""

    device: str
    dtype: str


def table_origin(hardware: Hardware, table: str, resource: str, folder: Path | None) -> TableOrigin:
    """Find the device that a kernel table was fitted on; itself where none is known.

    Parameters
    ----------
    hardware : Hardware
        What runs the kernel.
    table : str
        Name of the kernel table.
    resource : str
        What of the device runs it, as in :class:`~simulator.ops.Op`.
    folder : Path or None
        Folder of user profiles.
    """
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
    """Warn where the kernels of one format are of another device than those of others, or stand for another format.

    Whoever compares the formats then compares two kernel libraries on two devices: the ratio of their times is no
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
    hardware, device = cost.hardware, cost.hardware.device.id
    found: dict[tuple[str, TableOrigin, TableOrigin], dict[str, None]] = {}
    for op in ops:
        if op.family not in _WORDS or op.resource != MAIN:
            continue
        dtype, other = str(getattr(op.shape, FAMILIES[op.kind].table_dtype)), _nearest(hardware, op.family, folder)
        origins = {table_origin(hardware, each.table, op.resource, folder) for each in cost.lookups(op)}
        origin = min(origins, key=lambda each: (each.device != other.device, each.device, each.dtype))
        alike = origin.device == other.device and (origin == other or _alike(origin.dtype, dtype))
        if other.dtype not in ("", dtype) and not alike:
            found.setdefault((dtype, origin, other), {})[_WORDS[op.family]] = None
    said = []
    for (dtype, origin, other), families in found.items():
        words, ratio = " and ".join(families), dtype_bytes(other.dtype) / dtype_bytes(dtype)
        whose, others = ("its own" if each.device == device else f"{each.device}'s" for each in (origin, other))
        said.append(
            f"{MIXED}{dtype} {words} of {device} rest on {whose} {origin.dtype or 'unnamed'} kernels, its "
            f"{other.dtype} ones on {others} {other.dtype} kernels: do not read a ratio of the two as a measurement; "
            f"by bytes alone it is at most {max(ratio, 1.0 / ratio):.1f}x"
        )
    return tuple(said)


def _nearest(hardware: Hardware, family: str, folder: Path | None) -> TableOrigin:
    """Find whose kernels of a family a device has first of all, and of which format: the usual one if it can be."""
    # Kernels stand in the order in which they are taken: the device's own, then its relatives'.
    names = [name for name in hardware.kernels if name.startswith(f"{family}.") and name.count(".") == _WITH_FORMAT]
    origins = [table_origin(hardware, name, MAIN, folder) for name in names]
    first = [origin for origin in origins if origin.device == origins[0].device]
    usual = TableOrigin(device=first[0].device, dtype=_USUAL) if first else TableOrigin(device="", dtype="")
    return usual if usual in first or not first else min(first, key=lambda each: each.dtype)


def _alike(one: str, other: str) -> bool:
    """Whether kernels of two dtypes do the same arithmetic on as many bytes, but for scales."""
    if not one:
        return False
    near = 0.8 < dtype_bytes(one) / dtype_bytes(other) < 1.25
    return near and ARITHMETIC.get(one, one) == ARITHMETIC.get(other, other)
