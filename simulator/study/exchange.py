"""Compare ways to exchange tokens on one machine and one traffic, in closed form or with messages sharing links."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from simulator.arrays import FloatArray, IdArray
from simulator.errors import ScenarioError, nearest
from simulator.exchange import EXCHANGES, WIRE_BYTES, Exchange, Way
from simulator.hardware import Hardware
from simulator.kernels.all_to_all import (
    exchange_stages,
    exchange_time,
    gather_exchange_time,
    gather_stages,
    reversed_stages,
    slowest,
)
from simulator.kernels.collectives import CollectiveKernel
from simulator.kernels.expert_exchange import ExchangeKernel, crowding, distinct, scale_out_peers
from simulator.kernels.kernel import Fabric, KernelTime, coefficients, smooth_max
from simulator.kernels.traffic import (
    Traffic,
    contiguous_homes,
    domains_of,
    even_traffic,
    sharded_destinations,
    traffic_of,
)
from simulator.schedule.flow import run_stages
from simulator.stack import kernel_table
from simulator.topology import CompiledTopology, build_topology, compile_topology, scale_out_alone

Fidelity = Literal["closed", "flow"]
GATHER = "all_gather"
#: Algorithms in the order in which they are shown: exchanges that are one and the same in every phase.
ALGORITHMS: Mapping[str, Exchange] = {name: exchange for name, exchange in EXCHANGES.items() if not exchange.modes}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """The layer whose tokens travel: ``hidden`` elements to ``top_k`` of ``num_experts`` experts on ``max_nodes``."""

    hidden: int
    top_k: int
    num_experts: int
    max_nodes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged:
    """One way's time in one phase.

    ``closed`` and ``flow`` are seconds (``flow`` only where asked for); ``terms`` those of the closed form on the rank
    that ends last [s]; ``units`` the compute units that the kernel takes [1]; ``table`` names its coefficients.
    """

    algorithm: str
    phase: Way
    closed: float
    flow: float | None
    terms: dict[str, float]
    units: float
    table: str

    @property
    def bound(self) -> str:
        """What takes longest."""
        return max(self.terms, key=self.terms.__getitem__)

    def document(self) -> dict[str, Any]:
        """The row as JSON."""
        return {
            "algorithm": self.algorithm,
            "phase": self.phase,
            "closed_s": self.closed,
            "flow_s": self.flow,
            "bound": self.bound,
            "terms_s": self.terms,
            "units": self.units,
            "kernel": self.table,
        }


def routed_traffic(
    expert_ids: IdArray,
    *,
    num_experts: int,
    ranks: int,
    domain: int,
    expert_shards: int = 1,
    coordinated: bool = False,
) -> Traffic:
    """Count the traffic of recorded choices, experts in order on the ranks and tokens dealt to them in order.

    Parameters
    ----------
    expert_ids : integer array, shape (tokens, top_k)
        Chosen experts; an id of ``num_experts`` or more (a null expert) sends nothing.
    num_experts, ranks, domain : int
        Experts of the layer, ranks of the exchange, ranks of a scale-up domain [1].
    expert_shards : int
        Ranks that share each expert [1].
    coordinated : bool
        Whether a token goes to one slice only.

    Raises
    ------
    ScenarioError
        Ranks do not tile nodes, or experts or shards do not divide over the ranks.
    """
    groups = _groups(num_experts, ranks, expert_shards)
    homes = contiguous_homes(len(expert_ids), ranks)
    chosen = np.where(expert_ids < num_experts, expert_ids * groups // num_experts, -1)
    if expert_shards > 1:
        chosen = sharded_destinations(chosen, homes, expert_shards=expert_shards, coordinated=coordinated)
    return traffic_of(chosen, homes, ranks=ranks, domain=domain)


def expected_traffic(
    tokens: float, layer: Layer, *, ranks: int, domain: int, expert_shards: int = 1, coordinated: bool = False
) -> Traffic:
    """Spread the traffic of an even router evenly.

    Parameters
    ----------
    tokens : float
        Tokens at home on each rank [tokens].
    layer : Layer
        Whose tokens travel.
    ranks, domain : int
        Ranks that share the experts, and those of them that share a scale-up domain [1].
    expert_shards : int
        Ranks over which each expert is cut, all of which need its tokens [1].
    coordinated : bool
        Whether a token goes only to that rank of an expert which has its home's place, or to all of them.
    """
    groups, domains = _groups(layer.num_experts, ranks, expert_shards), domains_of(ranks, domain)
    allowed = min(layer.max_nodes or domains, domains)
    items = layer.num_experts * allowed / domains
    reached = float(distinct(layer.top_k, groups * allowed / domains, items))
    nodes = float(distinct(layer.top_k, allowed, items))
    repeats = 1 if coordinated else expert_shards
    return even_traffic(
        tokens,
        rank_copies=reached * repeats,
        domain_copies=nodes,
        top_k=layer.top_k * repeats,
        ranks=ranks,
        domain=domain,
        expert_shards=expert_shards if coordinated else 1,
    )


def available(hardware: Hardware, ranks: int, expert_shards: int = 1) -> tuple[str, ...]:
    """Algorithms that the device has a kernel for and that so many ranks can use."""
    domains, cluster = domains_of(ranks, hardware.fabric.domain), hardware.cluster is not None
    return tuple(
        name
        for name, exchange in ALGORITHMS.items()
        if (exchange.gathers or f"dispatch.{name}" in hardware.kernels)
        and exchange.usable(domains=domains, cluster=cluster, expert_shards=expert_shards)
    )


def compare_exchanges(
    hardware: Hardware,
    layer: Layer,
    traffic: Callable[[bool], Traffic],
    *,
    algorithms: Sequence[str] = (),
    dispatch_dtype: str = "fp8",
    expert_shards: int = 1,
    fidelity: Fidelity = "closed",
    change: Callable[[CompiledTopology], CompiledTopology] = lambda topology: topology,
    progress: Callable[[float], None] | None = None,
) -> tuple[Exchanged, ...]:
    """Time dispatch and combine of the same tokens by several algorithms.

    Parameters
    ----------
    hardware : Hardware
        Device, node and what joins the nodes.
    layer : Layer
        Whose tokens travel.
    traffic : callable
        Gives the traffic; its argument says whether the exchange is coordinated.
    algorithms : sequence of str
        Which; all that are :func:`available` if none is named.
    dispatch_dtype : str
        Format of dispatched tokens, a key of :data:`~simulator.exchange.WIRE_BYTES`.
    expert_shards : int
        Ranks that share each expert [1].
    fidelity : {"closed", "flow"}
        Whether messages are sent over single links besides.
    change : callable
        Changes the compiled topology, as :meth:`CompiledTopology.changed_link` does; ``flow`` only.
    progress : callable, optional
        Told the share done [1].

    Raises
    ------
    ScenarioError
        An unknown algorithm or format, or one that the device has no kernel for.
    """
    if dispatch_dtype not in WIRE_BYTES:
        raise ScenarioError(f"dispatch format {dispatch_dtype!r} is unknown; {nearest(dispatch_dtype, WIRE_BYTES)}")
    plain = traffic(False)
    possible = available(hardware, plain.size, expert_shards)
    for name in algorithms:
        if name not in possible:
            raise ScenarioError(
                f"algorithm {name!r} cannot be used by {plain.size} ranks of {hardware.device.id}; "
                f"{nearest(name, possible)}"
            )
    network = _Networks(hardware, plain.size, change) if fidelity == "flow" else None
    rows: list[Exchanged] = []
    wanted = tuple(algorithms) or possible
    for done, name in enumerate(wanted):
        exchange = ALGORITHMS[name]
        sent = traffic(True) if exchange.coordinated else plain
        ways: tuple[Way, Way] = ("dispatch", "combine")
        for phase in ways:
            element = exchange.element_bytes(phase, dispatch_dtype)
            rows.append(_timed(hardware, layer, sent, name, phase, element, expert_shards, network))
        if progress is not None:
            progress((done + 1) / len(wanted))
    return tuple(rows)


class _Networks:
    """Compiled topologies, with all links and without those inside nodes, each made when first needed."""

    def __init__(self, hardware: Hardware, ranks: int, change: Callable[[CompiledTopology], CompiledTopology]):
        node, devices = hardware.node, min(ranks, hardware.node.devices)
        if devices < node.devices:
            # Part of a large domain: the devices that take part, with their share of the NICs.
            node = replace(node, devices=devices, nics=max(1, node.nics * devices // node.devices) if node.nics else 0)
        self.graph = build_topology(hardware.device, node, hardware.cluster, max(1, ranks // devices))
        self.change, self.made = change, dict[bool, CompiledTopology]()

    def topology(self, *, scale_out_only: bool) -> CompiledTopology:
        if scale_out_only not in self.made:
            graph = scale_out_alone(self.graph) if scale_out_only else self.graph
            self.made[scale_out_only] = self.change(compile_topology(graph))
        return self.made[scale_out_only]


def _timed(
    hardware: Hardware,
    layer: Layer,
    traffic: Traffic,
    name: str,
    phase: Way,
    element: float,
    expert_shards: int,
    network: _Networks | None,
) -> Exchanged:
    if name == GATHER:
        return _gathered(hardware, layer, traffic, phase, element, network)
    table, values = kernel_table(hardware.kernels, phase, (name,), None, hardware.device.id)
    kernel = coefficients(ExchangeKernel, values, f"{hardware.device.id}: {table}")

    def time(links: FloatArray | None = None) -> KernelTime:
        every = exchange_time(
            traffic,
            hidden=layer.hidden,
            element_bytes=element,
            fabric=hardware.fabric,
            kernel=kernel,
            num_experts=layer.num_experts,
            expert_shards=expert_shards,
            links=links,
        )
        return slowest(every)

    closed, flow = time(), None
    if network is not None:
        stages = exchange_stages(traffic, kernel, expert_shards=expert_shards)
        links = _links(network, stages, phase, kernel, traffic, layer.hidden * element, hardware.fabric, expert_shards)
        overlap = _overlap(closed, kernel) if len(stages) == 1 else 1.0
        flow = float(time(links * overlap).seconds)
    terms = {term: float(seconds) for term, seconds in closed.terms.items()}
    return Exchanged(
        algorithm=name,
        phase=phase,
        closed=float(closed.seconds),
        flow=flow,
        terms=terms,
        units=kernel.units,
        table=table,
    )


def _overlap(closed: KernelTime, kernel: ExchangeKernel) -> float:
    """Factor by which the kernel fails to use both kinds of link at once, which messages alone would [1]."""
    up, out = float(closed.terms["scale_up"]), float(closed.terms["scale_out"])
    longest = max(up, out)
    return float(smooth_max(up, out, kernel.link_sharpness)) / longest if longest > 0 else 1.0


def _links(
    network: _Networks,
    stages: tuple[FloatArray, ...],
    phase: Way,
    kernel: ExchangeKernel,
    traffic: Traffic,
    payload: float,
    fabric: Fabric,
    expert_shards: int,
) -> FloatArray:
    """What the links take when the kernel's messages share them [s]."""
    n, d = traffic.size, min(traffic.domain, traffic.size)
    m = n // d
    peers = float(scale_out_peers(n, d, m, kernel, expert_shards if kernel.coordinated else 1))
    slowed = float(crowding(peers, kernel))
    carried = min(
        1.0, kernel.connection_rate * max(peers, 1.0) / (fabric.scale_out_bandwidth * kernel.scale_out_efficiency)
    )
    result = run_stages(
        network.topology(scale_out_only=kernel.scale_out_only),
        stages if phase == "dispatch" else reversed_stages(stages),
        payload,
        scale_up_efficiency=kernel.efficiency,
        scale_out_efficiency=kernel.scale_out_efficiency * carried / slowed,
    )
    return np.asarray(result.makespan + kernel.peer * peers * slowed, dtype=np.float64)


