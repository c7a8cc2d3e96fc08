from __future__ import annotations

import dataclasses
import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware_profiles.loader import load_cluster, load_device, load_node
from hardware_profiles.schema import Cluster, Device, Node
from simulator.errors import ProfileError
from simulator.hardware import fabric_of
from simulator.topology import (
    ROUTE_MESSAGE,
    CompiledTopology,
    build_topology,
    compile_topology,
    scale_out_alone,
)


def _parts(device: str, node: str, cluster: str) -> tuple[Device, Node, Cluster]:
    return load_device(device), load_node(node), load_cluster(cluster)


CLUSTERS = [
    _parts("h800-sxm", "hgx-h800", "hgx-h800-ib"),
    _parts("h20", "hgx-h20", "hgx-h20-ib"),
    _parts("ascend-910b", "atlas-800t-a2", "atlas-roce"),
    _parts("ascend-910c", "cloudmatrix384-server", "cloudmatrix384-ub"),
]


@pytest.mark.parametrize("parts", CLUSTERS, ids=lambda p: p[2].id)
def test_routes_agree_with_the_fabric_of_the_cost_model(parts: tuple[Device, Node, Cluster]) -> None:
    device, node, cluster = parts
    fabric = fabric_of(device, node, cluster)
    compiled = compile_topology(build_topology(device, node, cluster, 2))
    pair = fabric.scale_up_bandwidth / (1 if fabric.switched else node.devices - 1)
    assert compiled.bandwidth[0, 1] == pytest.approx(pair)
    assert compiled.latency[0, 1] == pytest.approx(fabric.scale_up_latency)
    # One pair alone has the whole NIC; the fabric gives what is left when all devices send.
    sharing = max(1.0, node.devices / node.nics)
    assert compiled.bandwidth[0, node.devices] == pytest.approx(fabric.scale_out_bandwidth * sharing)
    assert compiled.latency[0, node.devices] == pytest.approx(fabric.scale_out_latency)


def test_a_supernode_is_uniform() -> None:
    compiled = compile_topology(build_topology(load_device("ascend-910c"), load_node("cloudmatrix384")))
    others = ~np.eye(384, dtype=bool)
    assert np.unique(compiled.bandwidth[others]) == pytest.approx([392e9])
    assert np.unique(compiled.latency[others]) == pytest.approx([1.2e-6])


def test_devices_keep_their_node_and_reach_themselves_at_once() -> None:
    compiled = compile_topology(build_topology(*CLUSTERS[0], 3))
    assert compiled.node.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert compiled.devices[8] == "node1/device0"
    assert np.all(np.diag(compiled.latency) == 0)
    assert np.all(np.isinf(np.diag(compiled.bandwidth)))


def test_routes_are_the_same_both_ways() -> None:
    compiled = compile_topology(build_topology(*CLUSTERS[2], 2))
    assert np.array_equal(compiled.bandwidth, compiled.bandwidth.T)
    assert np.array_equal(compiled.latency, compiled.latency.T)


def test_a_tight_leaf_narrows_the_way_to_other_nodes_only() -> None:
    device, node, cluster = CLUSTERS[0]
    tight = dataclasses.replace(_oversubscribed(cluster, 32.0), topology="fat_tree", leaf_nodes=1)
    compiled = compile_topology(build_topology(device, node, tight, 2))
    assert compiled.bandwidth[0, 8] == pytest.approx(8 * 50e9 / 32)
    assert compiled.bandwidth[0, 1] == pytest.approx(200e9)


def _oversubscribed(cluster: Cluster, value: float) -> Cluster:
    return dataclasses.replace(cluster, oversubscription=dataclasses.replace(cluster.oversubscription, value=value))


