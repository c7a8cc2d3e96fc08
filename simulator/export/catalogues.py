"""What the catalogues hold, as documents: one row per entry for ``list``, everything about one for ``show``."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardware_profiles.edge import exists
from hardware_profiles.errors import nearest_product
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
from hardware_profiles.schema import Quantity
from simulator.conditions import load_conditions
from simulator.errors import ModelError, ScenarioError
from simulator.feasibility.rules import condition_words
from simulator.scenario.keys import scenario_keys
from simulator.scenario.presets import preset_names, preset_path
from simulator.stack import load_stack, stack_names
from workloads.models.library import load_model, model_names
from workloads.models.sizes import (
    active_parameters,
    parameters,
    total_active_parameters,
    total_parameters,
    weight_bytes,
)
from workloads.models.spec import Layer, ModelSpec
from workloads.models.work import flops_per_token, kv_bytes_per_token, state_bytes_per_sequence

Row = dict[str, Any]

#: Context at which ``show`` states the FLOPs of a token [tokens].
CONTEXT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """One kind of entry: its names, one line about an entry, everything about it, and its other names."""

    names: Callable[[Path | None], Iterable[str]]
    row: Callable[[str, Path | None], Row]
    show: Callable[[str, Path | None], Row]
    aliases: Callable[[str, Path | None], Iterable[str]] = lambda _name, _folder: ()


def list_entries(kind: str | None, profiles: Path | None = None) -> list[Row]:
    """List one catalogue, one row per entry; values are in SI units.

    Parameters
    ----------
    kind : str or None
        A key of ``CATALOGUES``, or ``keys`` for the keys of a scenario; ``None`` for the catalogues themselves.
    profiles : Path or None
        Folder of the user's hardware profiles.
    """
    if kind is None:
        listed = {name: tuple(catalogue.names(profiles)) for name, catalogue in CATALOGUES.items()}
        listed["keys"] = tuple(key.name for key in scenario_keys())
        return [
            {"kind": name, "entries": len(names), "such_as": ", ".join(names[:3])} for name, names in listed.items()
        ]
    if kind == "keys":
        return [dataclasses.asdict(key) for key in scenario_keys()]
    catalogue = CATALOGUES[kind]
    return [catalogue.row(name, profiles) for name in catalogue.names(profiles)]


def show_entry(name: str, profiles: Path | None = None) -> Row:
    """Return everything about one entry of any catalogue, found by name or alias, or about a model file.

    Raises
    ------
    MoesimError
        No catalogue has that name, and the message gives the nearest of all; or its profile is malformed.
    """
    wanted, known = name.lower(), {kind: list(c.names(profiles)) for kind, c in CATALOGUES.items()}
    for kind, names in known.items():
        if wanted in names:
            return CATALOGUES[kind].show(wanted, profiles)
    for kind, names in known.items():
        for candidate in names:
            if wanted in (alias.lower() for alias in CATALOGUES[kind].aliases(candidate, profiles)):
                return CATALOGUES[kind].show(candidate, profiles)
    try:
        # Models are also known by variants of their names and by the files that describe them.
        return _show_model(name, profiles)
    except ModelError:
        if exists(name):
            raise
    every = [n for names in known.values() for n in names]
    hint = nearest_product(wanted, every) or "'moesim list' shows what there is"
    raise ScenarioError(f"nothing in the catalogues is named {name!r}; {hint}")


def quantities(value: object, prefix: str = "") -> Iterator[Row]:
    """List every number of a profile with its provenance, by dotted key."""
    if isinstance(value, Quantity):
        yield {
            "key": prefix,
            "stated": value.written,
            "unit": value.unit,
            "value_si": value.value,
            "status": value.status,
            "source": value.source,
            "error": value.error,
            "note": value.note,
        }
    for key, item in _members(value):
        yield from quantities(item, f"{prefix}.{key}" if prefix else key)


def facts(value: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """List everything of a profile that is not a number with a provenance, by dotted key; empty values left out."""
    if isinstance(value, Quantity):
        return
    members = list(_members(value))
    for key, item in members:
        yield from facts(item, f"{prefix}.{key}" if prefix else key)
    if not members and value not in (None, "", (), {}, frozenset()):
        yield prefix, sorted(value) if isinstance(value, frozenset) else value


def _members(value: object) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(key), item) for key, item in value.items())
    elif dataclasses.is_dataclass(value) and not isinstance(value, (type, Quantity)):
        yield from ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))


def _profile(kind: str, value: Any, extra: Iterable[Row] = ()) -> Row:
    return {
        "kind": kind,
        "name": value.id,
        "facts": dict(facts(value)),
        "quantities": [*quantities(value), *extra],
    }


def _device_row(name: str, profiles: Path | None) -> Row:
    device = load_device(name, profiles)
    peak = device.main.peak.get("bfloat16")
    return {
        "name": device.id,
        "vendor": device.vendor,
        "architecture": device.architecture,
        "memory_bytes": device.memory_capacity.value,
        "memory_bandwidth_bytes_per_s": device.main.memory_bandwidth.value,
        "bfloat16_flops_per_s": None if peak is None else peak.value,
        "kernels": resolve_kernels(device.main, profiles)[1],
    }


def _show_device(name: str, profiles: Path | None) -> Row:
    device, price = load_device(name, profiles), load_price(name, profiles)
    offers = {} if price is None else price.offers
    document = _profile("device", device, quantities(offers, "price"))
    document["facts"] |= {"kernels": resolve_kernels(device.main, profiles)[1]}
    if price is not None:
        document["facts"] |= {"price.default": price.default}
    return document


def _node_row(name: str, profiles: Path | None) -> Row:
    node = load_node(name, profiles)
    return {"name": node.id, "device": node.device, "devices": node.devices, "scale_up": node.scale_up}


def _cluster_row(name: str, profiles: Path | None) -> Row:
    cluster = load_cluster(name, profiles)
    return {
        "name": cluster.id,
        "node": cluster.node,
        "nodes": cluster.nodes,
        "fabric": cluster.fabric,
        "link_bytes_per_s": cluster.link.bandwidth.value,
    }


def _model_row(name: str, _profiles: Path | None) -> Row:
    model = load_model(name)
    moe = next(iter(model.moe_layers), None)
    return {
        "name": name,
        "parameters": total_parameters(model),
        "active_parameters": total_active_parameters(model),
        "layers": len(model.layers),
        "moe_layers": len(model.moe_layers),
        "experts": 0 if moe is None else moe.num_experts,
        "top_k": 0 if moe is None else moe.top_k,
        "kv_bytes_per_token": kv_bytes_per_token(model),
    }


def _show_model(name: str, _profiles: Path | None) -> Row:
    model = load_model(name)
    total, active, stored = (
        parameters(model, mtp=True),
        active_parameters(model, mtp=True),
        weight_bytes(model, mtp=True),
    )
    plain = dataclasses.replace(model, layers=(), mtp_blocks=(), notes=())
    return {
        "kind": "model",
        "name": model.name,
        "facts": dict(facts(plain)),
        "layers": _layer_kinds(model),
        "parts": [
            {"part": part, "parameters": total[part], "active_parameters": active[part], "weight_bytes": stored[part]}
            for part in total
            if total[part]
        ],
        "parameters": total_parameters(model),
        "active_parameters": total_active_parameters(model),
        "active_parameters_without_embedding": total_active_parameters(model, embedding=False),
        "weight_bytes": sum(weight_bytes(model).values()),
        "kv_bytes_per_token": kv_bytes_per_token(model),
        "state_bytes_per_sequence": state_bytes_per_sequence(model),
        "flops_per_token": {
            phase: sum(flops_per_token(model, phase=phase, context=CONTEXT).values()) for phase in ("prefill", "decode")
        },
        "flops_context": CONTEXT,
        "warnings": list(model.notes),
    }


def _layer_kinds(model: ModelSpec) -> list[Row]:
    """Fold equal layers into one row each, in the order in which they first appear."""
    places: dict[Layer, list[int]] = {}
    for index, layer in enumerate(model.layers):
        places.setdefault(layer, []).append(index)
    return [{"layers": indices, **_layer(layer)} for layer, indices in places.items()]


def _layer(layer: Layer) -> Row:
    return {
        part: None if value is None else {"kind": type(value).__name__, **dict(facts(value))}
        for part, value in (("attention", layer.attention), ("ffn", layer.ffn))
    }


def _stack_row(name: str, _profiles: Path | None) -> Row:
    stack = load_stack(name)
    return {"name": stack.id, "scheduler": stack.scheduler, "chunked": stack.chunked, "exchange": stack.exchange}


def _show_stack(name: str, _profiles: Path | None) -> Row:
    document = _profile("stack", load_stack(name))
    conditions = load_conditions(name).conditions
    document["facts"] |= {"conditions": len(conditions)}
    document["conditions"] = [
        {key: value for key, value in facts(condition) if value} | {"says": condition_words(condition.rule)}
        for condition in conditions
    ]
    return document


def _preset_row(name: str, _profiles: Path | None) -> Row:
    scenario = _preset_table(name)
    return {
        "name": name,
        "model": scenario["model"]["name"],
        "device": scenario["hardware"]["device"],
        "file": str(preset_path(name)),
    }


def _show_preset(name: str, _profiles: Path | None) -> Row:
    path = preset_path(name)
    return {
        "kind": "preset",
        "name": name,
        "file": str(path),
        "scenario": _preset_table(name),
        "toml": path.read_text(encoding="utf-8"),
    }


def _preset_table(name: str) -> dict[str, Any]:
    return tomllib.loads(preset_path(name).read_text(encoding="utf-8"))


#: Every catalogue by the name that ``list`` knows it by.
CATALOGUES: Mapping[str, Catalogue] = {
    "devices": Catalogue(
        names=device_names, row=_device_row, show=_show_device, aliases=lambda n, f: load_device(n, f).aliases
    ),
    "nodes": Catalogue(
        names=node_names,
        row=_node_row,
        show=lambda n, f: _profile("node", load_node(n, f)),
        aliases=lambda n, f: load_node(n, f).aliases,
    ),
    "clusters": Catalogue(
        names=cluster_names,
        row=_cluster_row,
        show=lambda n, f: _profile("cluster", load_cluster(n, f)),
        aliases=lambda n, f: load_cluster(n, f).aliases,
    ),
    "models": Catalogue(names=lambda _: model_names(), row=_model_row, show=_show_model),
    "stacks": Catalogue(
        names=lambda _: stack_names(),
        row=_stack_row,
        show=_show_stack,
        aliases=lambda n, _: load_stack(n).aliases,
    ),
    "presets": Catalogue(names=lambda _: preset_names(), row=_preset_row, show=_show_preset),
}
