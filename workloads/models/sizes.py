"""What follows from a model's shapes: parameters, weight bytes, FLOPs per token, KV-cache and state bytes.

Every function is pure and returns a mapping by part, in the order of :data:`PARTS`, or a sum. Multi-token-prediction
layers are left out unless asked for. Equations: docs/theory/model-sizes.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.models.dtypes import DTYPE_BYTES
from workloads.models.mixers import Count
from workloads.models.spec import (
    FFN,
    DenseFFN,
    DType,
    DTypes,
    Layer,
    ModelSpec,
    MoE,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Parts of a model, in the order in which the functions list them.
PARTS = (
    "embedding",
    "attention",
    "router",
    "routed_experts",
    "shared_experts",
    "dense_ffn",
    "norms",
    "lm_head",
    "mtp",
    "encoders",
)


def expert_parameters(moe: MoE, hidden: int) -> Count:
    """Count the parameters of one routed expert (matrices, biases)."""
    width = moe.latent or hidden
    biases = ((moe.matrices - 1) * moe.intermediate + width) * moe.bias
    return Count(moe.matrices * width * moe.intermediate, biases)


def experts_per_token(moe: MoE) -> float:
    """Routed experts that do work for a token [1].

    Null experts take their share of the ``top_k`` choices; the share is that of a uniform router.
    """
    return moe.top_k * moe.num_experts / (moe.num_experts + moe.null_experts)


def ffn_parameters(ffn: FFN, hidden: int, *, active: bool = False) -> dict[str, Count]:
    """Count the parameters of one FFN by part; with ``active``, only those that a token meets.

    The projections to and from a latent belong to the shared experts: every token meets them.
    """
    if isinstance(ffn, DenseFFN):
        return {"dense_ffn": Count(ffn.matrices * hidden * ffn.intermediate)}
    routes = ffn.num_experts + ffn.null_experts
    expert = expert_parameters(ffn, hidden)
    number = experts_per_token(ffn) if active else ffn.num_experts
    parts = {
        "router": Count(hidden * routes, routes * (ffn.bias + ffn.router_bias)),
        "routed_experts": Count(number * expert.matrices, number * expert.vectors),
    }
    if ffn.shared_intermediate or ffn.latent:
        gate = hidden * ffn.shared_gate
        projections = 2 * hidden * ffn.latent
        parts["shared_experts"] = Count(ffn.matrices * hidden * ffn.shared_intermediate + gate + projections)
    return parts


def layer_parameters(layer: Layer, hidden: int, *, active: bool = False) -> dict[str, Count]:
    """Count the parameters of one layer by part; with ``active``, only those that a token meets."""
    parts = {"norms": Count(0.0, layer.norms * hidden)}
    if layer.attention is not None:
        parts["attention"] = layer.attention.parameters(hidden)
    if layer.ffn is not None:
        parts |= ffn_parameters(layer.ffn, hidden, active=active)
    return parts


def _mtp_parts(spec: ModelSpec, *, active: bool) -> dict[str, Count]:
    """One MTP layer: its layers, a projection of two hidden states to one, and three norms."""
    parts = {"projection": Count(2.0 * spec.hidden**2, 3 * spec.hidden)}
    for layer in spec.drafting_layers:
        for part, count in layer_parameters(layer, spec.hidden, active=active).items():
            sofar = parts.get(part, Count(0.0))
            parts[part] = Count(sofar.matrices + count.matrices, sofar.vectors + count.vectors)
    return parts


def _counts(spec: ModelSpec, *, active: bool, mtp: bool) -> dict[str, list[Count]]:
    counts: dict[str, list[Count]] = {part: [] for part in PARTS}
    table = Count(spec.vocab * spec.hidden)
    counts["embedding"].append(table)
    if not spec.tied_embeddings:
        counts["lm_head"].append(table)
    for layer in spec.layers:
        for part, count in layer_parameters(layer, spec.hidden, active=active).items():
            counts[part].append(count)
    counts["norms"].append(Count(0.0, spec.hidden))
    if not active:
        counts["encoders"].append(Count(0.0, spec.encoders))
    if mtp:
        counts["mtp"] += spec.mtp_layers * list(_mtp_parts(spec, active=active).values())
    return counts


def parameters(spec: ModelSpec, *, mtp: bool = False) -> dict[str, float]:
    """Count the parameters by part.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    mtp : bool
        Count the multi-token-prediction layers too.

    Returns
    -------
    dict of str to float
        Parameters of each of :data:`PARTS` [1]. A tied embedding counts once, as ``embedding``.

    Examples
    --------
    >>> from workloads.models.library import load_model
    >>> f"{sum(parameters(load_model('mixtral-8x7b')).values()):.0f}"
    '46702792704'
    """
    counts = _counts(spec, active=False, mtp=mtp)
    return {part: float(sum(c.matrices + c.vectors for c in counts[part])) for part in PARTS}


def active_parameters(spec: ModelSpec, *, mtp: bool = False, embedding: bool = True) -> dict[str, float]:
    """Count the parameters that one token meets, by part.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    mtp : bool
        Count the multi-token-prediction layers too.
    embedding : bool
        Count the input embedding, of which a token reads one row. Publishers differ; most count it. A tied embedding
        is the LM head too, so it always counts.

    Returns
    -------
    dict of str to float
        Active parameters of each of :data:`PARTS` [1].
    """
    counts = _counts(spec, active=True, mtp=mtp)
    if not embedding and not spec.tied_embeddings:
        counts["embedding"] = []
    return {part: float(sum(c.matrices + c.vectors for c in counts[part])) for part in PARTS}


def total_parameters(spec: ModelSpec, *, mtp: bool = False) -> float:
    """Count all parameters [1]."""
    return sum(parameters(spec, mtp=mtp).values())


def total_active_parameters(spec: ModelSpec, *, mtp: bool = False, embedding: bool = True) -> float:
    """Count the parameters that one token meets [1]; see :func:`active_parameters`."""
    return sum(active_parameters(spec, mtp=mtp, embedding=embedding).values())


def quoted_active_parameters(spec: ModelSpec) -> float:
    """Count the active parameters as the publisher does [1]: by ``spec.published_active_convention``.

    This is the figure to compare with ``spec.published_active``.
    """
    count = total_active_parameters(spec, embedding=spec.published_active_convention == "all")
    if spec.published_active_convention == "without_embedding_and_head":
        count -= spec.vocab * spec.hidden
    return count


def part_dtypes(dtypes: DTypes) -> dict[str, DType]:
    """Name the storage dtype of the matrices of each part (vectors are stored as ``dtypes.activation``)."""
    return {
        "embedding": dtypes.embedding,
        "attention": dtypes.attention,
        "router": dtypes.activation,
        "routed_experts": dtypes.experts,
        "shared_experts": dtypes.shared,
        "dense_ffn": dtypes.dense_ffn,
        "norms": dtypes.activation,
        "lm_head": dtypes.embedding,
        "projection": dtypes.activation,
        "encoders": dtypes.activation,
    }


def _bytes(counts: Mapping[str, Count], dtypes: DTypes) -> dict[str, float]:
    vector = DTYPE_BYTES[dtypes.activation]
    element = {part: DTYPE_BYTES[dtype] for part, dtype in part_dtypes(dtypes).items()} | dict(dtypes.stored)
    return {part: c.matrices * element[part] + c.vectors * vector for part, c in counts.items()}


def weight_bytes(spec: ModelSpec, *, mtp: bool = False) -> dict[str, float]:
    """Size the stored weights by part [bytes], the scales of quantised dtypes included."""
    sizes = dict.fromkeys(PARTS, 0.0)
    for part, counts in _counts(spec, active=False, mtp=False).items():
        total = Count(sum(c.matrices for c in counts), sum(c.vectors for c in counts))
        if part != "mtp":
            sizes[part] = _bytes({part: total}, spec.dtypes)[part]
    if mtp:
        sizes["mtp"] = spec.mtp_layers * sum(_bytes(_mtp_parts(spec, active=False), spec.dtypes).values())
    return sizes


def expert_bytes(spec: ModelSpec) -> float:
    """Weights of one routed expert of one layer [bytes]; 0 for a dense model."""
    moe = spec.moe
    return 0.0 if moe is None else weight_bytes(spec)["routed_experts"] / (len(spec.moe_layers) * moe.num_experts)
