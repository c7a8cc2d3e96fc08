"""Token mixers: what each is made of, and what follows from that alone.

A mixer says its parameters, its FLOPs beside the projections, what it keeps per token and per sequence, and what a
description or a split of it must obey. A further one is a class here with a name in :data:`MIXERS`; the list of its ops
is made by ``simulator.ops.attention``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

#: Whether a step computes prompts or decodes.
Phase = Literal["prefill", "decode"]


class Count(NamedTuple):
    """Parameters of one part: those in matrices (multiplied by every token) and those in vectors (norms, biases)."""

    matrices: float
    vectors: float = 0.0


class Mixer(Protocol):
    """What a token mixer knows of itself."""

    @property
    def window(self) -> int | None:
        """Last tokens whose keys and values it keeps; all where absent [tokens]."""

    def parameters(self, hidden: int) -> Count:
        """Count projections and convolutions; and norms, biases, sinks and decays, at a model width [elements]."""

    def score_flops(self, phase: Phase, context: float) -> float:
        """FLOPs of one token outside the projections: scores and values, or the update of a state [FLOP].

        Parameters
        ----------
        phase : {"prefill", "decode"}
            In prefill the mean token of a prompt, in decode the last.
        context : float
            Prompt length (prefill) or tokens in the cache (decode) [tokens].
        """

    def kv_bytes(self, element: float) -> float:
        """Bytes in the KV cache for each token, at so many per element [bytes]; 0 with a constant state."""

    def state_bytes(self, state: float, activation: float) -> float:
        """Bytes of constant state per sequence, at so many per element of state and of activations [bytes]."""

    def kv_share(self, tp: int) -> float:
        """Share of a token's KV bytes that each of ``tp`` devices keeps [1]."""

    def problems(self) -> Iterator[str]:
        """Say what of the description does not fit together."""

    def split_problems(self, tp: int) -> Iterator[str]:
        """Say why it cannot be split over ``tp`` devices."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedQueryAttention:
    """Softmax attention with ``num_kv_heads`` shared by ``num_heads`` queries (MHA when equal, MQA when 1).

    ``window`` limits attention to the last so many tokens; ``output_gate`` adds a gate projection as wide as the
    queries; ``qk_norm`` and ``bias`` (of queries, keys and values) add their small parameters, as does
    ``output_bias``; ``sinks`` adds one learned logit per head. Norm weights of queries and keys are shared by the
    heads unless ``qk_norm_per_head``. With ``shared_kv`` the values come of the keys' projection, and the cache still
    holds both; ``value_head_dim`` is the width of a value where it is not that of a key; ``head_gate`` is a gate of one
    column per head.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int | None = None
    output_gate: bool = False
    qk_norm: bool = False
    bias: bool = False
    sinks: bool = False
    output_bias: bool = False
    qk_norm_per_head: bool = False
    shared_kv: bool = False
    value_head_dim: int | None = None
    head_gate: bool = False

    @property
    def value_dim(self) -> int:
        """Width of a value [elements]."""
        return self.value_head_dim or self.head_dim

    def parameters(self, hidden: int) -> Count:
        """Count projections, norms, biases and sinks."""
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        values = 0 if self.shared_kv else self.num_kv_heads * self.value_dim
        mixed = self.num_heads * self.value_dim
        gates = mixed * self.output_gate + self.num_heads * self.head_gate
        matrices = hidden * (queries + mixed + keys + values + gates)
        vectors = self.num_heads * self.sinks + hidden * self.output_bias
        vectors += (queries + keys + values) * self.bias
        if self.qk_norm:
            vectors += queries + keys if self.qk_norm_per_head else 2 * self.head_dim
        return Count(matrices, vectors)

    def score_flops(self, phase: Phase, context: float) -> float:
        """Scores over the window, and their sum of values [FLOP]."""
        width = self.head_dim + self.value_dim
        return 2.0 * self.num_heads * width * attended_tokens(phase, context, self.window)

    def kv_bytes(self, element: float) -> float:
        """A key and a value per KV head [bytes]."""
        return element * self.num_kv_heads * (self.head_dim + self.value_dim)

    def state_bytes(self, state: float, activation: float) -> float:  # noqa: ARG002
        """Nothing [bytes]."""
        return 0.0

    def kv_share(self, tp: int) -> float:
        """Heads are split over the devices, and repeated where there are fewer than devices [1]."""
        return max(1.0 / tp, 1.0 / self.num_kv_heads)

    def problems(self) -> Iterator[str]:
        """Say where heads do not share evenly."""
        if self.num_kv_heads > 0 and self.num_heads % self.num_kv_heads:
            yield f"attention.num_heads = {self.num_heads} is not a multiple of num_kv_heads = {self.num_kv_heads}"

    def split_problems(self, tp: int) -> Iterator[str]:
        """Say where heads, or KV heads, do not divide over the devices."""
        if self.num_heads % tp:
            yield f"tp={tp} must divide the {self.num_heads} heads"
        if self.num_kv_heads % tp and tp % self.num_kv_heads:
            yield f"tp={tp} must divide, or be a multiple of, the {self.num_kv_heads} KV heads"


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2); ``index_*`` describe DeepSeek sparse attention's indexer."""

    num_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    index_heads: int = 0
    index_head_dim: int = 0
    index_top_k: int = 0

    @property
    def window(self) -> None:
        """All tokens are kept."""
        return

    def parameters(self, hidden: int) -> Count:
        """Count the projections to and from the latents, their norms, and the indexer."""
        heads, rank = self.num_heads, self.kv_lora_rank
        queries = heads * (self.qk_nope_head_dim + self.qk_rope_head_dim)
        if self.q_lora_rank is None:
            matrices, vectors = hidden * queries, rank
        else:
            matrices = self.q_lora_rank * (hidden + queries)
            vectors = rank + self.q_lora_rank
        matrices += hidden * (rank + self.qk_rope_head_dim)
        matrices += rank * heads * (self.qk_nope_head_dim + self.v_head_dim)
        matrices += heads * self.v_head_dim * hidden
        if self.index_heads:
            source = self.q_lora_rank or hidden
            matrices += source * self.index_heads * self.index_head_dim
            matrices += hidden * (self.index_head_dim + self.index_heads)
            vectors += 2 * self.index_head_dim
        return Count(matrices, vectors)

    def score_flops(self, phase: Phase, context: float) -> float:
        """Keys and values expanded per head in dense prefill; else work on the latents, and the indexer [FLOP]."""
        heads, rope = self.num_heads, self.qk_rope_head_dim
        sparse = self.index_top_k > 0
        if phase == "prefill" and not sparse:
            width = self.qk_nope_head_dim + rope + self.v_head_dim
            return 2.0 * heads * width * attended_tokens(phase, context)
        limit = self.index_top_k if sparse else None
        scores = 2.0 * heads * (2 * self.kv_lora_rank + rope) * attended_tokens(phase, context, limit)
        indexer = 2.0 * self.index_heads * self.index_head_dim * attended_tokens(phase, context)
        return scores + indexer

    def kv_bytes(self, element: float) -> float:
        """The latent and the rotary key [bytes].

        The index keys of sparse attention are kept as fp8 with one float32 scale per token, whatever the cache's dtype
        (DeepSeek-V3.2's reference implementation).
        """
        indexer = self.index_head_dim + 4.0 if self.index_heads else 0.0
        return element * (self.kv_lora_rank + self.qk_rope_head_dim) + indexer

    def state_bytes(self, state: float, activation: float) -> float:  # noqa: ARG002
        """Nothing [bytes]."""
        return 0.0

    def kv_share(self, tp: int) -> float:  # noqa: ARG002
        """Every device keeps all of the latent [1]."""
        return 1.0

    def problems(self) -> Iterator[str]:
        """Say where the indexer is described in part."""
        if len({size > 0 for size in (self.index_heads, self.index_head_dim, self.index_top_k)}) > 1:
            yield "attention.index_heads, index_head_dim and index_top_k; expected all or none of them above 0"

    def split_problems(self, tp: int) -> Iterator[str]:
        """Say where heads do not divide over the devices."""
        if self.num_heads % tp:
            yield f"tp={tp} must divide the {self.num_heads} heads"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedDeltaNet:
    """Linear attention with a gated delta rule (Qwen3-Next); state of key_head_dim x value_head_dim per value head.

    With ``learned_decay`` false and ``conv_kernel`` 0 it is lightning attention (MiniMax-01): the same output gate and
    state, a decay fixed per head, and no delta rule.
    """

    num_key_heads: int
    num_value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_kernel: int
    learned_decay: bool = True

    @property
    def window(self) -> None:
        """There is no cache that a window could limit."""
        return

    def parameters(self, hidden: int) -> Count:
        """Count projections, convolution, gates and the output norm."""
        keys, values = self.num_key_heads * self.key_head_dim, self.num_value_heads * self.value_head_dim
        gates = 2 * self.num_value_heads * self.learned_decay
        matrices = hidden * (2 * keys + 2 * values + gates) + values * hidden
        convolution = self.conv_kernel * (2 * keys + values)
        # The output norm is shared by the heads where the decay is learned, and spans them where it is not.
        vectors = self.value_head_dim + gates if self.learned_decay else values
        return Count(matrices + convolution, vectors)

    def score_flops(self, phase: Phase, context: float) -> float:  # noqa: ARG002
        """Read by key (delta rule only), rank-one write, read by query: 2 FLOPs per state element each [FLOP]."""
        passes = 3 if self.learned_decay else 2
        return 2.0 * passes * self.num_value_heads * self.key_head_dim * self.value_head_dim

    def kv_bytes(self, element: float) -> float:  # noqa: ARG002
        """Nothing [bytes]."""
        return 0.0

    def kv_share(self, tp: int) -> float:  # noqa: ARG002
        """There is nothing to share [1]."""
        return 1.0

    def state_bytes(self, state: float, activation: float) -> float:
        """The state of every value head, and the last inputs of the convolution [bytes]."""
        heads, keys, values = self.num_value_heads, self.key_head_dim, self.value_head_dim
        channels = 2 * self.num_key_heads * keys + heads * values
        return heads * keys * values * state + channels * max(self.conv_kernel - 1, 0) * activation

    def problems(self) -> Iterator[str]:
        """Any positive sizes do."""
        yield from ()

    def split_problems(self, tp: int) -> Iterator[str]:
        """Say where value heads do not divide over the devices."""
        if self.num_value_heads % tp:
            yield f"tp={tp} must divide the {self.num_value_heads} linear-attention heads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2:
    """State-space mixer; inner width is num_heads x head_dim."""

    num_heads: int
    head_dim: int
    state_size: int
    num_groups: int
    conv_kernel: int

    @property
    def inner(self) -> int:
        """Inner width [elements]."""
        return self.num_heads * self.head_dim

    @property
    def channels(self) -> int:
        """Channels of the convolution: inner width, and input and output maps of each group [1]."""
        return self.inner + 2 * self.num_groups * self.state_size

    @property
    def window(self) -> None:
        """There is no cache that a window could limit."""
        return

    def parameters(self, hidden: int) -> Count:
        """Count projections, convolution, decays and the output norm."""
        matrices = hidden * (self.inner + self.channels + self.num_heads) + self.inner * hidden
        return Count(matrices + self.conv_kernel * self.channels, self.channels + 3 * self.num_heads + self.inner)

    def score_flops(self, phase: Phase, context: float) -> float:  # noqa: ARG002
        """Write and read the state: 2 FLOPs per element each [FLOP]."""
        return 4.0 * self.num_heads * self.head_dim * self.state_size

    def kv_bytes(self, element: float) -> float:  # noqa: ARG002
        """Nothing [bytes]."""
        return 0.0

    def kv_share(self, tp: int) -> float:  # noqa: ARG002
        """There is nothing to share [1]."""
        return 1.0

    def state_bytes(self, state: float, activation: float) -> float:
        """The state of every head, and the last inputs of the convolution [bytes]."""
        return self.inner * self.state_size * state + self.channels * max(self.conv_kernel - 1, 0) * activation

    def problems(self) -> Iterator[str]:
        """Say where heads do not share evenly."""
        if self.num_groups > 0 and self.num_heads % self.num_groups:
            yield f"attention.num_heads = {self.num_heads} is not a multiple of num_groups = {self.num_groups}"

    def split_problems(self, tp: int) -> Iterator[str]:
        """Say where heads do not divide over the devices."""
        if self.num_heads % tp:
            yield f"tp={tp} must divide the {self.num_heads} Mamba heads"


Attention = GroupedQueryAttention | LatentAttention | GatedDeltaNet | Mamba2

#: Token mixers by their names in model files.
MIXERS: Mapping[str, type[Attention]] = {
    "grouped_query": GroupedQueryAttention,
    "latent": LatentAttention,
    "gated_delta_net": GatedDeltaNet,
    "mamba2": Mamba2,
}