def test_rails_keep_one_place_of_all_nodes_on_one_switch() -> None:
    device, node, cluster = CLUSTERS[0]
    rail = _oversubscribed(dataclasses.replace(cluster, topology="rail", leaf_nodes=2), 32.0)
    compiled = compile_topology(build_topology(device, node, rail, 4))
    assert compiled.bandwidth[0, 8] == pytest.approx(50e9)
    narrow = 2 * 50e9 / 32
    assert compiled.bandwidth[0, 9] == pytest.approx(narrow)  # another rail
    assert compiled.bandwidth[0, 16] == pytest.approx(narrow)  # the same rail, another group of nodes


def test_every_way_is_made_of_its_links() -> None:
    compiled = compile_topology(build_topology(*CLUSTERS[0], 3))
    padded = np.append(compiled.capacity, np.inf)
    np.testing.assert_array_equal(padded[compiled.routes].min(axis=2), compiled.bandwidth)
    names = [compiled.links[link] for link in compiled.routes[0, 9] if link >= 0]
    assert set(names) == {
        "node0/device0 -> node0/nic0",
        "node0/nic0 -> leaf0.0",
        "leaf0.0 -> spine",
        "spine -> leaf0.1",
        "leaf0.1 -> node1/nic1",
        "node1/nic1 -> node1/device1",
    }
    assert np.all(compiled.routes[4, 4] == -1)
    assert compiled.scale_out[compiled.routes[0, 9][compiled.routes[0, 9] >= 0]].all()
    assert not compiled.scale_out[compiled.routes[0, 1][compiled.routes[0, 1] >= 0]].any()


def test_a_slow_link_keeps_the_routes_and_narrows_both_directions() -> None:
    compiled = compile_topology(build_topology(*CLUSTERS[0], 2))
    slow = compiled.changed_link("node0/nic3 -> leaf0.3", 0.25)
    for name in ("node0/nic3 -> leaf0.3", "leaf0.3 -> node0/nic3"):
        assert slow.capacity[slow.links.index(name)] == pytest.approx(0.25 * 50e9)
    assert np.count_nonzero(slow.capacity != compiled.capacity) == 2
    np.testing.assert_array_equal(slow.routes, compiled.routes)


def test_an_unknown_or_cut_link_is_refused() -> None:
    compiled = compile_topology(build_topology(*CLUSTERS[0], 2))
    with pytest.raises(ProfileError, match=r"no link 'node0/nic3 -> leaf0\.33'.*node0/nic3 -> leaf0\.3"):
        compiled.changed_link("node0/nic3 -> leaf0.33", 0.5)
    with pytest.raises(ProfileError, match=r"factor is 0\.0; a link needs some bandwidth"):
        compiled.changed_link("node0/nic3 -> leaf0.3", 0.0)


def test_pure_rdma_takes_the_nic_inside_a_node_too() -> None:
    graph = build_topology(*CLUSTERS[0], 2)
    compiled = compile_topology(scale_out_alone(graph))
    assert compiled.bandwidth[0, 1] == pytest.approx(50e9)
    assert compiled.scale_out.all()


def test_vertices_are_devices_switches_hosts_and_nics() -> None:
    graph = build_topology(*CLUSTERS[0], 2)
    kinds = [data["kind"] for _, data in graph.nodes(data=True)]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"device": 16, "host": 4, "nic": 16, "switch": 11}


def test_devices_do_not_forward_for_others() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph()
    for name in "abc":
        graph.add_node(name, kind="device", node=0)
    for one, other in (("a", "b"), ("b", "c")):
        graph.add_edge(one, other, bandwidth=1e9, latency=1e-6)
        graph.add_edge(other, one, bandwidth=1e9, latency=1e-6)
    with pytest.raises(ProfileError, match="a cannot reach c; 2 pairs of devices are disconnected"):
        compile_topology(graph)


