from __future__ import annotations

import re
from pathlib import Path

import pytest

from hardware_profiles.loader import cluster_names, device_names, node_names
from hardware_profiles.units import UNITS
from simulator.hardware import load_hardware

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def documented(tmp_path: Path) -> Path:
    """The files that the format page shows, written as a user would."""
    page = (DOCS / "formats" / "hardware-toml.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```toml\n# (\S+)\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == 5
    for name, text in blocks:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_documented_files_load(documented: Path) -> None:
    hardware = load_hardware("mygpu", folder=documented, nodes=2, offer="spot")
    assert (hardware.node.id, hardware.devices, hardware.fabric.domain) == ("my-box", 8, 4)
    assert hardware.cluster is not None
    assert hardware.cluster.id == "my-rack"
    # Two NICs of 12.5 GB/s for four devices, behind a leaf that is oversubscribed twice.
    assert hardware.fabric.scale_out_bandwidth == pytest.approx(12.5e9 * 2 / 4 / 2)
    assert hardware.price is not None
    assert hardware.price.stated == 0.4
    assert hardware.kernels["gemm.cublas.bfloat16"]["efficiency"].error == 0.04
    assert hardware.evidence.startswith("own; relative's kernels: a100-sxm")


def test_the_documented_units_are_known() -> None:
    page = (DOCS / "formats" / "hardware-toml.md").read_text(encoding="utf-8")
    table = page.split("| dimension | units |")[1].split("\n\n")[0]
    named = [unit for row in table.splitlines()[2:] for unit in re.findall(r"`([^`]+)`", row) if unit != "/s"]
    assert len(named) > 25
    assert [unit for unit in named if unit not in UNITS] == []


def test_the_page_of_profiles_lists_the_catalogue() -> None:
    page = (DOCS / "hardware-profiles.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`([\w-]+)`", page))
    assert {*device_names(), *node_names()} <= listed
    assert listed >= {"hgx-h100-ib", "atlas-roce", "cloudmatrix", "cloudmatrix384-ub"} <= set(cluster_names())
