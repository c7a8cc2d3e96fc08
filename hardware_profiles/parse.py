"""Parsed TOML to profiles: every key known, every number a quantity with unit, source and status."""

from __future__ import annotations

import datetime
import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Literal, TypeVar, cast, get_args

from hardware_profiles.errors import ProfileError, nearest
from hardware_profiles.schema import (
    Cluster,
    Device,
    Link,
    LinkName,
    Node,
    Price,
    Processor,
    ProcessorKind,
    Quantity,
    Status,
)
from hardware_profiles.units import Dimension, to_si

Table = Mapping[str, object]
Kernels = dict[str, dict[str, Quantity]]
_Choice = TypeVar("_Choice", bound=str)

_PROVENANCE_KEYS = ("source", "status", "date", "note")
_QUANTITY_KEYS = ("value", "unit", *_PROVENANCE_KEYS, "error", "per")
_LINK_NAMES: tuple[LinkName, ...] = get_args(LinkName)
#: Beyond that a fabric is none: messages would take for ever [1].
_MOST_OVERSUBSCRIPTION = 1000.0
#: Arithmetic types of which a device states its dense peak.
PEAK_DTYPES = ("float32", "bfloat16", "fp8", "int8", "fp4")


def parse_quantity(
    entry: object,
    dimension: Dimension | None,
    where: str,
    *,
    zero_allowed: bool = False,
    per: str | None = None,
    defaults: Table | None = None,
) -> Quantity:
    """Read one ``{ value, unit, source, status }`` table.

    Parameters
    ----------
    entry : object
        What the file holds at this key.
    dimension : Dimension or None
        The dimension that is expected; ``None`` takes any (coefficients of a kernel).
    where : str
        File and key, for error messages.
    zero_allowed : bool
        Whether 0 is a valid value.
    per : str or None
        What the key ``per`` must say, so that a file cannot leave it open; ``None`` forbids the key.
    defaults : Mapping or None
        Source, status, date and note for a quantity that omits them.

    Raises
    ------
    ProfileError
        A key is missing or unknown, or the number is not valid in its unit.
    """
    if not isinstance(entry, Mapping):
        raise ProfileError(
            f"{where}: {entry!r} stands alone; write {{ value = ..., unit = ..., source = ..., status = ... }}"
        )
    given = {**(defaults or {}), **entry}
    check_keys(given, ("value", "unit", "source", "status"), _QUANTITY_KEYS, where)
    if given.get("per") != per:
        expected = f'needs per = "{per}"' if per else "takes no key 'per'"
        raise ProfileError(f"{where}: {expected}, got {given.get('per')!r}")
    magnitude = to_si(given["value"], given["unit"], dimension, where, zero_allowed=zero_allowed)
    statuses: tuple[Status, ...] = get_args(Status)
    return Quantity(
        value=magnitude,
        unit=parse_text(given, "unit", where),
        stated=float(cast("float", given["value"])),
        source=parse_text(given, "source", where),
        status=parse_choice(given, "status", statuses, where),
        note=parse_text(given, "note", where, default=""),
        error=_relative_error(given.get("error"), f"{where}.error"),
        date=_date(given.get("date", ""), f"{where}.date"),
    )


def parse_device(table: Table, file: str) -> Device:
    """Read a device file whose kernel tables, if it has any, stand under its processors."""
    required = ("id", "name", "vendor", "architecture", "memory_capacity", "processors", "links", "tdp", "idle_power")
    check_keys(table, required, (*required, "aliases", "note"), file)
    processors = _tables(table["processors"], f"{file}: processors")
    links = _tables(table["links"], f"{file}: links")
    check_keys(links, (), _LINK_NAMES, f"{file}: links")
    if not processors:
        raise ProfileError(f"{file}: processors is empty; a device needs at least one, as in [processors.xpu]")
    return Device(
        id=parse_text(table, "id", file),
        name=parse_text(table, "name", file),
        vendor=parse_text(table, "vendor", file),
        architecture=parse_text(table, "architecture", file),
        memory_capacity=parse_quantity(table["memory_capacity"], "bytes", f"{file}: memory_capacity"),
        processors={n: _processor(n, t, f"{file}: processors.{n}") for n, t in processors.items()},
        links={cast("LinkName", n): _link(t, f"{file}: links.{n}") for n, t in links.items()},
        tdp=parse_quantity(table["tdp"], "power", f"{file}: tdp"),
        idle_power=parse_quantity(table["idle_power"], "power", f"{file}: idle_power", zero_allowed=True),
        aliases=parse_aliases(table, file),
        note=parse_text(table, "note", file, default=""),
    )


