"""``list`` and ``show`` on the catalogues that ship."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hardware_profiles.schema import Quantity
from simulator.export.catalogues import CATALOGUES, facts, list_entries, quantities


@pytest.mark.parametrize("kind", [*CATALOGUES, "keys"])
def test_every_catalogue_is_listed_as_text_and_as_json(moesim: Any, kind: str) -> None:
    text, document = moesim("list", kind), moesim("list", kind, "--json")
    assert (text.exit_code, document.exit_code) == (0, 0)
    rows = json.loads(document.stdout)[kind]
    assert len(rows) > 1
    assert all(row["name"] in text.stdout for row in rows)


@pytest.mark.parametrize("kind", list(CATALOGUES))
def test_whatever_is_listed_can_be_shown(moesim: Any, kind: str) -> None:
    for row in list_entries(kind):
        answer = moesim("show", row["name"], "--json")
        assert answer.exit_code == 0, answer.stderr
        assert json.loads(answer.stdout)["kind"] == kind.removesuffix("s")


def test_every_number_of_a_device_has_unit_source_and_status(moesim: Any) -> None:
    document = json.loads(moesim("show", "h100-sxm", "--json").stdout)
    numbers = {row["key"]: row for row in document["quantities"]}
    assert numbers["memory_capacity"]["value_si"] == 80e9
    assert numbers["memory_capacity"]["unit"] == "GB"
    assert any(key.startswith("price.") for key in numbers)
    assert all(row["source"] and row["status"] and row["unit"] for row in numbers.values())
    text = moesim("show", "h100-sxm").stdout
    assert "80 GB" in text
    assert "datasheet" in text


def test_a_device_is_found_by_its_alias_in_any_case(moesim: Any) -> None:
    assert json.loads(moesim("show", "H100", "--json").stdout)["name"] == "h100-sxm"


def test_a_model_is_shown_by_part_with_its_active_share(moesim: Any) -> None:
    document = json.loads(moesim("show", "mixtral-8x7b", "--json").stdout)
    assert document["parameters"] == pytest.approx(46.7e9, rel=0.01)
    assert document["active_parameters"] == pytest.approx(12.9e9, rel=0.01)
    without_mtp = [part["parameters"] for part in document["parts"] if part["part"] != "mtp"]
    assert sum(without_mtp) == document["parameters"]
    # 32 layers x 8 KV heads x 128 x (K and V) x 2 bytes
    assert document["kv_bytes_per_token"] == 32 * 8 * 128 * 2 * 2
    assert "46.7 B parameters" in moesim("show", "mixtral-8x7b").stdout


def test_layers_of_a_hybrid_model_are_folded_by_kind(moesim: Any) -> None:
    document = json.loads(moesim("show", "deepseek-v3", "--json").stdout)
    assert [len(kind["layers"]) for kind in document["layers"]] == [3, 58]
    assert [kind["ffn"]["kind"] for kind in document["layers"]] == ["DenseFFN", "MoE"]


def test_a_model_file_is_shown(moesim: Any, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "unheard_of"}')
    answer = moesim("show", config)
    assert answer.exit_code == 2
    assert "unheard_of" in answer.stderr


def test_an_unknown_name_gives_the_nearest_of_all_catalogues(moesim: Any) -> None:
    for name, near in (("h100-smx", "h100-sxm"), ("mixtral-8x7", "mixtral-8x7b"), ("hgx-h10", "hgx-h100")):
        answer = moesim("show", name)
        assert answer.exit_code == 2
        assert near in answer.stderr


def test_a_profile_of_ones_own_is_listed_and_shown(moesim: Any, tmp_path: Path) -> None:
    import hardware_profiles

    built_in = Path(hardware_profiles.__file__).parent / "devices" / "a100-sxm.toml"
    (tmp_path / "devices").mkdir()
    text = built_in.read_text(encoding="utf-8").replace('id = "a100-sxm"', 'id = "my-card"')
    lines = [line for line in text.splitlines() if not line.startswith("aliases")]
    (tmp_path / "devices" / "my-card.toml").write_text("\n".join(lines), encoding="utf-8")
    assert "my-card" in moesim("list", "devices", "--profiles", tmp_path).stdout
    assert moesim("show", "my-card", "--profiles", tmp_path).exit_code == 0
    assert moesim("show", "my-card").exit_code == 2


def test_a_missing_folder_of_profiles_is_said(moesim: Any, tmp_path: Path) -> None:
    answer = moesim("list", "devices", "--profiles", tmp_path / "nowhere")
    assert answer.exit_code == 2
    assert "nowhere" in answer.stderr


def test_quantities_and_facts_of_a_profile_are_told_apart() -> None:
    mass = Quantity(value=1000.0, unit="kg", stated=1.0, source="scale", status="measured", note="dry", error=0.1)
    profile = {"name": "box", "parts": {"lid": mass}, "tags": frozenset({"b", "a"}), "empty": ()}
    assert dict(facts(profile)) == {"name": "box", "tags": ["a", "b"]}
    (row,) = quantities(profile)
    assert (row["key"], row["stated"], row["value_si"], row["error"]) == ("parts.lid", 1.0, 1000.0, 0.1)
