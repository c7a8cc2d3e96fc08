"""What can be wrong with a model specification: every finding at once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from hardware_profiles.errors import nearest
from workloads.errors import ModelError
from workloads.models.dtypes import DTYPE_BYTES
from workloads.models.sizes import part_dtypes
from workloads.models.spec import DTypes, Layer, ModelSpec, MoE

if TYPE_CHECKING:
    from collections.abc import Iterator

# Problems in one message; a misread number makes one for every kind of layer.
_MOST_TOLD = 4
# Counts that may be 0; every other integer of a specification is at least 1.
_MAY_BE_ZERO = {
    "mtp_layers",
    "norms",
    "shared_intermediate",
    "null_experts",
    "conv_kernel",
    "qk_rope_head_dim",
    "index_heads",
    "index_head_dim",
    "index_top_k",
    "index_pool",
    "relative_dim",
    "latent",
    "encoders",
    "ratio",
    "gate_rank",
}


def check(spec: ModelSpec) -> list[str]:
    """List the problems of a model, each as one sentence; an empty list means that it can be used.

    Examples
    --------
    >>> import dataclasses
    >>> from workloads.models.library import load_model
    >>> check(dataclasses.replace(load_model("mixtral-8x7b"), vocab=0))
    ['vocab = 0; expected at least 1']
    """
    problems = list(_integer_problems(spec, ""))
    if not spec.layers:
        problems.append("layers is empty; expected at least one layer")
    for layers, name in ((spec.layers, "layer"), (spec.mtp_blocks, "mtp layer")):
        for layer in dict.fromkeys(layers):
            where = f"{name} {layers.index(layer)}: "
            problems += [where + problem for problem in _layer_problems(layer)]
    for field in dataclasses.fields(spec.dtypes):
        dtype = getattr(spec.dtypes, field.name)
        if field.name == "stored":
            problems += _stored_problems(dtype)
        elif field.name == "blocks":
            problems += _block_problems(dtype)
        elif dtype not in DTYPE_BYTES and (field.name != "shared_experts" or dtype is not None):
            problems.append(f"dtypes.{field.name} = {dtype!r}; {nearest(str(dtype), DTYPE_BYTES)}")
    for name in ("published_total", "published_active"):
        value = getattr(spec, name)
        if value is not None and not 0 < value < float("inf"):
            problems.append(f"{name} = {value}; expected a positive number")
    return problems


def _stored_problems(stored: tuple[tuple[str, float], ...]) -> Iterator[str]:
    """Say which parts are unknown, or stored in a size that no format has."""
    parts = part_dtypes(DTypes())
    for part, size in stored:
        if part not in parts:
            yield f"dtypes.stored: unknown part {part!r}; {nearest(str(part), parts)}"
        elif isinstance(size, bool) or not isinstance(size, (int, float)) or not 0 < size <= 4:
            yield f"dtypes.stored.{part} = {size!r}; expected bytes per element, above 0 and at most 4"


def _block_problems(blocks: tuple[tuple[str, object], ...]) -> Iterator[str]:
    """Say which parts are unknown, or have blocks of scales that are no two counts."""
    parts = part_dtypes(DTypes())
    for part, block in blocks:
        if part not in parts:
            yield f"dtypes.blocks: unknown part {part!r}; {nearest(str(part), parts)}"
        elif not (
            isinstance(block, tuple)
            and len(block) == 2
            and all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in block)
        ):
            yield f"dtypes.blocks.{part} = {block!r}; expected outputs and inputs that share a scale, as [128, 128]"


def checked(spec: ModelSpec, where: str) -> ModelSpec:
    """Return the model, or raise one ModelError with its first problems, naming ``where`` it came from."""
    if problems := check(spec):
        more = f"; and {len(problems) - _MOST_TOLD} more" if len(problems) > _MOST_TOLD else ""
        raise ModelError(f"{where}: " + "; ".join(problems[:_MOST_TOLD]) + more)
    return spec


def _integer_problems(value: object, where: str) -> Iterator[str]:
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        number = getattr(value, field.name)
        if isinstance(number, bool) or not isinstance(number, int):
            continue
        least = 0 if field.name in _MAY_BE_ZERO else 1
        if number < least:
            yield f"{where}{field.name} = {number}; expected at least {least}"


def _layer_problems(layer: Layer) -> Iterator[str]:
    yield from _integer_problems(layer, "")
    if layer.attention is None and layer.ffn is None:
        yield "has neither attention nor ffn; expected one or both"
    if layer.attention is not None:
        yield from _integer_problems(layer.attention, "attention.")
        yield from layer.attention.problems()
    if layer.ffn is not None:
        yield from _integer_problems(layer.ffn, "ffn.")
        if layer.ffn.matrices not in (2, 3):
            yield f"ffn.matrices = {layer.ffn.matrices}; expected 2 or 3"
    if isinstance(layer.ffn, MoE):
        yield from _moe_problems(layer.ffn)


def _moe_problems(moe: MoE) -> Iterator[str]:
    routes = moe.num_experts + moe.null_experts
    if moe.top_k > routes:
        yield f"ffn.top_k = {moe.top_k}; expected at most the {routes} experts"
    if moe.num_groups > 0 and moe.num_experts % moe.num_groups:
        yield f"ffn.num_experts = {moe.num_experts} is not a multiple of num_groups = {moe.num_groups}"
    if moe.top_k_groups > moe.num_groups:
        yield f"ffn.top_k_groups = {moe.top_k_groups}; expected at most num_groups = {moe.num_groups}"
    elif routes >= moe.top_k and moe.num_groups > 0 and moe.top_k * moe.num_groups > routes * moe.top_k_groups:
        reach = routes * moe.top_k_groups // moe.num_groups
        yield f"ffn.top_k = {moe.top_k}; expected at most the {reach} experts of {moe.top_k_groups} groups"
