"""How tokens travel to their experts, as values: what sets the ways apart, and the bytes that they send."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from simulator.scenario.sections import Exchange as ExchangeName
from workloads.models.spec import Phase

Way = Literal["dispatch", "combine"]
#: Where an exchange can be used: anywhere, inside one scale-up domain, over several, or over a scale-out fabric.
Reach = Literal["any", "one_domain", "several_domains", "cluster"]

#: Bytes per element of a dispatched token by format, scales included [bytes]: one float32 scale per 128 elements (fp8),
#: one byte per 32 (mxfp8) or per 16 (nvfp4), one float32 per token (int8, negligible).
WIRE_BYTES: Mapping[str, float] = {
    "bfloat16": 2.0,
    "fp8": 1.0 + 4 / 128,
    "mxfp8": 1.0 + 1 / 32,
    "nvfp4": 0.5 + 1 / 16,
    "int8": 1.0,
}
#: Bytes per element of what no exchange quantises: gathered tokens and combined results [bytes].
PLAIN_BYTES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One way for tokens to reach the ranks of their experts and for results to come back.

    Attributes
    ----------
    name : str
        As scenarios write it; the backend of its dispatch and combine kernels.
    gathers : bool
        Whether every rank gathers all tokens and reduces all results, whatever they need.
    coordinated : bool
        Whether tensor-parallel peers send only to their counterparts among the shards of an expert, which then gather.
    reach : {"any", "one_domain", "several_domains", "cluster"}
        Where it can be used.
    modes : Mapping of phase to str
        Exchange that runs in each phase, where it is not one and the same.
    """

    name: ExchangeName
    gathers: bool = False
    coordinated: bool = False
    reach: Reach = "any"
    modes: Mapping[Phase, ExchangeName] = field(default_factory=dict)

    def in_phase(self, phase: Phase) -> Exchange:
        """Return the exchange that runs in a phase."""
        return EXCHANGES[self.modes.get(phase, self.name)]

    def element_bytes(self, way: Way, dispatched: str) -> float:
        """Bytes per element on the wire, scales included [bytes]; ``dispatched`` is a key of :data:`WIRE_BYTES`.

        Examples
        --------
        >>> EXCHANGES["deepep_normal"].element_bytes("dispatch", "fp8")
        1.03125
        >>> EXCHANGES["deepep_normal"].element_bytes("combine", "fp8")
        2.0
        """
        return PLAIN_BYTES if self.gathers or way == "combine" else WIRE_BYTES[dispatched]

    def usable(self, *, domains: int, cluster: bool, expert_shards: int) -> bool:
        """Whether ranks that fill so many scale-up domains, with or without a scale-out fabric, can use it."""
        fits = {"any": True, "one_domain": domains == 1, "several_domains": domains > 1, "cluster": cluster}
        return fits[self.reach] and (expert_shards > 1 or not self.coordinated)


#: All exchanges by name, in the order in which they are shown.
EXCHANGES: Mapping[ExchangeName, Exchange] = {
    exchange.name: exchange
    for exchange in (
        Exchange(name="all_to_all"),
        Exchange(name="all_to_all_2d", reach="several_domains"),
        Exchange(name="coordinated", coordinated=True),
        Exchange(name="all_gather", gathers=True),
        Exchange(name="deepep", modes={"prefill": "deepep_normal", "decode": "deepep_low_latency"}),
        Exchange(name="deepep_normal"),
        Exchange(name="deepep_low_latency"),
        Exchange(name="deepep_low_latency_rdma", reach="cluster"),
        Exchange(name="one_sided", reach="one_domain"),
        Exchange(name="fused", reach="one_domain"),
    )
}


def dispatched_format(expert_dtype: str) -> str:
    """Format in which tokens are dispatched to experts of a weight dtype: quantised where the experts take FP8."""
    return "fp8" if expert_dtype in {"fp8", "fp8_block"} else "bfloat16"
