"""The model: layers of attention and FFN, described by shapes and dtypes alone.

All sizes are counts of elements. A spec says nothing about the hardware or the parallelism that it will meet.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal

from workloads.models.mixers import Attention
from workloads.models.mixers import Phase as Phase

DType = Literal["float32", "bfloat16", "fp8", "fp8_block", "int8", "mxfp4", "nvfp4", "int4"]
ActiveConvention = Literal["all", "without_embedding", "without_embedding_and_head"]


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
    ``router_bias`` adds the selection bias of sigmoid routers. With ``latent`` the routed experts, and the exchange
    with them, work in a latent of so many elements, to and from which every token is projected (0 = none).
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
    latent: int = 0


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

    ``experts`` covers the routed experts and, unless ``shared_experts`` says otherwise, the shared ones; ``embedding``
    also the LM head, ``activation`` also router, norms, biases and encoders, ``state`` the recurrent state of linear
    attention and Mamba. ``stored`` holds the mean bytes per element [bytes] of the parts whose files differ from what
    their dtype says: several formats in one part, or scales of other groups. ``blocks`` holds the outputs and inputs of
    a matrix that share one scale [elements] in such parts.
    """

    attention: DType = "bfloat16"
    experts: DType = "bfloat16"
    dense_ffn: DType = "bfloat16"
    embedding: DType = "bfloat16"
    kv_cache: DType = "bfloat16"
    activation: DType = "bfloat16"
    state: DType = "float32"
    shared_experts: DType | None = None
    stored: tuple[tuple[str, float], ...] = ()
    blocks: tuple[tuple[str, tuple[int, int]], ...] = ()

    @property
    def shared(self) -> DType:
        """Storage dtype of the shared experts."""
        return self.shared_experts or self.experts


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A language model: layers in order, embeddings, multi-token-prediction heads and dtypes.

    ``published_active`` counts every parameter that a token meets, as most publishers do, or leaves out the input
    embedding (a lookup), or the LM head as well, where ``published_active_convention`` says so. Each MTP layer repeats
    the last layer, or consists of ``mtp_blocks``. ``encoders`` counts the parameters of vision and audio towers, which
    take memory and do no work on text. ``notes`` say what is doubtful in the file that it was read from, and
    ``quant_method`` how that names its quantisation; they are no part of the model.
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
    encoders: int = 0
    mtp_blocks: tuple[Layer, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)
    quant_method: str = field(default="", compare=False)

    @property
    def drafting_layers(self) -> tuple[Layer, ...]:
        """The layers of one MTP layer."""
        return self.mtp_blocks or self.layers[-1:]

    @property
    def moe_layers(self) -> tuple[MoE, ...]:
        """The MoE blocks in layer order."""
        return tuple(layer.ffn for layer in self.layers if isinstance(layer.ffn, MoE))

    @property
    def moe(self) -> MoE | None:
        """The MoE block in whose shape all are routed; ``None`` for a dense model.

        The commonest, with the most experts, experts without work and experts per token of any block: what routes has
        one shape for all layers, in which smaller ones leave room.
        """
        shapes = Counter(self.moe_layers)
        if not shapes:
            return None
        return replace(
            shapes.most_common(1)[0][0],
            num_experts=max(moe.num_experts for moe in shapes),
            null_experts=max(moe.null_experts for moe in shapes),
            top_k=max(moe.top_k for moe in shapes),
        )
