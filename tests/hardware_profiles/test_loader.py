from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hardware_profiles.errors import ProfileError
from hardware_profiles.loader import (
    FOLDER_VARIABLE,
    device_names,
    load_cluster,
    load_device,
    load_node,
    load_price,
    node_names,
    resolve_kernels,
)

Bend = Callable[[str, str], Path]

KERNEL = """\
["gemm.toy.bfloat16"]
_provenance = { source = "bench", status = "fitted", date = 2026-11-01, note = "small" }
efficiency = { value = 0.8, unit = "1", error = 0.05 }
launch = { value = 5, unit = "us", source = "guess", status = "assumption" }
"""


def test_quantities_hold_si_values_and_what_the_file_states(profiles: Path) -> None:
    device = load_device("toy", profiles)
    capacity, latency = device.memory_capacity, device.links["scale_up"].latency
    assert (capacity.value, capacity.stated, capacity.unit, capacity.source, capacity.status) == (
        16e9,
        16.0,
        "GB",
        "box",
        "datasheet",
    )
    assert latency.value == pytest.approx(2e-6)
    assert latency.error == 0.1
    assert device.main.name == "xpu"


@pytest.mark.parametrize("name", ["toy", "TOY", "toy-one", "Toy-One"])
def test_devices_are_found_by_id_and_alias_in_any_case(profiles: Path, name: str) -> None:
    assert load_device(name, profiles).id == "toy"


def test_an_unknown_device_names_the_nearest_one() -> None:
    with pytest.raises(ProfileError, match=r"unknown device 'h100-sxn'; did you mean 'h100-sxm'"):
        load_device("h100-sxn")


def test_an_unknown_device_names_the_user_folder_too(profiles: Path) -> None:
    with pytest.raises(ProfileError, match=re.escape(f"unknown device 'toi' in {profiles} and the built-in catalogue")):
        load_device("toi", profiles)


def test_names_cannot_leave_the_catalogue() -> None:
    with pytest.raises(ProfileError, match="unknown device"):
        load_device("../nodes/hgx-h100")


def test_the_environment_variable_names_the_folder(profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "toy" not in device_names()
    monkeypatch.setenv(FOLDER_VARIABLE, str(profiles))
    assert "toy" in device_names()
    assert load_node("toy-pair").device == "toy"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=f"{re.escape(str(tmp_path / 'nowhere'))} is not a folder"):
        device_names(tmp_path / "nowhere")


def test_user_ids_override_the_built_in_ones(profiles: Path) -> None:
    text = (profiles / "devices" / "toy.toml").read_text().replace('id = "toy"', 'id = "h100-sxm"')
    (profiles / "devices" / "h100-sxm.toml").write_text(text)
    (profiles / "devices" / "toy.toml").unlink()
    assert load_device("h100-sxm").memory_capacity.value == 80e9
    assert load_device("h100-sxm", profiles).memory_capacity.value == 16e9


