"""A cluster as a graph of devices, switches, NICs and hosts, and the same compiled to arrays.

Links are directed edges with ``bandwidth`` [bytes/s] and ``latency`` [s]. A route is found once per pair when the
graph is compiled; nothing walks the graph afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from hardware_profiles.schema import Cluster, Device, Node
from simulator.arrays import FloatArray, IntArray
from simulator.errors import ProfileError, nearest

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
    links : tuple of str
        Names of the directed links, as ``node0/nic1 -> node0/leaf``.
    capacity : FloatArray
        Bandwidth of each link [bytes/s], shape (links,).
    scale_out : bool array, shape (links,)
        Whether a link is one between nodes or on the way to it.
    routes : int32 array, shape (devices, devices, hops)
        Links of each way in no order, -1 where it has fewer.
    """

    devices: tuple[str, ...]
    node: IntArray
    bandwidth: FloatArray
    latency: FloatArray
    links: tuple[str, ...]
    capacity: FloatArray
    scale_out: NDArray[np.bool_]
    routes: NDArray[np.int32]

    def changed_link(self, name: str, factor: float) -> CompiledTopology:
        """Return the same routes with one link's bandwidth multiplied by ``factor`` [1], both ways.

        Raises
        ------
        ProfileError
            There is no such link, or nothing would be left of it.
        """
        if not (factor > 0 and np.isfinite(factor)):
            raise ProfileError(f"link {name}: factor is {factor!r}; a link needs some bandwidth, more than 0")
        one, _, other = name.partition(" -> ")
        both = {name, f"{other} -> {one}"}
        if name not in self.links:
            raise ProfileError(f"no link {name!r}; {nearest(name, self.links)}")
        capacity = self.capacity * np.array([factor if link in both else 1.0 for link in self.links])
        return replace(self, capacity=capacity)


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
    Half of a link's end-to-end latency lies on either side of the switch between its ends. NICs are shared out evenly
    among the devices. A leaf switch holds the NICs of ``leaf_nodes`` nodes: all of them in a fat tree, those of one
    place in a rail-optimised fabric. Leaves meet in a spine whose uplinks are narrower by the oversubscription.
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
    if cluster is not None and node.nics > 0:
        _add_uplinks(graph, cluster)
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
    ways = [np.empty((0, len(sources), 0), dtype=np.int32)]
    if edges:
        links = _Links(edges, len(vertices), is_device)
        for start in range(0, len(sources), _BLOCK):
            block = slice(start, start + _BLOCK)
            width, delay, way = links.routes(sources[block], sources)
            bandwidth[block], latency[block] = width, delay
            ways.append(way)
    names = [vertices[i] for i in sources]
    _check_connected(names, bandwidth)
    hops = max(way.shape[2] for way in ways)
    routes = np.concatenate([np.pad(w, ((0, 0), (0, 0), (0, hops - w.shape[2])), constant_values=-1) for w in ways])
    return CompiledTopology(
        devices=tuple(names),
        node=np.array([graph.nodes[name]["node"] for name in names], dtype=np.int64),
        bandwidth=bandwidth,
        latency=latency,
        links=tuple(f"{vertices[tail]} -> {vertices[head]}" for head, tail, _ in edges),
        capacity=np.array([link["bandwidth"] for _, _, link in edges], dtype=np.float64),
        scale_out=np.array([link.get("scale_out", False) for _, _, link in edges], dtype=bool),
        routes=routes if edges else np.full((len(sources), len(sources), 0), -1, dtype=np.int32),
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

    def routes(self, sources: IntArray, targets: IntArray) -> tuple[FloatArray, FloatArray, NDArray[np.int32]]:
        """Bandwidth, latency and links of the way from each source to each target; no bandwidth where there is none.

        Shapes (sources, targets), and (sources, targets, hops) for the links.
        """
        rows = np.arange(len(sources))
        usable = self.forwards | (self.tail == sources[:, None])
        cost = np.full((len(sources), self.vertices), np.inf)
        cost[rows, sources] = 0.0
        while True:
            offers = np.where(usable, cost[:, self.tail] + self.cost, np.inf)
            best = np.minimum(cost[:, self.entered], np.minimum.reduceat(offers, self.first, axis=1))
            if np.array_equal(best, cost[:, self.entered]):
                break
            cost[:, self.entered] = best
        return self._follow(sources, targets, self._last(offers, cost))

    def _last(self, offers: FloatArray, cost: FloatArray) -> IntArray:
        """Last link of the way from each source to each vertex, the first of equals; -1 where there is none."""
        count = len(self.head)
        tight = np.where(np.isfinite(offers) & (offers == cost[:, self.head]), count - np.arange(count), 0)
        last = count - np.maximum.reduceat(tight, self.first, axis=1)
        by_vertex = np.full((len(offers), self.vertices), -1, dtype=np.int64)
        by_vertex[:, self.entered] = np.where(last < count, last, -1)
        return by_vertex

    def _follow(
        self, sources: IntArray, targets: IntArray, last: IntArray
    ) -> tuple[FloatArray, FloatArray, NDArray[np.int32]]:
        """Walk every way back from its target, one link per round."""
        rows = np.arange(len(sources))[:, None]
        here = np.broadcast_to(targets, (len(sources), len(targets)))
        home = here == sources[:, None]
        width = np.where(home, np.inf, 0.0)
        width = np.where(home | (last[rows, here] < 0), width, np.inf)
        delay = np.zeros(here.shape)
        way: list[NDArray[np.int32]] = []
        while True:
            link = np.where(here == sources[:, None], -1, last[rows, here])
            going = link >= 0
            if not going.any():
                break
            width = np.where(going, np.minimum(width, self.bandwidth[link]), width)
            delay = np.where(going, delay + self.latency[link], delay)
            way.append(link.astype(np.int32))
            here = np.where(going, self.tail[link], here)
        return width, delay, np.stack(way, axis=-1) if way else np.empty((*here.shape, 0), dtype=np.int32)


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
    group = index // cluster.leaf_nodes
    for i in range(node.nics):
        nic = f"node{index}/nic{i}"
        leaf = f"leaf{group}.{i}" if cluster.topology == "rail" else f"leaf{group}"
        graph.add_node(nic, kind="nic", node=index)
        graph.add_node(leaf, kind="switch", node=-1)
        _join(graph, nic, leaf, bandwidth, latency / 2, scale_out=True)
    # The NIC's end-to-end latency counts the way from device to NIC.
    pairs = max(node.devices, node.nics)
    for i in range(pairs):
        owner, port = i * node.devices // pairs, i * node.nics // pairs
        _join(graph, f"node{index}/device{owner}", f"node{index}/nic{port}", bandwidth, 0.0, scale_out=True)


def _add_uplinks(graph: nx.DiGraph[str], cluster: Cluster) -> None:
    """Join the leaves by a spine, each by as much as its NICs bring over the oversubscription."""
    leaves = [vertex for vertex in graph.nodes if vertex.startswith("leaf")]
    graph.add_node("spine", kind="switch", node=-1)
    for leaf in leaves:
        ports = graph.in_degree(leaf)
        width = cluster.link.bandwidth.value * ports / cluster.oversubscription.value
        _join(graph, leaf, "spine", width, 0.0, scale_out=True)


def scale_out_alone(graph: nx.DiGraph[str]) -> nx.DiGraph[str]:
    """Return the graph without the links between devices of a node, as pure-RDMA kernels use it."""
    kept = [(one, other) for one, other, link in graph.edges(data=True) if link.get("scale_out", False)]
    result: nx.DiGraph[str] = nx.DiGraph()
    result.add_nodes_from(graph.nodes(data=True))
    result.add_edges_from((one, other, graph.edges[one, other]) for one, other in kept)
    return result


def _join(
    graph: nx.DiGraph[str], one: str, other: str, bandwidth: float, latency: float, *, scale_out: bool = False
) -> None:
    """Add a link both ways."""
    graph.add_edge(one, other, bandwidth=bandwidth, latency=latency, scale_out=scale_out)
    graph.add_edge(other, one, bandwidth=bandwidth, latency=latency, scale_out=scale_out)


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