def parse_kernels(table: Table, where: str) -> Kernels:
    """Read kernel coefficient tables.

    A coefficient is a quantity; one of unit ``flag`` is true or false, one of unit ``choice`` a word. ``_provenance``
    in a kernel's table, or beside the kernels for all of them, fills the source, status, date and note of quantities
    that omit them.
    """
    shared = _provenance(table, {}, where)
    kernels: Kernels = {}
    for kernel, entry in table.items():
        if kernel == "_provenance":
            continue
        place = f'{where}["{kernel}"]'
        if not isinstance(entry, Mapping):
            raise ProfileError(f"{place}: expected a table of coefficients, got {entry!r}")
        defaults = _provenance(entry, shared, place)
        kernels[kernel] = {
            name: _coefficient(value, defaults, kernel, f"{place}.{name}")
            for name, value in entry.items()
            if name != "_provenance"
        }
    return kernels


def parse_node(table: Table, file: str) -> Node:
    """Read a node file."""
    required = ("id", "name", "device", "devices", "scale_up", "hosts", "nics", "all_in_power")
    check_keys(table, required, (*required, "host", "switch_reduction", "aliases", "note"), file)
    reduction = table.get("switch_reduction")
    kinds: tuple[Literal["switch", "full_mesh", "none"], ...] = ("switch", "full_mesh", "none")
    return Node(
        id=parse_text(table, "id", file),
        name=parse_text(table, "name", file),
        device=parse_text(table, "device", file),
        devices=_count(table, "devices", file),
        scale_up=parse_choice(table, "scale_up", kinds, file),
        host=parse_text(table, "host", file) if "host" in table else None,
        hosts=_count(table, "hosts", file),
        nics=_count(table, "nics", file, zero_allowed=True),
        all_in_power=parse_quantity(table["all_in_power"], "power", f"{file}: all_in_power"),
        switch_reduction=parse_quantity(reduction, "one", f"{file}: switch_reduction") if reduction else None,
        aliases=parse_aliases(table, file),
        note=parse_text(table, "note", file, default=""),
    )


def parse_cluster(table: Table, file: str) -> Cluster:
    """Read a cluster file."""
    required = ("id", "name", "node", "nodes", "fabric", "link", "oversubscription")
    check_keys(table, required, (*required, "topology", "leaf_nodes", "aliases", "note"), file)
    topologies: tuple[Literal["fat_tree", "rail"], ...] = ("fat_tree", "rail")
    fabrics: tuple[Literal["infiniband", "roce", "unified_bus", "none"], ...] = (
        "infiniband",
        "roce",
        "unified_bus",
        "none",
    )
    oversubscription = parse_quantity(table["oversubscription"], "one", f"{file}: oversubscription")
    if not 1 <= oversubscription.value <= _MOST_OVERSUBSCRIPTION:
        raise ProfileError(
            f"{file}: oversubscription is {oversubscription.value:g}; it is 1 (non-blocking) or more, at most "
            f"{_MOST_OVERSUBSCRIPTION:g}"
        )
    return Cluster(
        id=parse_text(table, "id", file),
        name=parse_text(table, "name", file),
        node=parse_text(table, "node", file),
        nodes=_count(table, "nodes", file),
        fabric=parse_choice(table, "fabric", fabrics, file),
        link=_link(table["link"], f"{file}: link"),
        oversubscription=oversubscription,
        topology=parse_choice(table, "topology", topologies, file) if "topology" in table else "fat_tree",
        leaf_nodes=_count(table, "leaf_nodes", file) if "leaf_nodes" in table else 1,
        aliases=parse_aliases(table, file),
        note=parse_text(table, "note", file, default=""),
    )