def test_an_edited_file_is_read_again(bend: Bend, profiles: Path) -> None:
    assert load_device("toy", profiles).memory_capacity.value == 16e9
    bend("value = 16,", "value = 3200,")
    assert load_device("toy", profiles).memory_capacity.value == 3200e9


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('vendor = "nobody"\n', "", "toy.toml: missing 'vendor'; required: id, name"),
        ("vendor =", "vendro =", "toy.toml: unknown key 'vendro'; did you mean 'vendor'?"),
        ("tdp = {", "tpd = {", "toy.toml: unknown key 'tpd'; did you mean 'tdp'?"),
        ('value = 16, unit = "GB",', "value = 16,", "toy.toml: memory_capacity: missing 'unit'"),
        ('unit = "GB"', 'unit = "GB/s"', "toy.toml: memory_capacity: 16 GB/s is bandwidth; expected bytes"),
        ('unit = "GHz"', 'unit = "Ghz"', "toy.toml: processors.xpu.clock: unknown unit 'Ghz'; did you mean 'GHz'?"),
        ("value = 500", "value = -500", "toy.toml: processors.xpu.memory_bandwidth: -500 GB/s must be greater than"),
        ("value = 500", "value = nan", "toy.toml: processors.xpu.memory_bandwidth: nan GB/s is not finite"),
        ("value = 500", "value = 0", "toy.toml: processors.xpu.memory_bandwidth: 0 GB/s must be greater than zero"),
        ("value = 20,", 'value = "20",', "toy.toml: processors.xpu.peak.bfloat16: '20' is not a number"),
        ('source = "box", status = "datasheet" }\ntdp', 'status = "datasheet" }\ntdp', "memory_capacity: missing 'sou"),
        ('"box", status = "datasheet"', '"", status = "datasheet"', "memory_capacity: source must be a text that is"),
        ('status = "datasheet"', 'status = "certain"', "status is 'certain'; allowed: datasheet, measured, fitted"),
        ('unit = "GB", ', 'unit = "GB", souce = "x", ', "memory_capacity: unknown key 'souce'; did you mean 'source'"),
        ('per = "direction", ', "", 'links.scale_up.bandwidth: needs per = "direction", got None'),
        ('per = "direction"', 'per = "pair"', "links.scale_up.bandwidth: needs per = \"direction\", got 'pair'"),
        ('unit = "W", ', 'unit = "W", per = "direction", ', "tdp: takes no key 'per'"),
        ("error = 0.1", "error = -0.1", "links.scale_up.latency.error: -0.1 is no relative error"),
        ("[links.scale_up]", "[links.sideways]", "toy.toml: links: unknown key 'sideways'; allowed: host, scale_out, "),
        ('kind = "gpu"', 'kind = "cow"', "toy.toml: processors.xpu: kind is 'cow'; allowed: gpu, npu, pim, cpu"),
        ("peak.bfloat16", "peak.bf16", "processors.xpu.peak: unknown key 'bf16'; did you mean 'bfloat16'?"),
        ('aliases = ["Toy-One"]', 'aliases = "one"', "toy.toml: aliases must be a list of texts, got 'one'"),
        ('id = "toy"', 'id = "yot"', "id is 'yot'; it must be the file's name, 'toy'"),
        (
            'kind = "gpu"',
            'kind = "gpu"\nkernels_from = "h100-sxn"',
            "toy.toml: processors.xpu.kernels_from: unknown device 'h100-sxn' in",
        ),
        ("[processors.xpu]", "[processors.xpu", "toy.toml: not valid TOML: "),
        (
            'tdp = { value = 100, unit = "W", source = "box", status = "datasheet" }',
            "tdp = 100",
            "toy.toml: tdp: 100 stands alone; write { value = ...",
        ),
    ],
)
def test_a_malformed_device_says_what_and_where(bend: Bend, old: str, new: str, message: str) -> None:
    folder = bend(old, new)
    with pytest.raises(ProfileError, match=re.escape(message)):
        load_device("toy", folder)


def test_two_files_with_one_alias_are_refused(profiles: Path) -> None:
    text = (profiles / "devices" / "toy.toml").read_text().replace('id = "toy"', 'id = "twin"')
    (profiles / "devices" / "twin.toml").write_text(text)
    with pytest.raises(ProfileError, match=r"twin\.toml: the name 'Toy-One' is also that of toy\.toml"):
        load_device("toy-one", profiles)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('device = "toy"', 'device = "tox"', "toy-pair.toml: device: unknown device 'tox' in"),
        (
            "devices = { value = 2,",
            "devices = { value = 2.5,",
            "toy-pair.toml: devices is 2.5, which is no whole number",
        ),
        ('scale_up = "switch"', 'scale_up = "ring"', "scale_up is 'ring'; allowed: switch, full_mesh, none"),
    ],
)
def test_a_malformed_node_says_what_and_where(profiles: Path, old: str, new: str, message: str) -> None:
    path = profiles / "nodes" / "toy-pair.toml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ProfileError, match=re.escape(message)):
        load_node("toy-pair", profiles)


def test_a_node_gives_counts_and_the_id_of_its_device(profiles: Path) -> None:
    path = profiles / "nodes" / "toy-pair.toml"
    path.write_text(path.read_text().replace('device = "toy"', 'device = "Toy-One"'))
    node = load_node("toy-pair", profiles)
    assert (node.device, node.devices, node.nics, node.host) == ("toy", 2, 0, None)


