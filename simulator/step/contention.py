"""How much of the compute units an exchange keeps from the kernels beside it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from hardware_profiles.files import Stamp, stamp
from hardware_profiles.parse import check_keys, parse_choice, parse_quantity
from hardware_profiles.schema import Quantity
from simulator.arrays import FloatArray
from simulator.cost.model import OpTime
from simulator.kernels.kernel import Silicon

Way = Literal["persistent", "issued"]
#: The numbers, which serve all scenarios.
FILE = Path(__file__).with_name("contention.toml")
#: The most that an exchange may take: a kernel beside it always crawls on [1].
_MOST = 0.999


@dataclass(frozen=True, slots=True, kw_only=True)
class Contention:
    """What one kernel backend takes: ``units`` [1] if it states them itself, ``issue`` of each of two kernels [s].

    ``stretch`` is how much longer it takes beside kernels, a factor [1].
    """

    way: Way
    units: Quantity | None = None
    issue: Quantity | None = None
    stretch: Quantity | None = None


def contention_table() -> Mapping[str, Contention]:
    """Return the contention of every known backend, read again when the file changes.

    Raises
    ------
    ProfileError
        The file is malformed.
    """
    return _table(stamp(FILE))


@lru_cache(maxsize=1)
def _table(file: Stamp) -> Mapping[str, Contention]:
    path = Path(file[0])
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    return {backend: _read(table, f"{path.name}: {backend}") for backend, table in data.items()}


def units_taken(time: OpTime, silicon: Silicon) -> FloatArray:
    """Share of the compute units that a priced exchange takes while it runs [1].

    Parameters
    ----------
    time : OpTime
        A dispatch or combine.
    silicon : Silicon
        The device.

    Notes
    -----
    A persistent kernel holds its blocks' share all the time. One that issues messages takes everything for a part of
    it: two kernels of ``issue``, buffer traffic at the memory bandwidth, and its copies over scale-up links. Beside a
    kernel of constant rate both amount to the same lost work.
    """
    how = _how(time)
    if how.way == "persistent":
        stated = time.coefficients.get("units")
        units = how.units or stated
        share = units.value / silicon.units if units is not None else 0.0
        return np.minimum(share + 0.0 * time.seconds, _MOST)
    alone = time.seconds / time.op.repeat
    issue = 2.0 * how.issue.value if how.issue is not None else 0.0
    busy = issue + time.op.memory_bytes / silicon.memory_bandwidth + time.terms.get("scale_up", 0.0)
    return np.minimum(np.divide(busy, alone, out=np.zeros_like(alone), where=alone > 0), _MOST)


def stretched(time: OpTime) -> float:
    """How much longer a dispatch or combine takes while kernels run beside it, a factor of at least 1 [1]."""
    stretch = _how(time).stretch
    return 1.0 if stretch is None else max(stretch.value, 1.0)


def _how(time: OpTime) -> Contention:
    table = contention_table()
    return table.get(time.table.partition(".")[2].split(".")[0], table["default"])


def _read(table: Any, where: str) -> Contention:
    check_keys(table, {"way"}, {"way", "units", "issue", "stretch"}, where)

    def quantity(key: str, dimension: str) -> Quantity | None:
        return parse_quantity(table[key], cast("Any", dimension), f"{where}.{key}") if key in table else None

    return Contention(
        way=parse_choice(table, "way", ("persistent", "issued"), where),
        units=quantity("units", "one"),
        issue=quantity("issue", "time"),
        stretch=quantity("stretch", "one"),
    )
