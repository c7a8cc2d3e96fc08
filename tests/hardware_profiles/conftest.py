"""A user's folder of profiles with one small device, and the text of that device to bend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

DEVICE = """\
id = "toy"
name = "Toy accelerator"
vendor = "nobody"
architecture = "none"
aliases = ["Toy-One"]
memory_capacity = { value = 16, unit = "GB", source = "box", status = "datasheet" }
tdp = { value = 100, unit = "W", source = "box", status = "datasheet" }
idle_power = { value = 10, unit = "W", source = "box", status = "assumption" }

[processors.xpu]
kind = "gpu"
units = { value = 10, unit = "1", source = "box", status = "datasheet" }
clock = { value = 1.5, unit = "GHz", source = "box", status = "datasheet" }
memory_bandwidth = { value = 500, unit = "GB/s", source = "box", status = "datasheet" }
peak.bfloat16 = { value = 20, unit = "TFLOP/s", source = "box", status = "datasheet" }

[links.scale_up]
bandwidth = { value = 25, unit = "GB/s", per = "direction", source = "box", status = "datasheet" }
latency = { value = 2, unit = "us", source = "box", status = "measured", error = 0.1 }
"""

NODE = """\
id = "toy-pair"
name = "Two toys"
device = "toy"
scale_up = "switch"
devices = { value = 2, unit = "1", source = "box", status = "datasheet" }
hosts = { value = 1, unit = "1", source = "box", status = "datasheet" }
nics = { value = 0, unit = "1", source = "box", status = "datasheet" }
all_in_power = { value = 300, unit = "W", source = "box", status = "assumption" }
"""


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    """A user's folder with the device ``toy`` and the node ``toy-pair``."""
    for kind in ("devices", "nodes", "clusters", "prices", "kernels"):
        (tmp_path / kind).mkdir()
    (tmp_path / "devices" / "toy.toml").write_text(DEVICE)
    (tmp_path / "nodes" / "toy-pair.toml").write_text(NODE)
    return tmp_path


@pytest.fixture
def bend(profiles: Path) -> Callable[[str, str], Path]:
    """Replace a piece of the toy device's file and return the folder."""

    def replace(old: str, new: str) -> Path:
        assert old in DEVICE
        (profiles / "devices" / "toy.toml").write_text(DEVICE.replace(old, new, 1))
        return profiles

    return replace