@pytest.mark.parametrize("attribute", ["bandwidth", "latency"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_link_with_an_impossible_number_is_named(attribute: str, value: float) -> None:
    graph = build_topology(*CLUSTERS[0])
    graph.edges["node0/device3", "node0/switch"][attribute] = value
    with pytest.raises(ProfileError, match=f"link node0/device3 -> node0/switch: {attribute} is {value!r}"):
        compile_topology(graph)


def test_a_link_without_bandwidth_is_named() -> None:
    graph = build_topology(*CLUSTERS[0])
    graph.edges["node0/device3", "node0/switch"]["bandwidth"] = 0.0
    with pytest.raises(ProfileError, match=r"bandwidth is 0\.0 B/s, expected more than 0"):
        compile_topology(graph)


def test_nodes_that_nothing_joins_are_refused() -> None:
    device, node, cluster = CLUSTERS[0]
    with pytest.raises(ProfileError, match="2 nodes of hgx-h800 need a cluster that joins them"):
        build_topology(device, node, None, 2)
    with pytest.raises(ProfileError, match="node hgx-h800 has no NIC to reach the other 1 nodes"):
        build_topology(device, dataclasses.replace(node, nics=0), cluster, 2)
    with pytest.raises(ProfileError, match="a topology of 0 nodes; at least 1 is needed"):
        build_topology(device, node, cluster, 0)


def test_a_topology_without_devices_is_refused() -> None:
    with pytest.raises(ProfileError, match="the topology has no device"):
        compile_topology(nx.DiGraph())


def test_a_device_alone_compiles() -> None:
    node = dataclasses.replace(load_node("hgx-h100"), devices=1, scale_up="none")
    compiled = compile_topology(build_topology(load_device("xeon-8480"), node))
    assert compiled.devices == ("node0/device0",)
    assert compiled.bandwidth.shape == (1, 1)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_routes_match_a_search_of_the_graph(data: st.DataObject) -> None:
    """Compare with Dijkstra over random fabrics of switches, where a route of least cost is unique."""
    switches = data.draw(st.integers(1, 5))
    devices = data.draw(st.integers(2, 6))
    number = st.floats(1e-6, 1e-3)
    graph: nx.DiGraph[str] = nx.DiGraph()
    for i in range(switches):
        graph.add_node(f"s{i}", kind="switch", node=0)
    for i in range(devices):
        graph.add_node(f"d{i}", kind="device", node=0)
        attached = f"s{data.draw(st.integers(0, switches - 1))}"
        for edge in ((f"d{i}", attached), (attached, f"d{i}")):
            graph.add_edge(*edge, bandwidth=1e3 / data.draw(number), latency=data.draw(number))
    for i, j in itertools.permutations(range(switches), 2):
        if abs(i - j) == 1 or data.draw(st.booleans()):
            graph.add_edge(f"s{i}", f"s{j}", bandwidth=1e3 / data.draw(number), latency=data.draw(number))
    compiled = compile_topology(graph)
    for i, j in itertools.permutations(range(devices), 2):
        _check_route(graph, compiled, i, j)


def _check_route(graph: nx.DiGraph[str], compiled: CompiledTopology, i: int, j: int) -> None:
    def cost(one: str, other: str, link: dict[str, float]) -> float:
        return link["latency"] + ROUTE_MESSAGE / link["bandwidth"]

    path = nx.dijkstra_path(graph, compiled.devices[i], compiled.devices[j], weight=cost)
    best = sum(cost(a, b, graph.edges[a, b]) for a, b in itertools.pairwise(path))
    ties = [
        p
        for p in nx.all_simple_paths(graph, compiled.devices[i], compiled.devices[j])
        if sum(cost(a, b, graph.edges[a, b]) for a, b in itertools.pairwise(p)) <= best * (1 + 1e-9)
    ]
    routes = {
        (min(graph.edges[e]["bandwidth"] for e in itertools.pairwise(p)), len(p)): sum(
            graph.edges[e]["latency"] for e in itertools.pairwise(p)
        )
        for p in ties
    }
    assert any(
        compiled.bandwidth[i, j] == pytest.approx(width) and compiled.latency[i, j] == pytest.approx(delay)
        for (width, _), delay in routes.items()
    )
