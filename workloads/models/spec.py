"""The model: layers of attention and FFN, described by shapes and dtypes alone.

All sizes are counts of elements. A spec says nothing about the hardware or the parallelism that it will meet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

DType = Literal["float32", "bfloat16", "fp8", "fp8_block", "int8", "mxfp4", "nvfp4", "int4"]
#: Whether a step computes prompts or decodes.
Phase = Literal["prefill", "decode"]
ActiveConvention = Literal["all", "without_embedding", "without_embedding_and_head"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedQueryAttention:
    """Softmax attention with ``num_kv_heads`` shared by ``num_heads`` queries (MHA when equal, MQA when 1).

    ``window`` limits attention to the last so many tokens; ``output_gate`` adds a gate projection as wide as the
    queries; ``qk_norm`` and ``bias`` (of queries, keys and values) add their small parameters, as does
    ``output_bias``; ``sinks`` adds one learned logit per head. Norm weights of queries and keys are shared by the
    heads unless ``qk_norm_per_head``.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2:
    """State-space mixer; inner width is num_heads x head_dim."""

    num_heads: int
    head_dim: int
    state_size: int
    num_groups: int
    conv_kernel: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseFFN:
    """A dense FFN of 3 (gated) or 2 matrices."""

    intermediate: int
    matrices: Literal[2, 3] = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class MoE:
    """A mixture of experts.

    ``shared_intermediate`` is the total width of all shared experts (0 = none), ``shared_gate`` their sigmoid gate;
    ``null_experts`` take router slots but do no work; ``bias`` adds biases to router and experts;
    ``router_bias`` adds the selection bias of sigmoid routers.
    """

    num_experts: int
    top_k: int
    intermediate: int
    matrices: Literal[2, 3] = 3
    shared_intermediate: int = 0
    shared_gate: bool = False
    null_experts: int = 0
    num_groups: int = 1
    top_k_groups: int = 1
    bias: bool = False
    router_bias: bool = False


Attention = GroupedQueryAttention | LatentAttention | GatedDeltaNet | Mamba2
FFN = DenseFFN | MoE


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer: a token mixer, an FFN, or both (hybrid models alternate lone mixers and lone FFNs)."""

    attention: Attention | None
    ffn: FFN | None
    norms: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DTypes:
    """Storage dtype of each part.

    ``experts`` covers routed and shared experts, ``embedding`` also the LM head, ``activation`` also router, norms
    and biases, ``state`` the recurrent state of linear attention and Mamba.
    """

    attention: DType = "bfloat16"
    experts: DType = "bfloat16"
    dense_ffn: DType = "bfloat16"
    embedding: DType = "bfloat16"
    kv_cache: DType = "bfloat16"
    activation: DType = "bfloat16"
    state: DType = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A language model: layers in order, embeddings, multi-token-prediction heads and dtypes.

    ``published_active`` counts every parameter that a token meets, as most publishers do, or leaves out the input
    embedding (a lookup), or the LM head as well, where ``published_active_convention`` says so. Each MTP layer
    repeats the last layer.
    """

    name: str
    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    tied_embeddings: bool = False
    mtp_layers: int = 0
    max_context: int = 131072
    dtypes: DTypes = field(default_factory=DTypes)
    source: str = ""
    published_total: float | None = None
    published_active: float | None = None
    published_active_convention: ActiveConvention = "all"

    @property
    def moe_layers(self) -> tuple[MoE, ...]:
        """The MoE blocks in layer order."""
        return tuple(layer.ffn for layer in self.layers if isinstance(layer.ffn, MoE))