def parse_price(table: Table, file: str) -> Price:
    """Read a price file."""
    check_keys(table, ("device", "default", "offers"), ("device", "default", "offers", "note"), file)
    offers = {
        name: parse_quantity(entry, "price", f"{file}: offers.{name}", per="device")
        for name, entry in _tables(table["offers"], f"{file}: offers").items()
    }
    default = parse_text(table, "default", file)
    if default not in offers:
        raise ProfileError(
            f"{file}: default is {default!r}, which is no offer of this file; {nearest(default, offers)}"
        )
    return Price(
        device=parse_text(table, "device", file),
        offers=offers,
        default=default,
        note=parse_text(table, "note", file, default=""),
    )


def check_keys(table: Table, required: Collection[str], allowed: Collection[str], where: str) -> None:
    """Refuse a table that lacks a required key or has one that nobody reads.

    Parameters
    ----------
    table : mapping
        A TOML table as read.
    required : collection of str
        Keys that it must have.
    allowed : collection of str
        Keys that it may have, the required ones among them.
    where : str
        File and table, for the message.
    """
    unknown = [k for k in table if k not in allowed]
    if unknown:
        raise ProfileError(f"{where}: unknown key {unknown[0]!r}; {nearest(unknown[0], allowed)}")
    missing = [k for k in required if k not in table]
    if missing:
        raise ProfileError(f"{where}: missing {', '.join(map(repr, missing))}; required: {', '.join(required)}")


def parse_text(table: Table, key: str, where: str, *, default: str | None = None) -> str:
    """Read a text; empty ones count only where there is a default.

    Parameters
    ----------
    table : mapping
        A TOML table as read.
    key : str
        Its key.
    where : str
        File and table, for the message.
    default : str, optional
        What an absent key means; without it the key must be there.
    """
    value = table.get(key, default)
    if not isinstance(value, str) or (value == "" and default is None):
        raise ProfileError(f"{where}: {key} must be a text that is not empty, got {value!r}")
    return value


def parse_choice(table: Table, key: str, allowed: tuple[_Choice, ...], where: str) -> _Choice:
    """Read a text that must be one of a few.

    Parameters
    ----------
    table : mapping
        A TOML table as read.
    key : str
        Its key, which must be there.
    allowed : tuple of str
        The texts that are understood.
    where : str
        File and table, for the message.
    """
    value = parse_text(table, key, where)
    for choice in allowed:
        if value == choice:
            return choice
    raise ProfileError(f"{where}: {key} is {value!r}; allowed: {', '.join(allowed)}")


def parse_aliases(table: Table, where: str) -> tuple[str, ...]:
    """Read the list of other names, which may be absent."""
    aliases = table.get("aliases", [])
    if not isinstance(aliases, list) or not all(isinstance(a, str) and a for a in aliases):
        raise ProfileError(f"{where}: aliases must be a list of texts, got {aliases!r}")
    return tuple(aliases)


