from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hardware_profiles.loader import device_names, load_cluster, load_device, load_node
from hardware_profiles.writer import save_device
from simulator.errors import ProfileError
from simulator.hardware import fabric_of, load_hardware, silicon_of


def test_a_device_alone_gets_its_usual_node() -> None:
    hardware = load_hardware("H200")
    assert (hardware.node.id, hardware.cluster, hardware.nodes, hardware.devices) == ("hgx-h200", None, 1, 8)
    assert hardware.price is not None
    assert hardware.price.value == pytest.approx(2.05 / 3600)
    assert hardware.evidence == "relative's kernels: h100-sxm"


def test_a_cluster_brings_its_node_and_its_size() -> None:
    hardware = load_hardware("h800-sxm", cluster="hgx-h800-ib")
    assert (hardware.node.id, hardware.nodes) == ("hgx-h800", load_cluster("hgx-h800-ib").nodes)
    assert load_hardware("h800-sxm", cluster="hgx-h800-ib", nodes=4).devices == 32


def test_only_switches_that_can_add_do() -> None:
    reach = {d: load_hardware(d).fabric.switch_reduction for d in ("a100-sxm", "h100-sxm", "h200-sxm", "b200-sxm")}
    assert reach["a100-sxm"] == 0.0
    assert reach["h100-sxm"] == reach["h200-sxm"] == 1.0
    assert 0.8 < reach["b200-sxm"] < 1.0


def test_several_nodes_without_a_cluster_find_one() -> None:
    hardware = load_hardware("h800-sxm", nodes=4)
    assert hardware.cluster is not None
    assert (hardware.cluster.id, hardware.nodes) == ("hgx-h800-ib", 4)


@pytest.mark.parametrize("name", device_names())
def test_every_device_of_the_catalogue_loads_with_usable_floats(name: str) -> None:
    hardware = load_hardware(name)
    silicon, fabric = hardware.silicon, hardware.fabric
    assert min(silicon.units, silicon.clock, silicon.memory_bandwidth, *silicon.peak.values()) > 0
    assert min(fabric.scale_up_bandwidth, fabric.scale_out_bandwidth) > 0
    assert 1 <= fabric.domain <= hardware.node.devices


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            {"device": "h100-sxm", "node": "hgx-h200"},
            "node hgx-h200 holds h200-sxm, not h100-sxm; nodes of h100-sxm: hgx",
        ),
        ({"device": "h100-sxm", "node": "hgx-h10"}, "unknown node 'hgx-h10'; did you mean 'hgx-h100'"),
        ({"device": "h100-sxm", "cluster": "hgx-h100"}, "unknown cluster 'hgx-h100'; did you mean 'hgx-h100-ib'"),
        ({"device": "h100-sxm", "cluster": "hgx-h200-ib"}, "node hgx-h200 holds h200-sxm, not h100-sxm"),
        (
            {"device": "h100-sxm", "node": "hgx-h100", "cluster": "hgx-h200-ib"},
            "cluster hgx-h200-ib joins hgx-h200 nodes, not hgx-h100",
        ),
        ({"device": "h100-sxm", "offer": "rental"}, "h100-sxm has no price offer 'rental'; did you mean 'rental_3yr'"),
        ({"device": "xeon-8480", "offer": "rental"}, "price offer 'rental': the catalogue has no price of xeon-8480"),
        ({"device": "xeon-8480", "nodes": 2}, "2 nodes are wanted, but no cluster joins xeon-8480-alone nodes"),
    ],
)
def test_what_does_not_fit_together_is_refused(names: dict[str, str | int], message: str) -> None:
    with pytest.raises(ProfileError) as caught:
        load_hardware(**names)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_a_device_without_a_node_stands_alone(tmp_path: Path) -> None:
    (tmp_path / "devices").mkdir()
    mine = dataclasses.replace(load_device("h100-sxm"), id="mine", aliases=())
    save_device(mine, tmp_path / "devices" / "mine.toml")
    hardware = load_hardware("mine", folder=tmp_path)
    assert (hardware.node.devices, hardware.fabric.domain, hardware.price) == (1, 1, None)
    assert hardware.kernels
    assert hardware.evidence == "own"


def test_a_share_of_the_nics_is_what_a_device_gets() -> None:
    fabric = load_hardware("h20", cluster="hgx-h20-ib").fabric
    assert fabric.scale_out_bandwidth == pytest.approx(25e9)
    assert fabric.scale_up_bandwidth == pytest.approx(450e9)


def test_oversubscription_narrows_the_scale_out_share() -> None:
    device, node, cluster = load_device("h100-sxm"), load_node("hgx-h100"), load_cluster("hgx-h100-ib")
    narrow = dataclasses.replace(cluster, oversubscription=dataclasses.replace(cluster.oversubscription, value=2.0))
    assert (
        fabric_of(device, node, narrow).scale_out_bandwidth == fabric_of(device, node, cluster).scale_out_bandwidth / 2
    )


def test_a_full_mesh_is_not_switched_and_a_supernode_is_one_domain() -> None:
    assert not load_hardware("ascend-910b").fabric.switched
    fabric = load_hardware("ascend-910c").fabric
    assert (fabric.domain, fabric.switched) == (384, True)


def test_devices_joined_through_their_host_are_no_scale_up_domain() -> None:
    device = load_device("h100-sxm")
    node = dataclasses.replace(load_node("hgx-h100"), scale_up="none")
    fabric = fabric_of(device, node)
    assert fabric.domain == 1
    assert fabric.scale_up_bandwidth == device.links["host"].bandwidth.value


def test_a_cluster_of_nodes_without_nics_is_refused() -> None:
    node = dataclasses.replace(load_node("hgx-h100"), nics=0)
    with pytest.raises(ProfileError, match="node hgx-h100 has no NIC"):
        fabric_of(load_device("h100-sxm"), node, load_cluster("hgx-h100-ib"))


def test_a_missing_link_is_named() -> None:
    with pytest.raises(ProfileError, match="by scale_up links, but device xeon-8480 states none"):
        fabric_of(load_device("xeon-8480"), load_node("hgx-h100"))


def test_a_processor_without_a_cache_has_none_to_hit() -> None:
    assert silicon_of(load_device("duplex").processors["pim"]).cache == 0.0


def test_a_device_reaches_its_host_over_its_host_link_or_else_over_its_share_of_the_scale_out_links() -> None:
    linked = load_hardware("h100-sxm")
    assert linked.host_bandwidth == linked.device.links["host"].bandwidth.value
    links = {name: link for name, link in linked.device.links.items() if name != "host"}
    alone = dataclasses.replace(linked, device=dataclasses.replace(linked.device, links=links))
    assert alone.host_bandwidth == linked.fabric.scale_out_bandwidth


@pytest.mark.parametrize(("devices", "nodes"), [(1, 1), (8, 1), (9, 2), (24, 3)])
def test_so_many_devices_take_the_nodes_that_hold_them(devices: int, nodes: int) -> None:
    assert load_hardware("h100-sxm", devices=devices).nodes == nodes
    assert load_hardware("h100-sxm", devices=devices, nodes=4).nodes == 4