def test_an_oversubscription_below_one_is_refused(profiles: Path) -> None:
    quantity = 'unit = "1", source = "box", status = "assumption"'
    (profiles / "clusters" / "toys.toml").write_text(
        f'id = "toys"\nname = "Toys"\nnode = "toy-pair"\nfabric = "roce"\nnodes = {{ value = 2, {quantity} }}\n'
        f"oversubscription = {{ value = 0.5, {quantity} }}\n[link]\n"
        'bandwidth = { value = 1, unit = "GB/s", per = "direction", source = "box", status = "datasheet" }\n'
        'latency = { value = 5, unit = "us", source = "box", status = "datasheet" }\n'
    )
    with pytest.raises(ProfileError, match=r"toys\.toml: oversubscription is 0\.5; it is 1"):
        load_cluster("toys", profiles)


def test_prices_are_per_device_and_need_a_default_among_the_offers(profiles: Path) -> None:
    path = profiles / "prices" / "toy.toml"
    offer = '{ value = 3.6, unit = "USD/h", per = "device", source = "shop", status = "published" }'
    path.write_text(f'device = "toy"\ndefault = "rent"\n[offers]\nrent = {offer}\n')
    price = load_price("Toy-One", profiles)
    assert price is not None
    assert price.offers[price.default].value == pytest.approx(1e-3)
    path.write_text(f'device = "toy"\ndefault = "rental"\n[offers]\nrent = {offer}\n')
    with pytest.raises(
        ProfileError, match=r"default is 'rental', which is no offer of this file; did you mean 'rent'\?"
    ):
        load_price("toy", profiles)


def test_a_device_without_a_price_file_has_no_price(profiles: Path) -> None:
    assert load_price("toy", profiles) is None


def test_kernel_files_fill_provenance_and_keep_what_a_coefficient_states(profiles: Path) -> None:
    (profiles / "kernels" / "toy.toml").write_text(KERNEL)
    table = load_device("toy", profiles).main.kernels["gemm.toy.bfloat16"]
    efficiency, launch = table["efficiency"], table["launch"]
    assert (efficiency.source, efficiency.status, efficiency.date, efficiency.note, efficiency.error) == (
        "bench",
        "fitted",
        "2026-11-01",
        "small",
        0.05,
    )
    assert (launch.source, launch.status) == ("guess", "assumption")
    assert launch.value == pytest.approx(5e-6)


def test_provenance_beside_the_kernels_serves_all_of_them(profiles: Path) -> None:
    (profiles / "kernels" / "toy.toml").write_text(
        '_provenance = { source = "all", status = "fitted" }\n["a.b"]\nx = { value = 0, unit = "1" }\n'
    )
    assert load_device("toy", profiles).main.kernels["a.b"]["x"].source == "all"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('["a.b"]\nx = { value = 1, unit = "1" }\n', "kernels/toy.toml: [\"a.b\"].x: missing 'source', 'status'"),
        ('[a.b]\nx = { value = 1, unit = "1" }\n', "a kernel name with dots needs quotes"),
        ('["a.b"]\nx = 3\n', 'kernels/toy.toml: ["a.b"].x: 3 stands alone'),
        ('["a.b"]\n_provenance = { sauce = "x" }\n', "._provenance: unknown key 'sauce'; did you mean 'source' or"),
        ("x = 3\n", 'kernels/toy.toml: ["x"]: expected a table of coefficients, got 3'),
    ],
)
def test_a_malformed_kernel_file_says_what_and_where(profiles: Path, text: str, message: str) -> None:
    (profiles / "kernels" / "toy.toml").write_text(text)
    with pytest.raises(ProfileError, match=re.escape(message)):
        load_device("toy", profiles)


