"""What a step costs a model whose router runs before the step and names one expert for all layers of a token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from simulator.arrays import FloatArray
from simulator.cost.model import CostModel
from simulator.errors import ScenarioError
from simulator.ops import Op, StepShape, build_ops
from simulator.parallelism import Parallelism
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
    return PregatedCosts(
        backbone=backbone,
        num_experts=moe.num_experts,
        expert=_seconds(cost, [op for op in _ops(cost, backbone, tokens) if op.name in _EXPERT], tokens),
        router=_seconds(cost, _ops(cost, replace(router, vocab=moe.num_experts), tokens), tokens)
        if router
        else np.zeros_like(tokens),
        expert_bytes=weights,
        fetch=host.latency.value + weights / host.bandwidth.value,
    )


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
