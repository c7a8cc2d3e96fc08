"""All kernel families, by the kind of op that they price."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardware_profiles.errors import ProfileError, nearest
from simulator.kernels.attention import ATTENTION_DECODE, ATTENTION_PREFILL
from simulator.kernels.collectives import ALL_GATHER, ALL_REDUCE, ALL_TO_ALL, REDUCE_SCATTER, SEND
from simulator.kernels.elementwise import ELEMENTWISE
from simulator.kernels.expert_exchange import EXCHANGE
from simulator.kernels.family import Family
from simulator.kernels.gemm import GEMM
from simulator.kernels.linear_attention import CAUSAL_CONVOLUTION, SCAN
from simulator.kernels.mla import MLA_DECODE, MLA_PREFILL
from simulator.kernels.moe import MOE

FAMILIES: Mapping[str, Family[Any, Any]] = {
    kind: family
    for family in (
        GEMM,
        ATTENTION_PREFILL,
        ATTENTION_DECODE,
        MLA_PREFILL,
        MLA_DECODE,
        CAUSAL_CONVOLUTION,
        SCAN,
        MOE,
        ELEMENTWISE,
        ALL_REDUCE,
        ALL_GATHER,
        REDUCE_SCATTER,
        ALL_TO_ALL,
        EXCHANGE,
        SEND,
    )
    for kind in family.kinds
}


def table_family(name: str) -> Family[Any, Any]:
    """Return the family of a kernel table, from the first words of its name.

    Raises
    ------
    ProfileError
        No family has such tables.

    Examples
    --------
    >>> table_family("gemm.cublas.bfloat16").kinds
    ('gemm',)
    >>> table_family("mamba2.causal_conv1d_fn").kinds
    ('causal_convolution',)
    """
    first, _, rest = name.partition(".")
    if first not in FAMILIES:
        raise ProfileError(f"kernel table {name!r}: no family {first!r}; {nearest(first, FAMILIES)}")
    backend = rest.split(".")[0]
    return next((family for family in FAMILIES.values() if backend in family.backends), FAMILIES[first])