def _processor(name: str, table: Table, where: str) -> Processor:
    required = ("kind", "units", "clock", "peak", "memory_bandwidth")
    check_keys(table, required, (*required, "cache", "sustained", "kernels", "kernels_from"), where)
    kinds: tuple[ProcessorKind, ...] = get_args(ProcessorKind)
    peak = _tables(table["peak"], f"{where}.peak")
    check_keys(peak, ("bfloat16",), PEAK_DTYPES, f"{where}.peak")
    return Processor(
        name=name,
        kind=parse_choice(table, "kind", kinds, where),
        units=parse_quantity(table["units"], "one", f"{where}.units"),
        clock=parse_quantity(table["clock"], "frequency", f"{where}.clock"),
        peak={dtype: parse_quantity(q, "compute", f"{where}.peak.{dtype}") for dtype, q in peak.items()},
        memory_bandwidth=parse_quantity(table["memory_bandwidth"], "bandwidth", f"{where}.memory_bandwidth"),
        cache=parse_quantity(table["cache"], "bytes", f"{where}.cache") if "cache" in table else None,
        sustained=parse_quantity(table["sustained"], "one", f"{where}.sustained") if "sustained" in table else None,
        kernels=parse_kernels(_tables(table.get("kernels", {}), f"{where}.kernels"), f"{where}.kernels"),
        kernels_from=parse_text(table, "kernels_from", where) if "kernels_from" in table else None,
    )


def _link(entry: object, where: str) -> Link:
    if not isinstance(entry, Mapping):
        raise ProfileError(f"{where}: expected a table with bandwidth and latency, got {entry!r}")
    check_keys(entry, ("bandwidth", "latency"), ("bandwidth", "latency"), where)
    return Link(
        bandwidth=parse_quantity(entry["bandwidth"], "bandwidth", f"{where}.bandwidth", per="direction"),
        latency=parse_quantity(entry["latency"], "time", f"{where}.latency"),
    )


def _coefficient(entry: object, defaults: Table, kernel: str, where: str) -> Quantity:
    if isinstance(entry, Mapping) and "value" not in entry and any(isinstance(v, Mapping) for v in entry.values()):
        raise ProfileError(f'{where}: a kernel name with dots needs quotes, as in ["{kernel}.name"]')
    unit = entry.get("unit") if isinstance(entry, Mapping) else None
    if not isinstance(entry, Mapping) or unit not in ("flag", "choice"):
        return parse_quantity(entry, None, where, zero_allowed=True, defaults=defaults)
    value, kind = entry.get("value"), bool if unit == "flag" else str
    if not isinstance(value, kind) or value == "":
        raise ProfileError(f"{where}: {value!r} is no {unit}; expected {'true or false' if kind is bool else 'a word'}")
    number = parse_quantity(
        {**entry, "value": float(value is True), "unit": "1"}, "one", where, zero_allowed=True, defaults=defaults
    )
    return replace(number, unit=str(unit), text=value if isinstance(value, str) else "")


def _provenance(table: Table, outer: Table, where: str) -> dict[str, object]:
    own = table.get("_provenance", {})
    if not isinstance(own, Mapping):
        raise ProfileError(f"{where}: _provenance must be a table, got {own!r}")
    check_keys(own, (), _PROVENANCE_KEYS, f"{where}._provenance")
    return {**outer, **own}


def _count(table: Table, key: str, file: str, *, zero_allowed: bool = False) -> int:
    """Read a whole number; the file gives it as a quantity, so that its source stands there."""
    quantity = parse_quantity(table[key], "one", f"{file}: {key}", zero_allowed=zero_allowed)
    if quantity.value != round(quantity.value):
        raise ProfileError(f"{file}: {key} is {quantity.value:g}, which is no whole number")
    return round(quantity.value)


def _tables(entry: object, where: str) -> Mapping[str, Table]:
    if not isinstance(entry, Mapping):
        raise ProfileError(f"{where}: expected a table, got {entry!r}")
    for key, value in entry.items():
        if not isinstance(value, Mapping):
            raise ProfileError(f"{where}.{key}: expected a table, got {value!r}")
    return entry


def _relative_error(value: object, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ProfileError(f"{where}: {value!r} is no relative error; expected a fraction such as 0.05")
    return float(value)


def _date(value: object, where: str) -> str:
    if isinstance(value, datetime.date):
        return value.isoformat()
    if not isinstance(value, str):
        raise ProfileError(f"{where}: {value!r} is no date; expected a text such as '2026-07'")
    return value