def _gathered(
    hardware: Hardware, layer: Layer, traffic: Traffic, phase: Way, element: float, network: _Networks | None
) -> Exchanged:
    family = "all_gather" if phase == "dispatch" else "reduce_scatter"
    table, values = kernel_table(hardware.kernels, family, ("nccl",), None, hardware.device.id)
    kernel = coefficients(CollectiveKernel, values, f"{hardware.device.id}: {table}")
    time = gather_exchange_time(
        traffic, hidden=layer.hidden, element_bytes=element, fabric=hardware.fabric, kernel=kernel
    )
    terms = {term: float(seconds) for term, seconds in time.terms.items()}
    flow = None
    if network is not None:
        stages = gather_stages(traffic)
        result = run_stages(
            network.topology(scale_out_only=False),
            stages if phase == "dispatch" else reversed_stages(stages),
            layer.hidden * element,
            scale_up_efficiency=kernel.efficiency,
            scale_out_efficiency=kernel.scale_out_efficiency,
        )
        flow = terms["latency"] + result.makespan
    return Exchanged(
        algorithm=GATHER, phase=phase, closed=float(time.seconds), flow=flow, terms=terms, units=0.0, table=table
    )


def _groups(num_experts: int, ranks: int, expert_shards: int) -> int:
    if expert_shards < 1 or ranks % expert_shards:
        raise ScenarioError(f"expert exchange: {expert_shards} shards of an expert do not divide {ranks} ranks")
    groups = ranks // expert_shards
    if num_experts % groups:
        raise ScenarioError(
            f"expert exchange: {num_experts} experts do not divide over {groups} groups of ranks; "
            f"ranks that hold as many experts each are needed"
        )
    return groups
