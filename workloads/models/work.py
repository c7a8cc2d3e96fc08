"""What a token costs: FLOPs by part, phase and context; KV-cache bytes by context; recurrent state bytes.

Equations and assumptions: docs/theory/model-sizes.md.
"""

from __future__ import annotations

from workloads.models.dtypes import DTYPE_BYTES
from workloads.models.sizes import layer_parameters
from workloads.models.spec import (
    Attention,
    DTypes,
    GatedDeltaNet,
    GroupedQueryAttention,
    LatentAttention,
    Mamba2,
    ModelSpec,
    Phase,
)

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


def attended_tokens(phase: Phase, context: float, limit: float | None = None) -> float:
    """Tokens that one query token attends to, itself included.

    Parameters
    ----------
    phase : {"prefill", "decode"}
        In prefill, the mean over the tokens of a prompt; in decode, the last token.
    context : float
        Prompt length (prefill) or tokens in the cache with the new one (decode) [tokens].
    limit : float or None
        Window or top-k of the attention [tokens].

    Notes
    -----
    The i-th token of a causal prompt attends to min(i, w) tokens; the mean over i = 1..n is (n + 1)/2 without a
    window and w - w(w - 1)/(2n) for n >= w.
    """
    bound = context if limit is None else min(limit, context)
    if phase == "decode":
        return bound
    return bound - bound * (bound - 1) / (2 * context)


def attention_score_flops(attention: Attention, phase: Phase, context: float) -> float:
    """FLOPs of one token in one mixer outside its projections: scores and values, or the state update [FLOP].

    Parameters
    ----------
    attention : Attention
        The mixer's shapes.
    phase : {"prefill", "decode"}
        Latent attention expands keys and values per head in dense prefill, and works on the latents in decode and in
        sparse attention.
    context : float
        Prompt length (prefill) or tokens in the cache (decode) [tokens].
    """
    match attention:
        case GroupedQueryAttention():
            seen = attended_tokens(phase, context, attention.window)
            return 4.0 * attention.num_heads * attention.head_dim * seen
        case LatentAttention():
            return _latent_score_flops(attention, phase, context)
        case GatedDeltaNet():
            # Read by key (delta rule only), rank-one write, read by query: 2 FLOPs per state element each.
            passes = 3 if attention.learned_decay else 2
            return 2.0 * passes * attention.num_value_heads * attention.key_head_dim * attention.value_head_dim
        case Mamba2():
            return 4.0 * attention.num_heads * attention.head_dim * attention.state_size


def _latent_score_flops(attention: LatentAttention, phase: Phase, context: float) -> float:
    heads, rope = attention.num_heads, attention.qk_rope_head_dim
    sparse = attention.index_top_k > 0
    if phase == "prefill" and not sparse:
        width = attention.qk_nope_head_dim + rope + attention.v_head_dim
        return 2.0 * heads * width * attended_tokens(phase, context)
    limit = attention.index_top_k if sparse else None
    scores = 2.0 * heads * (2 * attention.kv_lora_rank + rope) * attended_tokens(phase, context, limit)
    indexer = 2.0 * attention.index_heads * attention.index_head_dim * attended_tokens(phase, context)
    return scores + indexer


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
    for layer in (*spec.layers, *(spec.layers[-1:] * extra)):
        for part, count in layer_parameters(layer, spec.hidden, active=True).items():
            if part != "norms":
                flops["projections" if part == "attention" else part] += 2.0 * count.matrices
        if layer.attention is not None:
            flops["attention_scores"] += attention_score_flops(layer.attention, phase, context)
    flops["projections"] += extra * 2.0 * 2.0 * spec.hidden**2
    flops["lm_head"] = 2.0 * (1 + extra) * spec.vocab * spec.hidden
    return flops


def attention_kv_bytes(attention: Attention | None, dtypes: DTypes) -> float:
    """Bytes that one mixer keeps in the KV cache for each token [bytes]; 0 for mixers with a constant state.

    The index keys of sparse attention are kept as fp8 with one float32 scale per token, whatever the cache's dtype
    (DeepSeek-V3.2's reference implementation).
    """
    size = DTYPE_BYTES[dtypes.kv_cache]
    match attention:
        case GroupedQueryAttention():
            return size * 2 * attention.num_kv_heads * attention.head_dim
        case LatentAttention():
            indexer = attention.index_head_dim + 4.0 if attention.index_heads else 0.0
            return size * (attention.kv_lora_rank + attention.qk_rope_head_dim) + indexer
        case _:
            return 0.0


def kv_bytes_per_token_by_layer(spec: ModelSpec) -> tuple[float, ...]:
    """KV-cache bytes per token of each layer [bytes], shape (layers,)."""
    return tuple(attention_kv_bytes(layer.attention, spec.dtypes) for layer in spec.layers)


def kv_bytes_per_token(spec: ModelSpec) -> float:
    """KV-cache bytes that one more token adds while it is within every window [bytes]."""
    return sum(kv_bytes_per_token_by_layer(spec))


def kv_bytes(spec: ModelSpec, context: float) -> float:
    """KV-cache bytes of a sequence of ``context`` tokens [bytes]; a sliding-window layer keeps only its window."""
    total = 0.0
    for layer, size in zip(spec.layers, kv_bytes_per_token_by_layer(spec), strict=True):
        window = layer.attention.window if isinstance(layer.attention, GroupedQueryAttention) else None
        total += size * (context if window is None else min(window, context))
    return total


def state_bytes(attention: Attention | None, dtypes: DTypes) -> float:
    """Bytes of constant state that one mixer keeps per sequence: recurrent state and convolution inputs [bytes]."""
    match attention:
        case GatedDeltaNet():
            heads, keys, values = attention.num_value_heads, attention.key_head_dim, attention.value_head_dim
            state = heads * keys * values
            channels = 2 * attention.num_key_heads * keys + heads * values
        case Mamba2():
            inner = attention.num_heads * attention.head_dim
            state = inner * attention.state_size
            channels = inner + 2 * attention.num_groups * attention.state_size
        case _:
            return 0.0
    kept = channels * max(attention.conv_kernel - 1, 0)
    return state * DTYPE_BYTES[dtypes.state] + kept * DTYPE_BYTES[dtypes.activation]


def state_bytes_per_sequence(spec: ModelSpec) -> float:
    """Bytes of constant state per sequence, whatever its length [bytes]."""
    return sum(state_bytes(layer.attention, spec.dtypes) for layer in spec.layers)
