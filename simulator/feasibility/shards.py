"""The matrices of a model as its ranks hold them: what is divided, how often, and along which side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from simulator.parallelism import Parallelism
from workloads.models.dtypes import USUAL_BLOCKS
from workloads.models.mixers import Attention, GatedDeltaNet, GroupedQueryAttention, LatentAttention
from workloads.models.sizes import part_dtypes
from workloads.models.spec import DenseFFN, DType, DTypes, Layer, ModelSpec, MoE

Side = Literal["output", "input"]
#: Degrees of a split that divide a matrix: tensor parallelism of attention, that inside an expert, or none.
Degree = Literal["tp", "etp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One side of the matrices of a part, divided over ranks.

    Attributes
    ----------
    part : str
        Part of the model, of :data:`workloads.models.sizes.PARTS`.
    matrices : str
        Which matrices, as people call them.
    side : {"output", "input"}
        Which side is divided: rows of results (column parallel) or of the sum (row parallel).
    width : int
        Undivided [elements].
    ways : int
        Ranks that share it [1].
    degree : {"tp", "etp"}
        Which degree divides it.
    merged : bool
        Whether several outputs are one matrix, whose blocks must be whole even where nothing is divided.
    dtype : str
        How the part is stored.
    block : tuple of int, or None
        Outputs and inputs that share a scale [elements]; ``None`` where the dtype has none or the file does not say.
    """

    part: str
    matrices: str
    side: Side
    width: int
    ways: int
    degree: Degree
    merged: bool
    dtype: DType
    block: tuple[int, int] | None

    @property
    def size(self) -> float:
        """What one rank has of it [elements]."""
        return self.width / self.ways


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """A side before it is divided."""

    part: str
    matrices: str
    side: Side
    width: int
    degree: Degree
    merged: bool = False
    repeated: int = 0


def shards(model: ModelSpec, split: Parallelism) -> tuple[Shard, ...]:
    """List the sides of weight matrices that ranks divide, each once.

    Shared experts are whole on every rank where tokens travel to their experts, which is where engines run them on each
    rank's own tokens; KV heads that are fewer than ranks are repeated and not divided.
    """
    found: dict[Shard, None] = {}
    whole_shared = split.exchanges_tokens and split.ep > 1
    dtypes = part_dtypes(model.dtypes)
    for layer in dict.fromkeys(model.layers):
        for side in _layer_sides(layer):
            ways = split.tp if side.degree == "tp" else split.etp
            if side.part == "shared_experts" and whole_shared:
                ways = 1
            if side.repeated:
                ways = min(ways, side.repeated)
            shard = Shard(
                part=side.part,
                matrices=side.matrices,
                side=side.side,
                width=side.width,
                ways=ways,
                degree=side.degree,
                merged=side.merged,
                dtype=dtypes[side.part],
                block=scale_block(model.dtypes, side.part),
            )
            found[shard] = None
    return tuple(found)


def scale_block(dtypes: DTypes, part: str) -> tuple[int, int] | None:
    """Outputs and inputs that share a scale [elements], of a part as its file stores it; ``None`` where it has none.

    Where a model file gives bytes and no blocks, groups are told by the bytes that their scales add: two bytes per
    group, and half a byte of zero point where there is one.
    """
    if (block := dict(dtypes.blocks).get(part)) is not None:
        return block
    dtype = part_dtypes(dtypes)[part]
    stored = dict(dtypes.stored).get(part)
    if stored is None or dtype not in ("int4", "int8"):
        return USUAL_BLOCKS.get(dtype)
    scales = stored - (0.5 if dtype == "int4" else 1.0)
    for group in (16, 32, 64, 128, 256):
        if any(abs(scales * group - each) < 1e-3 for each in (2.0, 2.5)):
            return (1, group)
    return None


def _layer_sides(layer: Layer) -> Iterator[_Side]:
    if layer.attention is not None:
        yield from _attention_sides(layer.attention)
    if isinstance(layer.ffn, DenseFFN):
        yield from _ffn_sides("dense_ffn", layer.ffn.intermediate, layer.ffn.matrices, "tp")
    elif isinstance(layer.ffn, MoE):
        yield from _ffn_sides("routed_experts", layer.ffn.intermediate, layer.ffn.matrices, "etp")
        if layer.ffn.shared_intermediate:
            yield from _ffn_sides("shared_experts", layer.ffn.shared_intermediate, layer.ffn.matrices, "tp")


def _ffn_sides(part: str, width: int, matrices: int, degree: Degree) -> Iterator[_Side]:
    gated = matrices == 3
    up = "gate and up" if gated else "up"
    yield _Side(part=part, matrices=up, side="output", width=width, degree=degree, merged=gated)
    yield _Side(part=part, matrices="down", side="input", width=width, degree=degree)


def _attention_sides(mixer: Attention) -> Iterator[_Side]:
    """List the sides of a mixer that heads divide; those of mixers whose layout differs by engine are left out."""
    sides: tuple[tuple[str, Side, int, bool, int], ...] = ()
    if isinstance(mixer, GroupedQueryAttention):
        heads, kept = mixer.num_heads, mixer.num_kv_heads
        sides = (
            ("queries", "output", heads * mixer.head_dim * (1 + mixer.output_gate), True, 0),
            ("keys and values", "output", kept * mixer.head_dim, True, kept),
            ("output projection", "input", heads * mixer.value_dim, False, 0),
        )
    elif isinstance(mixer, LatentAttention):
        heads = mixer.num_heads
        sides = (
            ("queries", "output", heads * (mixer.qk_nope_head_dim + mixer.qk_rope_head_dim), False, 0),
            ("keys and values of the latent", "output", heads * (mixer.qk_nope_head_dim + mixer.v_head_dim), False, 0),
            ("output projection", "input", heads * mixer.v_head_dim, False, 0),
        )
    elif isinstance(mixer, GatedDeltaNet):
        values = mixer.num_value_heads * mixer.value_head_dim
        sides = (
            ("queries and keys of linear attention", "output", mixer.num_key_heads * mixer.key_head_dim, True, 0),
            ("values of linear attention", "output", values, True, 0),
            ("output projection of linear attention", "input", values, False, 0),
        )
    for matrices, side, width, merged, repeated in sides:
        yield _Side(
            part="attention",
            matrices=matrices,
            side=side,
            width=width,
            degree="tp",
            merged=merged,
            repeated=repeated,
        )
