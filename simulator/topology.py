"""A cluster as a graph of devices, switches, NICs and hosts, and the same compiled to arrays.

Links are directed edges with ``bandwidth`` [bytes/s] and ``latency`` [s]. A route is found once per pair when the
graph is compiled; nothing walks the graph afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from hardware_profiles.schema import Cluster, Device, Node
from simulator.errors import ProfileError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Routes are those of least time for a message of this size [bytes], large enough to prefer the fast links.
ROUTE_MESSAGE = 1e6

#: Sources whose routes are found together; bounds the memory of the search.
_BLOCK = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledTopology:
    """Routes between devices as arrays.

    Attributes
    ----------
    devices : tuple of str
        Names of the devices, node by node.
    node : IntArray
        Node that each device sits in, shape (devices,).
    bandwidth : FloatArray
        Narrowest link on the way from one device to another [bytes/s], shape (devices, devices); infinite to itself.
    latency : FloatArray
        Latency of the way [s], shape (devices, devices); 0 to itself.
    """

    devices: tuple[str, ...]
    node: IntArray
    bandwidth: FloatArray
    latency: FloatArray


def build_topology(device: Device, node: Node, cluster: Cluster | None = None, nodes: int = 1) -> nx.DiGraph[str]:
    """Build the graph of some nodes of a cluster.

    Parameters
    ----------
    device, node : Device, Node
        What each node holds.
    cluster : Cluster or None
        What joins the nodes; ``None`` for a single node.
    nodes : int
        Number of nodes.

    Returns
    -------
    networkx.DiGraph
        Vertices have ``kind`` (``device``, ``switch``, ``host``, ``nic``) and ``node``; edges ``bandwidth`` and
        ``latency``.

    Raises
    ------
    ProfileError
        There is no such number of nodes, or nothing that joins them.

    Notes
    -----
    Half of a link's end-to-end latency lies on either side of the switch between its ends. A node has one leaf
    switch with all its NICs; leaves meet in a spine whose uplinks are narrower by the oversubscription. NICs are
    shared out evenly among the devices.
    """
    if nodes < 1:
        raise ProfileError(f"a topology of {nodes} nodes; at least 1 is needed")
    if nodes > 1 and cluster is None:
        raise ProfileError(f"{nodes} nodes of {node.id} need a cluster that joins them")
    if nodes > 1 and node.nics == 0:
        raise ProfileError(f"node {node.id} has no NIC to reach the other {nodes - 1} nodes")
    graph: nx.DiGraph[str] = nx.DiGraph()
    for index in range(nodes):
        _add_node(graph, device, node, index)
        if cluster is not None and node.nics > 0:
            _add_nics(graph, node, cluster, index)
    return graph


def compile_topology(graph: nx.DiGraph[str]) -> CompiledTopology:
    """Find the route between every two devices and keep its bandwidth and latency.

    Raises
    ------
    ProfileError
        A link has no bandwidth, a latency is negative, there is no device, or two devices are not connected.

    Notes
    -----
    Bellman-Ford over all edges at once, for blocks of sources: the route of least ``sum(latency + M / bandwidth)``
    over its links, with M the :data:`ROUTE_MESSAGE`. Devices do not forward for others.
    """
    vertices = list(graph.nodes)
    position = {vertex: i for i, vertex in enumerate(vertices)}
    is_device = np.array([graph.nodes[v]["kind"] == "device" for v in vertices], dtype=bool)
    if not is_device.any():
        raise ProfileError("the topology has no device")
    edges = sorted((position[v], position[u], a) for u, v, a in graph.edges(data=True))
    _check_edges(graph)
    sources = np.flatnonzero(is_device)
    bandwidth = np.full((len(sources), len(sources)), np.inf)
    latency = np.zeros((len(sources), len(sources)))
    if edges:
        links = _Links(edges, len(vertices), is_device)
        for start in range(0, len(sources), _BLOCK):
            block = slice(start, start + _BLOCK)
            width, delay = links.routes(sources[block])
            bandwidth[block], latency[block] = width[:, sources], delay[:, sources]
    names = [vertices[i] for i in sources]
    _check_connected(names, bandwidth)
    return CompiledTopology(
        devices=tuple(names),
        node=np.array([graph.nodes[name]["node"] for name in names], dtype=np.int64),
        bandwidth=bandwidth,
        latency=latency,
    )


class _Links:
    """The edges as arrays, sorted by the vertex that they enter."""

    def __init__(self, edges: list[tuple[int, int, dict[str, float]]], vertices: int, is_device: NDArray[np.bool_]):
        self.head = np.array([head for head, _, _ in edges])
        self.tail = np.array([tail for _, tail, _ in edges])
        self.bandwidth = np.array([link["bandwidth"] for _, _, link in edges])
        self.latency = np.array([link["latency"] for _, _, link in edges])
        self.cost = self.latency + ROUTE_MESSAGE / self.bandwidth
        self.entered, self.first = np.unique(self.head, return_index=True)
        self.forwards = ~is_device[self.tail]
        self.vertices = vertices

    def routes(self, sources: IntArray) -> tuple[FloatArray, FloatArray]:
        """Bandwidth and latency from each source to every vertex, shape (sources, vertices); 0 where unreachable."""
        rows = np.arange(len(sources))
        usable = self.forwards | (self.tail == sources[:, None])
        cost = np.full((len(sources), self.vertices), np.inf)
        cost[rows, sources] = 0.0
        rounds = 0
        while True:
            offers = np.where(usable, cost[:, self.tail] + self.cost, np.inf)
            best = np.minimum(cost[:, self.entered], np.minimum.reduceat(offers, self.first, axis=1))
            if np.array_equal(best, cost[:, self.entered]):
                break
            cost[:, self.entered] = best
            rounds += 1
        return self._follow(sources, offers, cost, rounds)

    def _follow(
        self, sources: IntArray, offers: FloatArray, cost: FloatArray, rounds: int
    ) -> tuple[FloatArray, FloatArray]:
        """Carry bandwidth and latency along the last link of every route, one link per round."""
        rows = np.arange(len(sources))
        count = len(self.head)
        tight = np.where(np.isfinite(offers) & (offers == cost[:, self.head]), count - np.arange(count), 0)
        last = count - np.maximum.reduceat(tight, self.first, axis=1)
        reached = last < count
        last = np.where(reached, last, 0)
        width, delay = np.zeros_like(cost), np.zeros_like(cost)
        width[rows, sources] = np.inf
        for _ in range(rounds):
            before_width = np.take_along_axis(width, self.tail[last], axis=1)
            before_delay = np.take_along_axis(delay, self.tail[last], axis=1)
            width[:, self.entered] = np.where(reached, np.minimum(before_width, self.bandwidth[last]), 0.0)
            delay[:, self.entered] = np.where(reached, before_delay + self.latency[last], 0.0)
            width[rows, sources], delay[rows, sources] = np.inf, 0.0
        return width, delay


def _add_node(graph: nx.DiGraph[str], device: Device, node: Node, index: int) -> None:
    names = [f"node{index}/device{i}" for i in range(node.devices)]
    for name in names:
        graph.add_node(name, kind="device", node=index)
    if "host" in device.links:
        link = device.links["host"]
        for i, name in enumerate(names):
            host = f"node{index}/host{i * node.hosts // node.devices}"
            graph.add_node(host, kind="host", node=index)
            _join(graph, name, host, link.bandwidth.value, link.latency.value)
    if node.scale_up == "none" or node.devices == 1:
        return
    if "scale_up" not in device.links:
        raise ProfileError(f"node {node.id} joins its devices by scale_up links, but device {device.id} states none")
    up = device.links["scale_up"]
    if node.scale_up == "switch":
        switch = f"node{index}/switch"
        graph.add_node(switch, kind="switch", node=index)
        for name in names:
            _join(graph, name, switch, up.bandwidth.value, up.latency.value / 2)
        return
    for i, name in enumerate(names):
        for other in names[:i]:
            _join(graph, name, other, up.bandwidth.value / (node.devices - 1), up.latency.value)


def _add_nics(graph: nx.DiGraph[str], node: Node, cluster: Cluster, index: int) -> None:
    bandwidth, latency = cluster.link.bandwidth.value, cluster.link.latency.value
    leaf = f"node{index}/leaf"
    graph.add_node(leaf, kind="switch", node=index)
    graph.add_node("spine", kind="switch", node=-1)
    _join(graph, leaf, "spine", bandwidth * node.nics / cluster.oversubscription.value, 0.0)
    for i in range(node.nics):
        nic = f"node{index}/nic{i}"
        graph.add_node(nic, kind="nic", node=index)
        _join(graph, nic, leaf, bandwidth, latency / 2)
    # The NIC's end-to-end latency counts the way from device to NIC.
    pairs = max(node.devices, node.nics)
    for i in range(pairs):
        owner, port = i * node.devices // pairs, i * node.nics // pairs
        _join(graph, f"node{index}/device{owner}", f"node{index}/nic{port}", bandwidth, 0.0)


def _join(graph: nx.DiGraph[str], one: str, other: str, bandwidth: float, latency: float) -> None:
    """Add a link both ways."""
    graph.add_edge(one, other, bandwidth=bandwidth, latency=latency)
    graph.add_edge(other, one, bandwidth=bandwidth, latency=latency)


def _check_edges(graph: nx.DiGraph[str]) -> None:
    for one, other, link in graph.edges(data=True):
        if not (link["bandwidth"] > 0 and np.isfinite(link["bandwidth"])):
            raise ProfileError(f"link {one} -> {other}: bandwidth is {link['bandwidth']!r} B/s, expected more than 0")
        if not (link["latency"] >= 0 and np.isfinite(link["latency"])):
            raise ProfileError(f"link {one} -> {other}: latency is {link['latency']!r} s, expected 0 or more")


def _check_connected(names: list[str], bandwidth: FloatArray) -> None:
    missing = np.argwhere(bandwidth == 0)
    if len(missing):
        one, other = missing[0]
        raise ProfileError(
            f"{names[one]} cannot reach {names[other]}; {len(missing)} pairs of devices are disconnected"
        )
