"""Sizes that differ from layer to layer: lists with one entry per layer, or tables of exceptions.

A family's reader knows one layer's keys as numbers. Where a configuration lists them, the family is read once for every
combination that occurs, and each layer is taken from the reading of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workloads.errors import ModelError
from workloads.models.hf.parts import Layers, number_of_layers
from workloads.models.hf.reader import HfConfig

if TYPE_CHECKING:
    from collections.abc import Callable

# Keys that may hold one number per layer, and the key that a number of them means.
_LISTED = (
    "intermediate_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "shared_intermediate_size",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_topk",
    "moe_k",
    "num_shared_expert",
    "num_shared_experts",
    "n_shared_experts",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "sliding_window",
)
_OWN_NAME = {
    "num_attention_heads_per_layer": "num_attention_heads",
    "num_key_value_heads_per_layer": "num_key_value_heads",
    "num_experts_per_layer": "num_experts",
    "n_routed_experts_per_layer": "n_routed_experts",
    "num_experts_per_tok_per_layer": "num_experts_per_tok",
    "moe_intermediate_size_per_layer": "moe_intermediate_size",
    "intermediate_size_per_layer": "intermediate_size",
}
_EXCEPTIONS = "per_layer_config"


def read_layers(family: Callable[[HfConfig], Layers], config: HfConfig) -> Layers:
    """Read the layers of a family, with the sizes of each.

    Parameters
    ----------
    family : callable
        The reader of one family.
    config : HfConfig
        The configuration of the language model.

    Raises
    ------
    ModelError
        A list has not one entry per layer, or a table of exceptions names a layer that is not there.
    """
    listed = {key: config.keys[key] for key in (*_LISTED, *_OWN_NAME) if isinstance(config.keys.get(key), list)}
    if not listed and not config.has(_EXCEPTIONS):
        return family(config)
    number = number_of_layers(config)
    changes = [_listed_sizes(config, listed, index, number) for index in range(number)]
    for index, exception in _exceptions(config, number).items():
        changes[index] |= exception
    readings: dict[tuple[tuple[str, Any], ...], Layers] = {}
    layers: list[Layers] = []
    for index, change in enumerate(changes):
        key = tuple(sorted(change.items()))
        if key not in readings:
            keys = {**config.keys, **change}
            readings[key] = family(HfConfig(keys=keys, where=config.where, asked=config.asked))
        each = len(readings[key]) // number
        layers.append(readings[key][index * each : (index + 1) * each])
    return tuple(layer for group in layers for layer in group)


def _listed_sizes(config: HfConfig, listed: dict[str, list[Any]], index: int, number: int) -> dict[str, Any]:
    """Return the numbers of one layer; lists of other lengths are left to the family."""
    found: dict[str, Any] = {}
    for key, values in listed.items():
        if key in _OWN_NAME and len(values) != number:
            msg = f"{config.where}: {key} has {len(values)} entries; expected one per layer, {number}"
            raise ModelError(msg)
        if len(values) == number:
            config.has(key)
            found[_OWN_NAME.get(key, key)] = values[index]
    return found


def _exceptions(config: HfConfig, number: int) -> dict[int, dict[str, Any]]:
    """Read ``per_layer_config`` of transformers 5: keys of single layers, by their number."""
    if not config.has(_EXCEPTIONS):
        return {}
    table = config.section(_EXCEPTIONS)
    found = {}
    for name in table.keys:
        if not name.isdecimal() or not int(name) < number:
            msg = f"{table.where}: {name!r} is no layer; expected a number below {number}"
            raise ModelError(msg)
        found[int(name)] = dict(table.section(name).keys)
    return found
