from __future__ import annotations

import csv
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import hardware_profiles
from hardware_profiles.loader import (
    cluster_names,
    device_names,
    load_cluster,
    load_device,
    load_node,
    load_price,
    node_names,
    resolve_kernels,
)
from hardware_profiles.schema import Device

CATALOGUE = Path(hardware_profiles.__file__).parent
PUBLISHED = Path(__file__).parents[1] / "data" / "hardware.csv"

REQUIRED = [
    "a100-sxm",
    "h100-sxm",
    "h200-sxm",
    "h800-sxm",
    "h20",
    "b200-sxm",
    "gb200",
    "ascend-910b",
    "ascend-910c",
    "metax-c500",
    "metax-c550",
    "duplex",
    "bank-pim",
    "bankgroup-pim",
]
ACCELERATORS = [n for n in device_names() if load_device(n).main.kind in {"gpu", "npu"}]


@pytest.mark.parametrize("name", REQUIRED)
def test_the_promised_devices_exist(name: str) -> None:
    assert load_device(name).id == name


def test_there_are_host_processors_for_the_nodes() -> None:
    hosts = {load_node(n).host for n in node_names()} - {None}
    assert {"xeon-8480", "kunpeng-920"} <= hosts
    assert all(load_device(h).main.kind == "cpu" for h in hosts if h)


def _numbers(table: Mapping[str, object], where: str, filled: Mapping[str, object]) -> Iterator[str]:
    """Yield the place of every number that is not the value or error of a complete quantity."""
    own = table.get("_provenance", {})
    assert isinstance(own, Mapping)
    filled = {**filled, **own}
    complete = {"value", "unit", "source", "status"} <= {*table, *filled}
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{where}.{key}", filled)
        elif isinstance(value, (int, float)) and not (complete and key in {"value", "error"}):
            yield f"{where}.{key}"


@pytest.mark.parametrize("kind", ["devices", "nodes", "clusters", "prices", "kernels"])
def test_every_number_of_the_catalogue_has_unit_source_and_status(kind: str) -> None:
    files = sorted((CATALOGUE / kind).glob("*.toml"))
    assert files
    bare = [place for file in files for place in _numbers(tomllib.loads(file.read_text()), file.stem, {})]
    assert bare == []


def test_what_is_assumed_says_why() -> None:
    silent = []
    for file in (f for kind in ("devices", "nodes", "clusters", "prices") for f in (CATALOGUE / kind).glob("*.toml")):
        silent += [
            f"{file.stem}: {q['source']}"
            for q in _quantities(tomllib.loads(file.read_text()))
            if q["status"] == "assumption" and not q.get("note")
        ]
    assert silent == []


