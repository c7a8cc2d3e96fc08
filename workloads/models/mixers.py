"""Token mixers: what each is made of, and what follows from that alone.

A mixer says its parameters, its FLOPs beside the projections, what it keeps per token and per sequence, and what a
description or a split of it must obey. A further one is a class here, or in :mod:`workloads.models.recurrent`, with a
name in :data:`MIXERS`; the list of its ops is made by ``simulator.ops.attention``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from workloads.models.mixer import Count as Count
from workloads.models.mixer import Mixer as Mixer
from workloads.models.mixer import Phase as Phase
from workloads.models.mixer import attended_tokens as attended_tokens
from workloads.models.recurrent import GatedDeltaNet as GatedDeltaNet
from workloads.models.recurrent import KimiDeltaAttention as KimiDeltaAttention
from workloads.models.recurrent import Mamba1 as Mamba1
from workloads.models.recurrent import Mamba2 as Mamba2
from workloads.models.recurrent import ShortConvolution as ShortConvolution


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedQueryAttention:
    """Softmax attention with ``num_kv_heads`` shared by ``num_heads`` queries (MHA when equal, MQA when 1).

    ``window`` limits attention to the last so many tokens; ``output_gate`` adds a gate projection as wide as the
    queries; ``qk_norm`` and ``bias`` (of queries, keys and values) add their small parameters, as does
    ``output_bias``; ``sinks`` adds one learned logit per head. Norm weights of queries and keys are shared by the
    heads unless ``qk_norm_per_head``. With ``shared_kv`` the values come of the keys' projection, and the cache still
    holds both; ``value_head_dim`` is the width of a value where it is not that of a key; ``head_gate`` is a gate of one
    column per head. ``index_*`` describe an indexer that chooses ``index_top_k`` tokens to attend to, and
    ``relative_dim`` columns per head make a bias of relative positions.
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
    index_heads: int = 0
    index_head_dim: int = 0
    index_top_k: int = 0
    relative_dim: int = 0

    @property
    def reach(self) -> int | None:
        """Most tokens that one query attends to; all where absent [tokens]."""
        return self.window or self.index_top_k or None

    @property
    def value_dim(self) -> int:
        """Width of a value [elements]."""
        return self.value_head_dim or self.head_dim

    def parameters(self, hidden: int) -> Count:
        """Count projections, norms, biases and sinks."""
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        values = 0 if self.shared_kv else self.num_kv_heads * self.value_dim
        mixed = self.num_heads * self.value_dim
        gates = mixed * self.output_gate + self.num_heads * (self.head_gate + self.relative_dim)
        matrices = hidden * (queries + mixed + keys + values + gates)
        vectors = self.num_heads * self.sinks + hidden * self.output_bias
        vectors += (queries + keys + values) * self.bias
        if self.qk_norm:
            vectors += queries + keys if self.qk_norm_per_head else 2 * self.head_dim
        if self.index_heads:
            matrices += hidden * self.index_head_dim * (self.index_heads + 1)
            vectors += 2 * self.index_head_dim
        return Count(matrices, vectors)

    def score_flops(self, phase: Phase, context: float) -> float:
        """Scores over the window, and their sum of values [FLOP]."""
        width = self.head_dim + self.value_dim
        scores = 2.0 * self.num_heads * width * attended_tokens(phase, context, self.reach)
        return scores + 2.0 * self.index_heads * self.index_head_dim * attended_tokens(phase, context)

    def kv_bytes(self, element: float) -> float:
        """A key and a value per KV head, and the index key [bytes]."""
        indexer = self.index_head_dim if self.index_heads else 0
        return element * (self.num_kv_heads * (self.head_dim + self.value_dim) + indexer)

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
    """Multi-head latent attention (DeepSeek-V2); ``index_*`` describe DeepSeek sparse attention's indexer.

    The indexer keeps one key of ``index_pool`` tokens where that is above 0. With ``index_top_k`` alone a layer attends
    to what the indexer of an earlier layer chose. ``window`` limits attention to the last so many tokens;
    ``output_gate`` adds a gate of one column per element that the heads mix, ``head_gate`` one per head; ``sinks`` one
    learned logit per head.
    """

    num_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    index_heads: int = 0
    index_head_dim: int = 0
    index_top_k: int = 0
    index_pool: int = 0
    window: int | None = None
    output_gate: bool = False
    head_gate: bool = False
    sinks: bool = False

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
        matrices += heads * self.v_head_dim * hidden * (1 + self.output_gate) + hidden * heads * self.head_gate
        vectors += heads * self.sinks
        if self.index_heads:
            source = self.q_lora_rank or hidden
            matrices += source * self.index_heads * self.index_head_dim
            matrices += hidden * (self.index_head_dim + self.index_heads)
            vectors += 2 * self.index_head_dim
            matrices += hidden * self.index_head_dim * (self.index_pool > 0)
            vectors += self.index_pool * self.index_head_dim
        return Count(matrices, vectors)

    def score_flops(self, phase: Phase, context: float) -> float:
        """Keys and values expanded per head in dense prefill; else work on the latents, and the indexer [FLOP]."""
        heads, rope = self.num_heads, self.qk_rope_head_dim
        sparse = self.index_top_k > 0
        if phase == "prefill" and not sparse:
            width = self.qk_nope_head_dim + rope + self.v_head_dim
            return 2.0 * heads * width * attended_tokens(phase, context, self.window)
        limit = self.index_top_k if sparse else self.window
        scores = 2.0 * heads * (2 * self.kv_lora_rank + rope) * attended_tokens(phase, context, limit)
        indexer = 2.0 * self.index_heads * self.index_head_dim * attended_tokens(phase, context)
        return scores + indexer / max(self.index_pool, 1)

    def kv_bytes(self, element: float) -> float:
        """The latent and the rotary key [bytes].

        The index keys of sparse attention are kept as fp8 with one float32 scale per token, whatever the cache's dtype
        (DeepSeek-V3.2's reference implementation). The fp8 cache of sparse attention keeps the rotary key in bfloat16
        and a float32 scale per 128 elements of the latent: 656 bytes, not 576 (FlashMLA, vLLM and SGLang).
        """
        indexer = (self.index_head_dim + 4.0) / max(self.index_pool, 1) if self.index_heads else 0.0
        if self.index_top_k and element <= 1.0:
            return self.kv_lora_rank * (element + 4.0 / 128) + 2.0 * self.qk_rope_head_dim + indexer
        return element * (self.kv_lora_rank + self.qk_rope_head_dim) + indexer

    def state_bytes(self, state: float, activation: float) -> float:  # noqa: ARG002
        """Nothing [bytes]."""
        return 0.0

    def kv_share(self, tp: int) -> float:  # noqa: ARG002
        """Every device keeps all of the latent [1]."""
        return 1.0

    def problems(self) -> Iterator[str]:
        """Say where the indexer is described in part."""
        if (self.index_heads > 0) != (self.index_head_dim > 0):
            yield "attention.index_heads and index_head_dim; expected both or none of them above 0"
        elif self.index_heads and not self.index_top_k:
            yield "attention.index_top_k = 0; expected above 0 with an indexer"

    def split_problems(self, tp: int) -> Iterator[str]:
        """Say where heads do not divide over the devices."""
        if self.num_heads % tp:
            yield f"tp={tp} must divide the {self.num_heads} heads"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedAttention:
    """Attention over a window and over keys compressed ``ratio`` to one (DeepSeek-V4); one key is also the value.

    Queries come of a latent of ``q_lora_rank``; the output goes through ``o_groups`` latents of ``o_lora_rank``. With
    ``ratio`` 0 there is the window alone. ``index_*`` describe the indexer that chooses ``index_top_k`` of the
    compressed keys; its blocks overlap, so its compressor is twice as wide.
    """

    num_heads: int
    head_dim: int
    q_lora_rank: int
    o_lora_rank: int
    o_groups: int
    window_tokens: int
    rope_head_dim: int
    ratio: int = 0
    index_heads: int = 0
    index_head_dim: int = 0
    index_top_k: int = 0

    @property
    def window(self) -> int | None:
        """Last tokens that are kept, where nothing is compressed [tokens]."""
        return None if self.ratio else self.window_tokens

    def parameters(self, hidden: int) -> Count:
        """Count the projections, the compressor and the indexer, with norms, sinks and biases of position."""
        queries, rank = self.num_heads * self.head_dim, self.q_lora_rank
        matrices = hidden * rank + rank * queries + hidden * self.head_dim
        matrices += self.o_lora_rank * queries + self.o_groups * self.o_lora_rank * hidden
        vectors = rank + self.head_dim + self.num_heads
        if self.ratio:
            width = self.head_dim * (2 if self.index_heads else 1)
            matrices += 2 * hidden * width
            vectors += self.ratio * width + self.head_dim
        if self.index_heads:
            width = 2 * self.index_head_dim
            matrices += 2 * hidden * width + hidden * self.index_heads
            matrices += rank * self.index_heads * self.index_head_dim
            vectors += self.ratio * width + self.index_head_dim
        return Count(matrices, vectors)

    def attended(self, phase: Phase, context: float) -> tuple[float, float]:
        """Tokens of the window, and compressed keys, that one query attends to [1]."""
        near = attended_tokens(phase, context, self.window_tokens)
        if not self.ratio:
            return near, 0.0
        limit = self.index_top_k * self.ratio if self.index_heads else None
        return near, attended_tokens(phase, context, limit) / self.ratio

    def score_flops(self, phase: Phase, context: float) -> float:
        """Scores and values over the window and the compressed keys; the indexer over all of these [FLOP]."""
        near, far = self.attended(phase, context)
        scores = 4.0 * self.num_heads * self.head_dim * (near + far)
        if not self.index_heads:
            return scores
        return scores + 2.0 * self.index_heads * self.index_head_dim * attended_tokens(phase, context) / self.ratio

    def kv_bytes(self, element: float) -> float:
        """A key for every ``ratio`` tokens, and an index key of fp8 with its scale; all of them in a window [bytes]."""
        key = element * self.head_dim
        if element <= 1.0:
            # As in the fp8 cache of sparse latent attention: the rotary part in bfloat16, a scale byte per 64 elements.
            key = (self.head_dim - self.rope_head_dim) * (element + 1.0 / 64) + 2.0 * self.rope_head_dim
        if not self.ratio:
            return key
        indexer = self.index_head_dim + 4.0 if self.index_heads else 0.0
        return (key + indexer) / self.ratio

    def state_bytes(self, state: float, activation: float) -> float:  # noqa: ARG002
        """The window that stands beside the compressed keys [bytes]."""
        return activation * self.head_dim * self.window_tokens if self.ratio else 0.0

    def kv_share(self, tp: int) -> float:  # noqa: ARG002
        """Every device keeps the one key of all heads [1]."""
        return 1.0

    def problems(self) -> Iterator[str]:
        """Say where the indexer is described in part, or has nothing to choose from."""
        if len({size > 0 for size in (self.index_heads, self.index_head_dim, self.index_top_k)}) > 1:
            yield "attention.index_heads, index_head_dim and index_top_k; expected all or none of them above 0"
        if self.index_heads and not self.ratio:
            yield "attention.ratio = 0; expected above 0 where an indexer chooses among compressed keys"

    def split_problems(self, tp: int) -> Iterator[str]:
        """Say where heads do not divide over the devices."""
        if self.num_heads % tp:
            yield f"tp={tp} must divide the {self.num_heads} heads"


Attention = (
    GroupedQueryAttention
    | LatentAttention
    | CompressedAttention
    | GatedDeltaNet
    | KimiDeltaAttention
    | Mamba1
    | Mamba2
    | ShortConvolution
)

#: Token mixers by their names in model files.
MIXERS: Mapping[str, type[Attention]] = {
    "grouped_query": GroupedQueryAttention,
    "latent": LatentAttention,
    "compressed": CompressedAttention,
    "gated_delta_net": GatedDeltaNet,
    "kimi_delta": KimiDeltaAttention,
    "mamba1": Mamba1,
    "mamba2": Mamba2,
    "short_convolution": ShortConvolution,
}
