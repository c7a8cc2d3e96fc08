"""What an unknown family shares with a known one, and what it does not: a slip of the pen, or another model."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from workloads.errors import ModelError
from workloads.models.hf.keys import unknown_keys
from workloads.models.hf.layered import read_layers
from workloads.models.hf.reader import HfConfig
from workloads.models.spec import Layer, MoE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from workloads.models.hf.parts import Layers

_MOST_NAMED = 5
# Encoder-decoders say so, or have layers of both kinds.
_TWO_STACKS = ("encoder_layers", "decoder_layers", "num_decoder_layers", "decoder_sparse_step_decoder")
_MIXERS: Mapping[str, str] = {
    "GroupedQueryAttention": "grouped-query attention",
    "LatentAttention": "latent attention",
    "CompressedAttention": "compressed attention",
    "GatedDeltaNet": "gated delta nets",
    "KimiDeltaAttention": "Kimi delta attention",
    "Mamba1": "Mamba",
    "Mamba2": "Mamba2",
    "ShortConvolution": "short convolutions",
}


def unknown_family(config: HfConfig, families: Mapping[str, Callable[[HfConfig], Layers]]) -> str:
    """Explain an unknown ``model_type`` in one message.

    Parameters
    ----------
    config : HfConfig
        The configuration of the language model.
    families : mapping of str to callable
        The readers of the known families.

    Returns
    -------
    str
        The name that was meant, where one differs by a letter or two and not by its version; else the family that
        reads the keys with the fewest left over, what it shares, and the keys that it does not know.
    """
    given = config.model_type
    start = f"{config.where}: unknown model_type {given[:60]!r}"
    digits = re.sub(r"\D", "", given)
    close = [
        name
        for name in difflib.get_close_matches(given, families, n=3, cutoff=0.85)
        if re.sub(r"\D", "", name) == digits
    ]
    if close:
        return f"{start}; did you mean {' or '.join(repr(name) for name in close)}? {_WHERE}"
    if config.keys.get("is_encoder_decoder") is True or sum(key in config.keys for key in _TWO_STACKS) > 1:
        return f"{start}; encoder-decoder models are not described"
    found = _nearest(config, families)
    if found is None:
        return f"{start}; no known family reads its keys. {_WHERE}"
    name, layers, strange = found
    shared = ", ".join(_traits(layers))
    if not strange:
        return (
            f"{start}; it has the keys of {name!r} ({shared}) and no others, but norms, biases and gates that no key "
            f"tells may differ, so it is not read as such. {_WHERE}"
        )
    named = ", ".join(strange[:_MOST_NAMED]) + (
        f" and {len(strange) - _MOST_NAMED} more" * (len(strange) > _MOST_NAMED)
    )
    return (
        f"{start}; it shares {shared} with {name!r}, which does not know {named}: it is another model, and is not read "
        f"as such. {_WHERE}"
    )


_WHERE = "Known types, and how to describe a model in a file of your own: docs/formats/models.md"


def _nearest(
    config: HfConfig, families: Mapping[str, Callable[[HfConfig], Layers]]
) -> tuple[str, Layers, list[str]] | None:
    """Return the family that reads the configuration with the fewest keys left over; the nearest name breaks ties."""
    best: tuple[tuple[int, float], str, Layers, list[str]] | None = None
    for name, family in families.items():
        attempt = HfConfig(keys=config.keys, where=config.where)
        try:
            layers = read_layers(family, attempt)
        except ModelError:
            continue
        for key in ("vocab_size", "hidden_size", "tie_word_embeddings", "num_nextn_predict_layers", "model_type"):
            attempt.has(key)
        strange = unknown_keys(attempt)
        alike = difflib.SequenceMatcher(a=config.model_type, b=name).ratio()
        rank = (len(strange), -alike)
        if best is None or rank < best[0]:
            best = (rank, name, layers, strange)
    return None if best is None else best[1:]


def _traits(layers: tuple[Layer, ...]) -> list[str]:
    """Say what layers are made of."""
    mixers = dict.fromkeys(type(layer.attention).__name__ for layer in layers if layer.attention is not None)
    traits = [_MIXERS[mixer] for mixer in mixers]
    blocks = [layer.ffn for layer in layers if isinstance(layer.ffn, MoE)]
    if blocks:
        traits.append(f"{blocks[0].num_experts} routed experts")
        if blocks[0].shared_intermediate:
            traits.append("shared experts")
    else:
        traits.append("dense FFNs")
    return traits