def _quantities(table: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    if "value" in table:
        yield table
    for value in table.values():
        if isinstance(value, Mapping):
            yield from _quantities(value)


@pytest.mark.parametrize("name", node_names())
def test_every_node_loads_with_a_device_that_has_its_links(name: str) -> None:
    node = load_node(name)
    assert "scale_up" in load_device(node.device).links
    assert node.all_in_power.value >= node.devices * load_device(node.device).tdp.value


@pytest.mark.parametrize("name", cluster_names())
def test_every_cluster_loads_with_a_node_that_has_nics(name: str) -> None:
    assert load_node(load_cluster(name).node).nics > 0


@pytest.mark.parametrize("name", ACCELERATORS)
def test_every_accelerator_is_priced_sits_in_a_node_and_has_kernels(name: str) -> None:
    device = load_device(name)
    price = load_price(name)
    assert price is not None
    assert 0.05 / 3600 < price.offers[price.default].value < 20 / 3600
    assert name in {load_node(n).device for n in node_names()}
    kernels, evidence = resolve_kernels(device.main)
    assert kernels
    assert evidence != "none"


@pytest.mark.parametrize("file", sorted(p.name for p in (CATALOGUE / "kernels").glob("*.toml")))
def test_every_kernel_file_belongs_to_a_device(file: str) -> None:
    assert file.split(".")[0] in device_names()


def test_measured_devices_keep_their_own_kernels() -> None:
    for name in ("h100-sxm", "a100-sxm"):
        assert resolve_kernels(load_device(name).main)[1].split("; ")[0] == "own"
    assert resolve_kernels(load_device("h800-sxm").main)[1] == "relative's kernels: h100-sxm"


@pytest.mark.parametrize("name", device_names())
def test_narrower_arithmetic_is_never_slower(name: str) -> None:
    for processor in load_device(name).processors.values():
        rates = [processor.peak[d].value for d in ("float32", "bfloat16", "fp8", "fp4") if d in processor.peak]
        assert rates == sorted(rates)


@pytest.mark.parametrize("name", [n for n in ACCELERATORS if load_device(n).vendor == "NVIDIA" and n != "h20"])
def test_units_times_clock_give_the_stated_peak(name: str) -> None:
    main = load_device(name).main
    per_cycle = {"Ampere": 2048, "Hopper": 4096}.get(load_device(name).architecture, 8192)
    assert main.units.value * main.clock.value * per_cycle == pytest.approx(main.peak["bfloat16"].value, rel=0.01)


def test_a_910c_package_is_two_dies() -> None:
    package, die = load_device("ascend-910c"), load_device("ascend-910c-die")
    assert package.memory_capacity.value == 2 * die.memory_capacity.value
    assert package.main.units.value == 2 * die.main.units.value
    for link in ("scale_up", "scale_out", "host"):
        assert package.links[link].bandwidth.value == 2 * die.links[link].bandwidth.value
    prices = load_price("ascend-910c"), load_price("ascend-910c-die")
    assert prices[0] is not None
    assert prices[1] is not None
    assert prices[0].offers["rental"].value == pytest.approx(2 * prices[1].offers["rental"].value)


@pytest.mark.parametrize(
    ("name", "bandwidth_ratio", "operations_per_byte"), [("duplex", 4, 8), ("bankgroup-pim", 4, 8), ("bank-pim", 16, 1)]
)
def test_pim_units_share_the_memory_of_the_xpu(name: str, bandwidth_ratio: float, operations_per_byte: float) -> None:
    device = load_device(name)
    xpu, pim = device.processors["xpu"], device.processors["pim"]
    assert device.main is xpu
    assert pim.kind == "pim"
    assert pim.memory_bandwidth.value / xpu.memory_bandwidth.value == pytest.approx(bandwidth_ratio, rel=0.01)
    assert pim.peak["bfloat16"].value / pim.memory_bandwidth.value == pytest.approx(operations_per_byte, rel=0.01)


def test_logic_pim_peak_is_that_of_its_multipliers() -> None:
    pim = load_device("duplex").processors["pim"]
    assert pim.units.value * 512 * 2 * pim.clock.value == pytest.approx(pim.peak["bfloat16"].value, rel=0.01)


#: Names in the published table, and how their quantities are reached in a profile.
_NAMES = {
    "A100 80GB SXM": "a100-sxm",
    "A800 SXM": "a800-sxm",
    "H100 80GB SXM": "h100-sxm",
    "H200 141GB SXM": "h200-sxm",
    "H800 80GB SXM": "h800-sxm",
    "H20 96GB": "h20",
    "B200": "b200-sxm",
    "B300": "b300-sxm",
    "GB200": "gb200",
    "GB300": "gb300",
    "Ascend 910C": "ascend-910c",
    "MetaX C500": "metax-c500",
}
_UNIT = {"TFLOPS": 1e12, "TOPS": 1e12, "GB": 1e9, "GB/s": 1e9, "Gb/s": 1e9 / 8, "W": 1.0, "USD/GPU-h": 1 / 3600}


def _published(device: Device, quantity: str) -> float | None:
    price = load_price(device.id)
    main, links = device.main, device.links
    peaks = {f"{d}_dense": main.peak[k].value for d, k in _DTYPES.items() if k in main.peak}
    offers = {name: q.value for name, q in price.offers.items()} if price else {}
    facts = {
        "hbm_capacity": device.memory_capacity.value,
        "hbm_bandwidth": main.memory_bandwidth.value,
        "tdp": device.tdp.value,
        "nvlink_per_dir": links["scale_up"].bandwidth.value,
        "nvlink_bidir": 2 * links["scale_up"].bandwidth.value,
        "ub_unidir": links["scale_up"].bandwidth.value,
        "nic_per_gpu": links["scale_out"].bandwidth.value,
        "rdma_unidir": links["scale_out"].bandwidth.value,
        "npu_cpu_bw": links["host"].bandwidth.value,
    }
    return {**peaks, **offers, **facts}.get(quantity)


_DTYPES = {"bf16": "bfloat16", "fp8": "fp8", "int8": "int8", "fp4": "fp4", "fp32": "float32"}


def test_the_catalogue_agrees_with_the_published_figures() -> None:
    compared, off = 0, []
    with PUBLISHED.open(newline="") as file:
        for row in csv.DictReader(file):
            name, unit = _NAMES.get(row["device"]), row["unit"].split(" ")[0]
            ours = _published(load_device(name), row["quantity"]) if name else None
            if ours is None or unit not in _UNIT:
                continue
            compared += 1
            if ours != pytest.approx(float(row["value"]) * _UNIT[unit], rel=0.002):
                off.append((name, row["quantity"], row["value"], ours / _UNIT[unit]))
    assert off == []
    assert compared > 80