def test_kernel_files_of_the_user_override_the_device_file_per_kernel(bend: Bend) -> None:
    own = 'source = "own", status = "fitted" }'
    folder = bend(
        "[links.scale_up]",
        f'[processors.xpu.kernels."a"]\nx = {{ value = 1, unit = "1", {own}\n'
        f'[processors.xpu.kernels."b"]\nx = {{ value = 2, unit = "1", {own}\n\n[links.scale_up]',
    )
    (folder / "kernels" / "toy.toml").write_text(f'["b"]\nx = {{ value = 3, unit = "1", {own}\n')
    kernels = load_device("toy", folder).main.kernels
    assert {name: table["x"].value for name, table in kernels.items()} == {"a": 1.0, "b": 3.0}


def test_kernels_may_be_spread_over_files_but_not_stated_twice(profiles: Path) -> None:
    table = '["{}"]\nx = {{ value = 1, unit = "1", source = "fit", status = "fitted" }}\n'
    (profiles / "kernels" / "toy.toml").write_text(table.format("gemm"))
    (profiles / "kernels" / "toy.moe.toml").write_text(table.format("moe"))
    assert set(load_device("toy", profiles).main.kernels) == {"gemm", "moe"}
    (profiles / "kernels" / "toy.moe.toml").write_text(table.format("gemm"))
    with pytest.raises(ProfileError, match=r"kernels/toy\.toml: 'gemm' also stands in kernels/toy\.moe\.toml"):
        load_device("toy", profiles)


def test_an_id_with_other_characters_is_refused(profiles: Path) -> None:
    text = (profiles / "devices" / "toy.toml").read_text().replace('id = "toy"', 'id = "toy.v2"')
    (profiles / "devices" / "toy.v2.toml").write_text(text)
    with pytest.raises(ProfileError, match=r"an id has lower-case letters, .* got 'toy\.v2'"):
        load_device("toy.v2", profiles)


def _relatives(profiles: Path, links: dict[str, str | None]) -> None:
    """Write toy devices, each with one kernel of its own name, and whom each borrows from."""
    text = (profiles / "devices" / "toy.toml").read_text().replace('aliases = ["Toy-One"]\n', "")
    for name, relative in links.items():
        borrowed = f'kind = "gpu"\nkernels_from = "{relative}"' if relative else 'kind = "gpu"'
        body = text.replace('id = "toy"', f'id = "{name}"').replace('kind = "gpu"', borrowed)
        (profiles / "devices" / f"{name}.toml").write_text(body)
        (profiles / "kernels" / f"{name}.toml").write_text(
            f'_provenance = {{ source = "{name}", status = "fitted" }}\n'
            f'["shared"]\nx = {{ value = 1, unit = "1" }}\n["{name}"]\nx = {{ value = 1, unit = "1" }}\n'
        )


def test_own_kernels_come_before_those_of_the_relatives(profiles: Path) -> None:
    _relatives(profiles, {"child": "parent", "parent": "grandparent", "grandparent": None})
    kernels, evidence = resolve_kernels(load_device("child", profiles).main, profiles)
    assert sorted(kernels) == ["child", "grandparent", "parent", "shared"]
    assert kernels["shared"]["x"].source == "child"
    assert evidence == "own; relative's kernels: parent; relative's kernels: grandparent"


def test_a_device_without_kernels_says_whose_it_borrows(profiles: Path) -> None:
    _relatives(profiles, {"child": "parent", "parent": None})
    (profiles / "kernels" / "child.toml").unlink()
    kernels, evidence = resolve_kernels(load_device("child", profiles).main, profiles)
    assert (sorted(kernels), evidence) == (["parent", "shared"], "relative's kernels: parent")


def test_a_device_without_kernels_or_relatives_says_none(profiles: Path) -> None:
    assert resolve_kernels(load_device("toy", profiles).main, profiles) == ({}, "none")


def test_relatives_in_a_circle_are_refused(profiles: Path) -> None:
    _relatives(profiles, {"a": "b", "b": "c", "c": "b"})
    with pytest.raises(ProfileError, match="kernels_from goes in a circle: b -> c -> b"):
        resolve_kernels(load_device("a", profiles).main, profiles)


def test_node_names_join_both_catalogues(profiles: Path) -> None:
    assert {"toy-pair", "hgx-h100"} <= set(node_names(profiles))
