"""What a step costs a model whose router runs before the step and names one expert for all layers of a token.

Ops and their prices are those of any model; what differs is that the tokens of every expert are known, so that each
expert is priced by its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray, weighted_sum
from simulator.cost.model import CostModel
from simulator.errors import ScenarioError
from simulator.ops import Op, StepShape, build_ops
from simulator.parallelism import Parallelism
from simulator.step.timer import TableTimer
from simulator.step.work import StepTime, StepWork
from workloads.models.dtypes import DTYPE_BYTES
from workloads.models.sizes import parameters
from workloads.models.spec import DenseFFN, ModelSpec, MoE

#: Ops of the backbone's FFN that are the expert itself.
_EXPERT = frozenset({"ffn_up", "ffn_activation", "ffn_down"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PregatedCosts:
    """Prices of the parts of a step that its experts decide, on one device.

    Attributes
    ----------
    backbone : ModelSpec
        The model with one expert as its dense FFN: everything else of a step is priced as for any dense model.
    num_experts : int
        Experts to choose from [1].
    expert : float64 array, shape (tokens + 1,)
        Time of one expert at all layers for so many tokens [s].
    parts : mapping of str to float64 array, shape (tokens + 1,)
        The same by the component that its ops belong to where it is a dense FFN [s].
    router : float64 array, shape (tokens + 1,)
        Time of the router before the step [s]; zeros where the model's router is none of its own.
    expert_bytes : float
        Weights of one expert at all layers [bytes].
    fetch : float
        Time to bring one expert from the host [s].
    """

    backbone: ModelSpec
    num_experts: int
    expert: FloatArray
    parts: Mapping[str, FloatArray]
    router: FloatArray
    expert_bytes: float
    fetch: float


def pregated_costs(
    cost: CostModel, model: ModelSpec, most_tokens: int, router: ModelSpec | None = None
) -> PregatedCosts:
    """Price the experts of a pre-gated model, and its router.

    Parameters
    ----------
    cost : CostModel
        Kernels and links of the device.
    model : ModelSpec
        Every layer has the same routed experts, of which a token uses one.
    most_tokens : int
        Largest step [tokens].
    router : ModelSpec, optional
        The router as a small model of its own; its head chooses an expert, whatever its vocabulary.

    Returns
    -------
    PregatedCosts

    Raises
    ------
    ScenarioError
        The model's layers do not share one kind of MoE, use several experts per token, or the device has no host link.

    Notes
    -----
    An expert that is known beforehand runs as a dense FFN over its tokens, layer after layer, so a step with several
    experts launches each of them. ``fetch`` is ``latency + bytes / bandwidth`` of the host link. The model's own
    routers at each layer are left out, for they do not run.

    References
    ----------
    .. [1] R. Cai et al., "Read-ME: Refactorizing LLMs as Router-Decoupled Mixture of Experts with System Co-Design",
       NeurIPS 2024, arXiv:2410.19123.
    """
    moe = _only_moe(model)
    host = cost.hardware.device.links.get("host")
    if host is None:
        raise ScenarioError(f"device {cost.hardware.device.id}: no host link, over which experts could be fetched")
    dtypes = replace(model.dtypes, dense_ffn=model.dtypes.experts)
    ffn = DenseFFN(intermediate=moe.intermediate, matrices=moe.matrices)
    layers = tuple(replace(layer, ffn=ffn if layer.ffn else None) for layer in model.layers)
    backbone = replace(model, layers=layers, dtypes=dtypes)
    tokens = np.arange(most_tokens + 1, dtype=np.float64)
    weights = parameters(backbone)["dense_ffn"] * DTYPE_BYTES[dtypes.dense_ffn]
    expert = [op for op in _ops(cost, backbone, tokens) if op.name in _EXPERT]
    parts = {
        name: _seconds(cost, [op for op in expert if op.component == name], tokens)
        for name in sorted({op.component for op in expert})
    }
    return PregatedCosts(
        backbone=backbone,
        num_experts=moe.num_experts,
        expert=np.sum(list(parts.values()), axis=0),
        parts=parts,
        router=_seconds(cost, _ops(cost, replace(router, vocab=moe.num_experts), tokens), tokens)
        if router
        else np.zeros_like(tokens),
        expert_bytes=weights,
        fetch=host.latency.value + weights / host.bandwidth.value,
    )


class PregatedTimer:
    """Times steps whose tokens by expert are known; a timer of the engine.

    Parameters
    ----------
    backbone : TableTimer
        Times steps of the model with one expert as its dense FFN.
    costs : PregatedCosts
        Prices of experts and router.
    padded : int64 array, shape (tokens + 1,)
        Tokens that a decode step of so many computes [tokens].
    lookahead : bool
        Whether missing experts are fetched while the step before runs.

    Attributes
    ----------
    rest : float
        What the last step took beside its experts, without any wait for them [s].
    """

    def __init__(
        self, backbone: TableTimer, costs: PregatedCosts, padded: NDArray[np.int64], *, lookahead: bool = True
    ) -> None:
        self._backbone, self._costs, self._padded, self._lookahead = backbone, costs, padded, lookahead
        self._expert: list[float] = costs.expert.tolist()
        self._router: list[float] = costs.router.tolist()
        self._before = 0.0
        self.rest = 0.0

    def expert(self, tokens: int) -> float:
        """Return the time of one expert for so many tokens [s]."""
        return self._expert[tokens]

    def time(self, work: StepWork) -> StepTime:
        """Return the duration of a step and its parts; one whose experts nobody knows is that of one expert."""
        step, known = self._backbone.time(work), work.known_experts
        rows = work.rows if work.prompt_total else int(self._padded[work.rows])
        one = self._expert[rows]
        experts = one if known is None else sum([self._expert[tokens] for tokens in known.tokens])
        self.rest = step.duration - one + self._router[work.rows]
        own, stall = self.rest + experts, 0.0
        if known is not None and known.missing:
            hidden = self._before if self._lookahead and known.follows else 0.0
            stall = max(known.missing * self._costs.fetch - hidden, 0.0)
        self._before = own
        return replace(step, duration=own + stall, experts=experts, offload_stall=stall)

    def breakdown(self, steps: dict[str, FloatArray], weights: FloatArray | None = None) -> dict[str, float]:
        """Split recorded steps into seconds by component; the router's ops are counted as small GEMMs."""
        total = self._backbone.breakdown(steps, weights)
        counted = np.ones(len(steps["rows"])) if weights is None else weights
        rows = steps["rows"].astype(np.int64)
        computed = np.where(steps["prompt_total"] > 0, rows, self._padded[rows])
        for name, seconds in self._costs.parts.items():
            total[name] -= float(weighted_sum(counted, seconds[computed]))
        total["gemm"] += float(weighted_sum(counted, self._costs.router[rows]))
        return total


def _only_moe(model: ModelSpec) -> MoE:
    kinds = {layer.ffn for layer in model.layers if layer.ffn}
    moe = next(iter(kinds), None)
    if len(kinds) != 1 or not isinstance(moe, MoE) or moe.top_k != 1 or moe.shared_intermediate:
        raise ScenarioError(
            f"model {model.name}: a router before the step needs the same routed experts at every layer, one per token "
            "and none shared"
        )
    return moe


def _ops(cost: CostModel, model: ModelSpec, tokens: FloatArray) -> tuple[Op, ...]:
    """List the ops of a step in which so many sequences decode; what is priced here does not see their length."""
    return build_ops(model, Parallelism(), cost.stack, StepShape(decode_sequences=tokens, decode_context=1.0))


def _seconds(cost: CostModel, ops: Sequence[Op], like: FloatArray) -> FloatArray:
    total = np.zeros_like(like)
    for time in cost.times(ops):
        total += time.seconds
    return total
