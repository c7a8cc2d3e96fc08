"""The hardware of a scenario: device, node, cluster and price, with what the cost model needs of them.

Profiles keep provenance; :class:`Silicon` and :class:`Fabric` are the same facts as plain floats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hardware_profiles.loader import (
    cluster_names,
    load_cluster,
    load_device,
    load_node,
    load_price,
    node_names,
    resolve_kernels,
)
from hardware_profiles.schema import Cluster, Device, LinkName, Node, Processor, Quantity
from hardware_profiles.units import format_rate
from simulator.errors import ProfileError, nearest
from simulator.kernels.kernel import Fabric, Silicon

#: Resources that every device has: the processor that runs what no policy sends elsewhere, and its links.
MAIN, LINK = "main", "link"
#: Resource that is the processor of the node's host.
HOST = "host"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """What an op can run on: a processor as floats, and the kernels that it has or borrows.

    ``silicon`` is the processor; ``kernels`` are its coefficients by kernel, relatives' included; ``evidence`` says
    whose they are.
    """

    silicon: Silicon
    kernels: Mapping[str, Mapping[str, Quantity]]
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """Where a scenario runs.

    Attributes
    ----------
    device, node : Device, Node
        The accelerator and what holds it; a device without a node profile stands alone in one of its own.
    cluster : Cluster or None
        What joins nodes; ``None`` where there is but one.
    nodes : int
        Nodes at hand: the cluster's catalogue size unless the caller said otherwise.
    silicon : Silicon
        The main processor as floats.
    fabric : Fabric
        The links as floats.
    price : Quantity or None
        Cost of one device per time [USD/s]; ``None`` where the catalogue has no price.
    kernels : Mapping of str to Mapping of str to Quantity
        Coefficients by kernel, relatives' included.
    evidence : str
        Whose kernels they are: ``own`` or ``relative's kernels: <id>``.
    further : Mapping of str to Resource
        The device's other processors by name, and the ``host`` of its node.
    """

    device: Device
    node: Node
    cluster: Cluster | None
    nodes: int
    silicon: Silicon
    fabric: Fabric
    price: Quantity | None
    kernels: Mapping[str, Mapping[str, Quantity]]
    evidence: str
    further: Mapping[str, Resource] = field(default_factory=dict)

    def resource(self, name: str) -> Resource:
        """Return what an op runs on: ``main``, ``link`` (which kernels of the main processor drive), or another.

        Raises
        ------
        ProfileError
            The device has no such processor.
        """
        if name in {MAIN, LINK, self.device.main.name}:
            return Resource(silicon=self.silicon, kernels=self.kernels, evidence=self.evidence)
        if name not in self.further:
            names = (MAIN, LINK, *self.device.processors, *self.further)
            raise ProfileError(f"{self.device.id} has no processor {name!r}; {nearest(name, names)}")
        return self.further[name]

    @property
    def devices(self) -> int:
        """Devices at hand over all nodes [1]."""
        return self.node.devices * self.nodes

    @property
    def host_bandwidth(self) -> float:
        """Bandwidth of a device to its host [bytes/s]: of its host link, else of its share of the scale-out links."""
        link = self.device.links.get("host")
        return link.bandwidth.value if link is not None else self.fabric.scale_out_bandwidth


def load_hardware(
    device: str,
    node: str | None = None,
    cluster: str | None = None,
    folder: Path | None = None,
    *,
    nodes: int | None = None,
    devices: int | None = None,
    offer: str | None = None,
) -> Hardware:
    """Load what a scenario names and check that it fits together.

    Parameters
    ----------
    device : str
        Id or alias of the device.
    node : str or None
        Node profile; where absent, the cluster's, else the first one with this device, else the device alone.
    cluster : str or None
        Cluster profile; where absent and more than one node is wanted, the first one with this node.
    folder : Path or None
        The user's profiles.
    nodes : int or None
        Nodes at hand; where absent, as many as ``devices`` need.
    devices : int or None
        Devices that are needed [1]; where absent too, one node, or the catalogue size of a cluster that was named.
    offer : str or None
        Price offer; the device's default where absent.

    Raises
    ------
    ProfileError
        A name is unknown, the node holds another device, the cluster joins other nodes, or no cluster joins these.
    """
    accelerator = load_device(device, folder)
    joined = load_cluster(cluster, folder) if cluster is not None else None
    home = _choose_node(accelerator, node or (joined.node if joined else None), folder)
    if nodes is None and devices is not None:
        nodes = max(-(-devices // home.devices), 1)
    if joined is None and nodes is not None and nodes > 1:
        joined = _cluster_of(home, nodes, folder)
    if joined is not None and joined.node != home.id:
        raise ProfileError(f"cluster {joined.id} joins {joined.node} nodes, not {home.id}")
    kernels, evidence = resolve_kernels(accelerator.main, folder)
    return Hardware(
        device=accelerator,
        node=home,
        cluster=joined,
        nodes=nodes or (joined.nodes if joined else 1),
        silicon=silicon_of(accelerator.main, accelerator.id),
        fabric=fabric_of(accelerator, home, joined),
        price=_price(accelerator, offer, folder),
        kernels=kernels,
        evidence=evidence,
        further=_further(accelerator, home, folder),
    )


def _further(device: Device, node: Node, folder: Path | None) -> Mapping[str, Resource]:
    """Resources beside the main processor."""
    processors = {name: processor for name, processor in device.processors.items() if name != device.main.name}
    if node.host is not None:
        processors[HOST] = load_device(node.host, folder).main
    found = {}
    for name, processor in processors.items():
        kernels, evidence = resolve_kernels(processor, folder)
        found[name] = Resource(
            silicon=silicon_of(processor, f"the {name} of {device.id}"), kernels=kernels, evidence=evidence
        )
    return found


def evidence_words(evidence: str) -> str:
    """Say whose kernels a processor has.

    Examples
    --------
    >>> evidence_words("own; relative's kernels: a100-sxm; relative's kernels: h100-sxm")
    'kernels of its own, and those that it lacks of a100-sxm, h100-sxm'
    >>> evidence_words("relative's kernels: h100-sxm")
    'kernels of h100-sxm'
    """
    relatives = [part.partition(": ")[2] for part in evidence.split("; ") if ": " in part]
    if not relatives:
        return "kernels of its own" if evidence == "own" else "no kernels"
    named = ", ".join(relatives)
    return (
        f"kernels of its own, and those that it lacks of {named}"
        if evidence.startswith("own")
        else f"kernels of {named}"
    )


def unused_processors(device: Device) -> tuple[str, ...]:
    """Say which processors of a device serve nothing: no key of a scenario sends ops to another than the main one."""
    return tuple(
        f"the {other.name} processor of {device.id} ({format_rate(other.memory_bandwidth.value)}) is not used by "
        "serving scenarios: the answer is that of its main processor"
        for other in device.processors.values()
        if other.name != device.main.name
    )


def silicon_of(processor: Processor, name: str = "the processor") -> Silicon:
    """Take the floats of a processor, which messages call by a name; one without a cache has none to hit."""
    return Silicon(
        units=processor.units.value,
        clock=processor.clock.value,
        peak={dtype: quantity.value for dtype, quantity in processor.peak.items()},
        memory_bandwidth=processor.memory_bandwidth.value,
        cache=processor.cache.value if processor.cache else 0.0,
        sustained=processor.sustained.value if processor.sustained else 1.0,
        name=name,
    )


def fabric_of(device: Device, node: Node, cluster: Cluster | None = None) -> Fabric:
    """Take the floats of the links, per device and direction.

    A device's share of the scale-out fabric is its share of the node's NICs, over the oversubscription of the leaf:
    what it gets when every device sends to other nodes at once. Without a cluster it is the device's own port.

    Raises
    ------
    ProfileError
        The node joins its devices by a link that the device lacks, or a cluster joins nodes that have no NIC.
    """
    up = _scale_up_link(device, node)
    if cluster is None:
        out = device.links.get("scale_out")
        out_bandwidth, out_latency = (out.bandwidth.value, out.latency.value) if out else up
    else:
        if node.nics == 0:
            raise ProfileError(f"node {node.id} has no NIC, so that cluster {cluster.id} cannot join it to others")
        share = node.nics / node.devices / cluster.oversubscription.value
        out_bandwidth, out_latency = cluster.link.bandwidth.value * share, cluster.link.latency.value
    return Fabric(
        domain=node.devices if node.scale_up != "none" else 1,
        scale_up_bandwidth=up[0],
        scale_up_latency=up[1],
        scale_out_bandwidth=out_bandwidth,
        scale_out_latency=out_latency,
        switched=node.scale_up != "full_mesh",
        switch_reduction=node.switch_reduction.value if node.switch_reduction else 0.0,
        clock=device.main.clock.value,
        memory_bandwidth=device.main.memory_bandwidth.value,
    )


def _scale_up_link(device: Device, node: Node) -> tuple[float, float]:
    """Bandwidth [bytes/s] and latency [s] between devices of a node."""
    name: LinkName = "host" if node.scale_up == "none" else "scale_up"
    link = device.links.get(name)
    if link is not None:
        return link.bandwidth.value, link.latency.value
    if node.devices > 1:
        raise ProfileError(f"node {node.id} joins its devices by {name} links, but device {device.id} states none")
    # A device alone exchanges data with nobody but itself, through its memory.
    return device.main.memory_bandwidth.value, 0.0


def _choose_node(device: Device, name: str | None, folder: Path | None) -> Node:
    if name is not None:
        node = load_node(name, folder)
        if node.device != device.id:
            fitting = ", ".join(n.id for n in _nodes_of(device, folder)) or "none in the catalogue"
            raise ProfileError(f"node {node.id} holds {node.device}, not {device.id}; nodes of {device.id}: {fitting}")
        return node
    return next(_nodes_of(device, folder), None) or _alone(device)


def _nodes_of(device: Device, folder: Path | None) -> Iterator[Node]:
    nodes = (load_node(name, folder) for name in node_names(folder))
    return (node for node in nodes if node.device == device.id)


def _alone(device: Device) -> Node:
    """A node of one device, for devices that the catalogue puts in none."""
    return Node(
        id=f"{device.id}-alone",
        name=f"One {device.name}",
        device=device.id,
        devices=1,
        scale_up="none",
        host=None,
        hosts=1,
        nics=0,
        all_in_power=device.tdp,
        note="No node profile has this device; power is that of the device alone.",
    )


def _cluster_of(node: Node, nodes: int, folder: Path | None) -> Cluster:
    clusters = (load_cluster(name, folder) for name in cluster_names(folder))
    for cluster in clusters:
        if cluster.node == node.id:
            return cluster
    raise ProfileError(f"{nodes} nodes are wanted, but no cluster joins {node.id} nodes; add a cluster profile")


def _price(device: Device, offer: str | None, folder: Path | None) -> Quantity | None:
    price = load_price(device.id, folder)
    if price is None:
        if offer is not None:
            raise ProfileError(f"price offer {offer!r}: the catalogue has no price of {device.id}")
        return None
    wanted = offer or price.default
    if wanted not in price.offers:
        raise ProfileError(f"{device.id} has no price offer {wanted!r}; {nearest(wanted, price.offers)}")
    return price.offers[wanted]
