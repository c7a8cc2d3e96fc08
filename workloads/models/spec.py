"""The model: layers of attention and FFN, described by shapes and dtypes alone.

All sizes are counts of elements. A spec says nothing about the hardware or the parallelism that it will meet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from workloads.errors import ModelError
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

    @property
    def moe(self) -> MoE | None:
        """The one shape of all MoE blocks; ``None`` for a dense model.

        Raises
        ------
        ModelError
            The blocks have several shapes, which nothing that prices or places experts supports.
        """
        shapes = set(self.moe_layers)
        if len(shapes) > 1:
            raise ModelError(f"{self.name}: MoE layers of {len(shapes)} different shapes are not supported")
        return next(iter(shapes), None)
