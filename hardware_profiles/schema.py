"""What a hardware profile holds: quantities with their provenance, devices, nodes, clusters and prices.

Everything here is a frozen value in SI units. Files are read and checked by :mod:`hardware_profiles.loader`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["datasheet", "measured", "fitted", "published", "assumption"]
ProcessorKind = Literal["gpu", "npu", "pim", "cpu"]
LinkName = Literal["scale_up", "scale_out", "host"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """One number of a profile with where it came from.

    Attributes
    ----------
    value : float
        Magnitude in the SI unit of its dimension (bytes, bytes/s, FLOP/s, s, W, J, USD, Hz or 1).
    unit : str
        The unit that the file states, kept for display.
    stated : float
        The magnitude that the file states, in ``unit``.
    source : str
        Where the number was published or measured.
    status : Status
        How much it can be trusted.
    note : str
        What a reader should know: conflicts between sources, derivations.
    error : float or None
        Relative error of a fitted or measured value [1], where known.
    date : str
        When it was published, measured or fitted, where that matters: ``2026-07``.
    text : str
        What the file states where that is a choice of words (unit ``choice``), else ``""``; the value of a flag (unit
        ``flag``) is 1 or 0.
    """

    value: float
    unit: str
    stated: float
    source: str
    status: Status
    note: str = ""
    error: float | None = None
    date: str = ""
    text: str = ""

    @property
    def written(self) -> float | bool | str:
        """What the file states: a number in its unit, true or false, or a word."""
        if self.unit == "flag":
            return bool(self.stated)
        return self.text if self.unit == "choice" else self.stated


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link of a device, per direction: bandwidth [bytes/s] and the latency of a minimal message [s]."""

    bandwidth: Quantity
    latency: Quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """A set of compute units over the memory of its device.

    Attributes
    ----------
    name : str
        Key of the processor in its device: ``xpu``, ``pim``.
    kind : ProcessorKind
        What it is.
    units : Quantity
        Streaming multiprocessors, AI cores or PIM units [1].
    clock : Quantity
        Sustained clock [Hz].
    peak : Mapping of str to Quantity
        Dense peak by dtype [FLOP/s]: ``bfloat16``, ``fp8``, ``int8``, ``fp4``, ``float32``.
    memory_bandwidth : Quantity
        What this processor can draw from the device memory [bytes/s]; PIM units see more than the xPU.
    cache : Quantity or None
        Last-level cache [bytes].
    sustained : Quantity or None
        Rate of long matrix kernels, which the power limit holds down, over that which the borrowed kernels' own loss
        of clock gives on this chip [1]; 1 where absent.
    kernels : Mapping of str to Mapping of str to Quantity
        Coefficients by kernel (``gemm.cublas``) and name.
    kernels_from : str or None
        Device whose kernel coefficients are borrowed because this one was never measured.
    """

    name: str
    kind: ProcessorKind
    units: Quantity
    clock: Quantity
    peak: Mapping[str, Quantity]
    memory_bandwidth: Quantity
    cache: Quantity | None = None
    sustained: Quantity | None = None
    kernels: Mapping[str, Mapping[str, Quantity]] = field(default_factory=dict)
    kernels_from: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """An accelerator or host processor: memory, one or more processors over it, links and power."""

    id: str
    name: str
    vendor: str
    architecture: str
    memory_capacity: Quantity
    processors: Mapping[str, Processor]
    links: Mapping[LinkName, Link]
    tdp: Quantity
    idle_power: Quantity
    aliases: tuple[str, ...] = ()
    note: str = ""

    @property
    def main(self) -> Processor:
        """The processor that runs everything which no policy sends elsewhere: the first of the file."""
        return next(iter(self.processors.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Devices that share a scale-up fabric and their hosts.

    ``scale_up`` says how they are joined: through a switch, pairwise (``full_mesh``: a pair has the device's
    scale-up bandwidth over ``devices - 1``), or only through the host (``none``). ``switch_reduction`` is how well the
    switch adds what it forwards: the share of the links' bandwidth, over that of the H100's node [1]; ``None`` where
    it cannot. ``hosts`` and ``nics`` are counts
    in the whole node. ``all_in_power`` is what the whole node draws from the wall under load, hosts, network and
    cooling included [W].
    """

    id: str
    name: str
    device: str
    devices: int
    scale_up: Literal["switch", "full_mesh", "none"]
    host: str | None
    hosts: int
    nics: int
    all_in_power: Quantity
    switch_reduction: Quantity | None = None
    aliases: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Nodes on a scale-out fabric.

    ``link`` is one NIC's rate per direction and the end-to-end latency of a minimal message;
    ``oversubscription`` is downlink over uplink capacity at the leaf (1 = non-blocking). ``topology`` says which NICs
    share a leaf switch: those of a node (``fat_tree``), or those of the same place in every node (``rail``);
    ``leaf_nodes`` is how many nodes a leaf reaches. Leaves meet in a spine.
    """

    id: str
    name: str
    node: str
    nodes: int
    fabric: Literal["infiniband", "roce", "unified_bus", "none"]
    link: Link
    oversubscription: Quantity
    topology: Literal["fat_tree", "rail"] = "fat_tree"
    leaf_nodes: int = 1
    aliases: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one device costs per time [USD/s], by offer; ``default`` is the offer used where none is named."""

    device: str
    offers: Mapping[str, Quantity]
    default: str
    note: str = ""
