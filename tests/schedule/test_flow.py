"""Flows: fair shares, the closed form where nothing contends, and the cases where it is not enough."""

from __future__ import annotations

import dataclasses

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware_profiles.loader import load_cluster, load_device, load_node
from simulator.errors import ProfileError, ScenarioError
from simulator.hardware import fabric_of
from simulator.kernels.all_to_all import exchange_stages, exchange_time
from simulator.kernels.expert_exchange import ExchangeKernel
from simulator.kernels.traffic import contiguous_homes, even_traffic, traffic_of
from simulator.schedule.flow import (
    Messages,
    max_min_rates,
    messages_of,
    run_flows,
    run_stages,
    together,
)
from simulator.topology import CompiledTopology, build_topology, compile_topology

DEVICE, NODE, CLUSTER = load_device("h800-sxm"), load_node("hgx-h800"), load_cluster("hgx-h800-ib")
IDEAL = ExchangeKernel(
    launch=0.0, units=1.0, efficiency=1.0, scale_out_efficiency=1.0, sharpness=60.0, link_sharpness=60.0,
    merged=True, forwarded=False,
)  # fmt: skip


def fabric_graph(nodes: int, *, oversubscription: float = 1.0, topology: str = "rail") -> CompiledTopology:
    narrow = dataclasses.replace(CLUSTER.oversubscription, value=oversubscription)
    cluster = dataclasses.replace(CLUSTER, oversubscription=narrow, topology=topology, leaf_nodes=2)
    return compile_topology(build_topology(DEVICE, NODE, cluster, nodes))


def message(source: int, target: int, size: float = 1e9, start: float = 0.0) -> Messages:
    return Messages(
        source=np.array([source]), target=np.array([target]), size=np.array([size]), start=np.array([start])
    )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_rates_are_max_min_fair(data: st.DataObject) -> None:
    """No link is overfull, and every flow crosses a full link on which no flow is faster."""
    links, flows = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 12))
    capacity = np.array(data.draw(st.lists(st.floats(1.0, 100.0), min_size=links, max_size=links)))
    routes = np.full((flows, links), -1)
    for flow in range(flows):
        crossed = data.draw(st.sets(st.integers(0, links - 1), min_size=1))
        routes[flow, : len(crossed)] = sorted(crossed)
    rates = max_min_rates(routes, capacity)
    load = np.array([rates[(routes == link).any(axis=1)].sum() for link in range(links)])
    assert np.all(load <= capacity * (1 + 1e-9))
    for flow in range(flows):
        assert any(
            load[link] >= capacity[link] * (1 - 1e-9)
            and rates[flow] >= rates[(routes == link).any(axis=1)].max() * (1 - 1e-9)
            for link in routes[flow][routes[flow] >= 0]
        )


def test_a_message_alone_takes_its_bytes_over_its_narrowest_link_and_the_latency() -> None:
    result = run_flows(fabric_graph(2), message(0, 8))
    assert result.makespan == pytest.approx(1e9 / 50e9 + 2.8e-6)
    assert result.events == 1


@pytest.mark.parametrize("name", ["straight", "forwarded", "staged"])
def test_even_exchanges_take_what_the_closed_form_says(name: str) -> None:
    kernel = dataclasses.replace(IDEAL, forwarded=name == "forwarded", staged=name == "staged")
    if name == "staged":
        kernel = dataclasses.replace(kernel, link_sharpness=1.0)
    topology, fabric = fabric_graph(4), fabric_of(DEVICE, NODE, CLUSTER)
    traffic = even_traffic(4096, rank_copies=6.0, domain_copies=3.0, top_k=8, ranks=32, domain=8)
    flows = run_stages(topology, exchange_stages(traffic, kernel), 7168.0)
    closed = exchange_time(traffic, hidden=7168, element_bytes=1, fabric=fabric, kernel=kernel)
    assert flows.makespan == pytest.approx(float(closed.seconds.max()), rel=1e-2)


def test_the_hottest_port_decides_in_both_fidelities_where_only_ports_are_shared() -> None:
    rng = np.random.default_rng(0)
    weight = np.arange(1, 17) ** -0.8
    destinations = rng.choice(16, (16 * 64, 4), p=weight / weight.sum())
    traffic = traffic_of(destinations, contiguous_homes(16 * 64, 16), ranks=16, domain=8)
    flows = run_stages(fabric_graph(2), exchange_stages(traffic, IDEAL), 7168.0 * 100)
    closed = exchange_time(
        traffic, hidden=7168, element_bytes=100, fabric=fabric_of(DEVICE, NODE, CLUSTER), kernel=IDEAL
    )
    bound = float(closed.seconds.max())
    assert bound * (1 - 1e-3) <= flows.makespan <= 1.15 * bound


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 50))
def test_every_byte_crosses_every_link_of_its_way_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    topology = fabric_graph(2)
    copies = rng.integers(0, 3, (16, 16)).astype(float)
    result = run_flows(topology, messages_of(copies, 1e6))
    np.fill_diagonal(copies, 0.0)
    hops = (topology.routes >= 0).sum(axis=2)
    assert result.carried.sum() == pytest.approx((copies * hops).sum() * 1e6)
    leaving = [topology.links.index(f"node0/device{i} -> node0/nic{i}") for i in range(8)]
    assert result.carried[leaving] == pytest.approx(copies[:8, 8:].sum(axis=1) * 1e6)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 50))
