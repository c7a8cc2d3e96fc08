"""What a token costs: FLOPs by part, phase and context; KV-cache bytes by context; recurrent state bytes.

Equations and assumptions: docs/theory/model-sizes.md.
"""

from __future__ import annotations

from workloads.models.dtypes import DTYPE_BYTES
from workloads.models.sizes import layer_parameters
from workloads.models.spec import ModelSpec, Phase

#: Parts of :func:`flops_per_token`.
FLOP_PARTS = (
    "projections",
    "attention_scores",
    "router",
    "routed_experts",
    "shared_experts",
    "dense_ffn",
    "lm_head",
)


def flops_per_token(spec: ModelSpec, *, phase: Phase, context: float, mtp: bool = False) -> dict[str, float]:
    """FLOPs of the forward pass of one token, by part [FLOP].

    Parameters
    ----------
    spec : ModelSpec
        The model.
    phase : {"prefill", "decode"}
        In prefill the mean token of a prompt of ``context`` tokens; in decode a token that sees ``context`` tokens.
    context : float
        Tokens, at least 1 [tokens].
    mtp : bool
        Add the multi-token-prediction layers, each with its own pass through the LM head.

    Returns
    -------
    dict of str to float
        FLOPs of each of :data:`FLOP_PARTS`, a multiply-add being 2.

    Notes
    -----
    A matrix costs 2 FLOPs per parameter that the token meets. Norms, activations, softmax and other element-wise work
    are not counted. The LM head counts for every token, though an engine runs it for the last token of a prompt only.
    """
    flops = dict.fromkeys(FLOP_PARTS, 0.0)
    extra = spec.mtp_layers if mtp else 0
    for layer in (*spec.layers, *(spec.drafting_layers * extra)):
        for part, count in layer_parameters(layer, spec.hidden, active=True).items():
            if part != "norms":
                flops["projections" if part == "attention" else part] += 2.0 * count.matrices
        if layer.attention is not None:
            flops["attention_scores"] += layer.attention.score_flops(phase, context)
    flops["projections"] += extra * 2.0 * 2.0 * spec.hidden**2
    flops["lm_head"] = 2.0 * (1 + extra) * spec.vocab * spec.hidden
    return flops


def kv_bytes_per_token_by_layer(spec: ModelSpec) -> tuple[float, ...]:
    """KV-cache bytes per token of each layer [bytes], shape (layers,)."""
    element = DTYPE_BYTES[spec.dtypes.kv_cache]
    return tuple(0.0 if layer.attention is None else layer.attention.kv_bytes(element) for layer in spec.layers)


def kv_bytes_per_token(spec: ModelSpec) -> float:
    """KV-cache bytes that one more token adds while it is within every window [bytes]."""
    return sum(kv_bytes_per_token_by_layer(spec))


def kv_bytes(spec: ModelSpec, context: float) -> float:
    """KV-cache bytes of a sequence of ``context`` tokens [bytes]; a sliding-window layer keeps only its window."""
    total = 0.0
    for layer, size in zip(spec.layers, kv_bytes_per_token_by_layer(spec), strict=True):
        window = None if layer.attention is None else layer.attention.window
        total += size * (context if window is None else min(window, context))
    return total


def state_bytes_per_sequence(spec: ModelSpec) -> float:
    """Bytes of constant state per sequence, whatever its length [bytes]."""
    state, activation = DTYPE_BYTES[spec.dtypes.state], DTYPE_BYTES[spec.dtypes.activation]
    return sum(layer.attention.state_bytes(state, activation) for layer in spec.layers if layer.attention is not None)