def test_taking_completions_together_hardly_changes_the_end_and_never_hastens_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    topology, copies = fabric_graph(2), rng.integers(0, 30, (16, 16)).astype(float)
    exact, batched = (run_flows(topology, messages_of(copies, 1e6), batch=b) for b in (0.0, 0.1))
    assert batched.events < exact.events
    assert exact.makespan * (1 - 1e-9) <= batched.makespan <= exact.makespan * 1.03


def test_incast_shares_the_receivers_port() -> None:
    """Seven nodes send to one device: the closed form of the senders' ports knows nothing of it."""
    topology = fabric_graph(8)
    alone = run_flows(topology, message(8, 0)).makespan
    crowd = run_flows(topology, together(*(message(8 * node, 0) for node in range(1, 8))))
    assert crowd.makespan == pytest.approx(7 * alone, rel=1e-3)
    assert crowd.finish == pytest.approx(np.full(7, crowd.makespan))


def test_an_oversubscribed_leaf_slows_what_leaves_it_only() -> None:
    even = np.ones((32, 32))
    wide, narrow = (run_flows(fabric_graph(4, oversubscription=o), messages_of(even, 1e7)) for o in (1.0, 4.0))
    assert narrow.makespan > 2.0 * wide.makespan
    # The same place of the other node of a leaf group: no uplink on the way.
    rail = np.zeros((32, 32))
    rail[np.arange(8), np.arange(8, 16)] = 1.0
    wide, narrow = (run_flows(fabric_graph(4, oversubscription=o), messages_of(rail, 1e7)) for o in (1.0, 4.0))
    assert narrow.makespan == pytest.approx(wide.makespan)


def test_one_slow_cable_delays_the_whole_exchange() -> None:
    topology, even = fabric_graph(2), np.ones((16, 16))
    slow = topology.changed_link("node0/nic3 -> leaf0.3", 0.25)
    healthy, degraded = (run_flows(t, messages_of(even, 1e7)).makespan for t in (topology, slow))
    assert degraded == pytest.approx(4 * healthy, rel=1e-2)


def test_two_jobs_on_one_fabric_slow_each_other_while_they_overlap() -> None:
    topology = fabric_graph(2)
    first = run_flows(topology, message(0, 8)).makespan
    both = run_flows(topology, together(message(0, 8), message(0, 8, start=0.5 * first)))
    # Half alone, then both at half rate until the first is done, then the second alone.
    assert both.finish[0] == pytest.approx(1.5 * first, rel=1e-3)
    assert both.finish[1] == pytest.approx(2.0 * first, rel=1e-3)
    assert both.events == 3


def test_a_later_job_waits_for_its_start_on_an_idle_fabric() -> None:
    result = run_flows(fabric_graph(2), together(message(0, 8), message(1, 9, start=1.0)))
    assert result.finish[1] == pytest.approx(1.0 + 1e9 / 50e9 + 2.8e-6)


def test_nothing_to_send_takes_no_time() -> None:
    topology = fabric_graph(2)
    assert run_stages(topology, (np.zeros((16, 16)), np.eye(16)), 1.0).makespan == 0.0
    assert run_flows(topology, messages_of(np.eye(16), 1.0)).events == 0


def test_stages_follow_one_another() -> None:
    topology, even = fabric_graph(2), np.ones((16, 16))
    one, two = (run_stages(topology, stages, 1e7).makespan for stages in ((even,), (even, even)))
    assert two == pytest.approx(2 * one)


def test_ranks_may_sit_on_other_devices() -> None:
    copies = np.array([[0.0, 1.0], [0.0, 0.0]])
    placed = messages_of(copies, 5.0, devices=np.array([3, 12]), start=2.0)
    assert (placed.source.tolist(), placed.target.tolist(), placed.start.tolist()) == ([3], [12], [2.0])


def test_a_disconnected_topology_is_refused_before_anything_is_sent() -> None:
    graph = build_topology(DEVICE, NODE, CLUSTER, 2)
    graph.remove_edge("leaf0.5", "node1/nic5")
    with pytest.raises(ProfileError, match=r"cannot reach node1/device5; 8 pairs of devices are disconnected"):
        compile_topology(graph)


def test_a_link_without_bandwidth_and_a_message_to_nowhere_are_refused() -> None:
    topology = fabric_graph(2)
    cut = dataclasses.replace(topology, capacity=topology.capacity * 0.0)
    with pytest.raises(ProfileError, match=r"bandwidth is 0\.0 B/s"):
        run_flows(cut, message(0, 8))
    with pytest.raises(ScenarioError, match="names device 99, but the topology has 16"):
        run_flows(topology, message(0, 99))
    with pytest.raises(ScenarioError, match=r"message of 0\.0 bytes"):
        run_flows(topology, message(0, 8, size=0.0))


def test_a_graph_of_ones_own_can_be_used() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph()
    for name, kind in (("a", "device"), ("s", "switch"), ("b", "device")):
        graph.add_node(name, kind=kind, node=0)
    for one, other in (("a", "s"), ("s", "a"), ("s", "b"), ("b", "s")):
        graph.add_edge(one, other, bandwidth=1e9, latency=0.0)
    assert run_flows(compile_topology(graph), message(0, 1)).makespan == pytest.approx(1.0)
