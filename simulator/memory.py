"""What a device must hold: weights, activations, and the pool that is left for the KV cache."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hardware_profiles.units import format_bytes
from simulator.errors import InfeasibleScenario
from simulator.parallelism import Parallelism
from workloads.models.dtypes import DTYPE_BYTES
from workloads.models.sizes import expert_bytes, weight_bytes
from workloads.models.spec import ModelSpec
from workloads.models.work import kv_bytes_per_token_by_layer, state_bytes_per_sequence

#: Elements of temporary storage per token in units of the hidden size: the residual stream, attention inputs and
#: outputs, and FFN intermediates alive at once. An assumption; stacks measure theirs by a profiling run.
ACTIVATION_WIDTHS = 24.0

#: Largest share of a device that a stack is told to use: the driver and the runtime keep some. An assumption.
MOST_SHARE = 0.97


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBudget:
    """Memory of one device [bytes].

    ``capacity`` is what the stack may use; ``weights`` and ``activations`` come off it and ``pool`` remains, negative
    where the model does not fit. A sequence takes ``kv_per_token`` for every token and ``kv_per_sequence`` once
    (sliding windows and recurrent state). ``device`` is all that the device has, of which ``capacity`` is a share; 0
    where it is not known.
    """

    capacity: float
    weights: float
    activations: float
    kv_per_token: float
    kv_per_sequence: float
    device: float = 0.0

    @property
    def pool(self) -> float:
        """Memory left for the KV cache [bytes]."""
        return self.capacity - self.weights - self.activations

    def sequence_bytes(self, tokens: float) -> float:
        """KV cache of one sequence of so many tokens [bytes]."""
        return self.kv_per_sequence + tokens * self.kv_per_token


def weight_bytes_per_device(model: ModelSpec, split: Parallelism, expert_slots: int | None = None) -> float:
    """Weights on the fullest device [bytes].

    Attention, dense FFN and shared experts are split over ``tp``, routed experts over ``ep * etp`` with redundant
    slots counted, layers over ``pp``. Embedding and LM head are split over ``tp`` on one stage. The router and the
    norms are on every device. Key and value heads that are fewer than ``tp`` are repeated. Encoders are split over
    ``tp`` on the first stage.
    """
    parts = weight_bytes(model)
    slots = 1.0
    if expert_slots and model.moe is not None:
        slots = expert_slots / model.moe.num_experts
    layers = (
        (parts["attention"] + parts["dense_ffn"] + parts["shared_experts"]) / split.tp
        + parts["routed_experts"] * slots / split.group
        + parts["router"]
        + parts["norms"]
    )
    first, last = parts["embedding"] + parts["encoders"], parts["lm_head"]
    return layers / split.pp + (first + last if split.pp == 1 else max(first, last)) / split.tp


def kv_geometry(model: ModelSpec, split: Parallelism) -> tuple[float, float]:
    """KV bytes per token, and per sequence, on one device; layers split over ``pp``, heads over ``tp``.

    A sliding-window layer holds at most its window, charged once per sequence. A latent is repeated on every
    tensor-parallel device, and so are key and value heads that are fewer than ``tp``.
    """
    per_token = per_sequence = 0.0
    for layer, size in zip(model.layers, kv_bytes_per_token_by_layer(model), strict=True):
        if layer.attention is None:
            continue
        share = size * layer.attention.kv_share(split.tp)
        if layer.attention.window:
            per_sequence += share * layer.attention.window
        else:
            per_token += share
    per_sequence += state_bytes_per_sequence(model) / split.tp
    return per_token / split.pp, per_sequence / split.pp


def memory_budget(
    model: ModelSpec,
    split: Parallelism,
    *,
    capacity: float,
    token_budget: float,
    reserve: float,
    expert_slots: int | None = None,
    device: float = 0.0,
) -> MemoryBudget:
    """Split a device's memory.

    Parameters
    ----------
    model : ModelSpec
        Whose weights, activations and KV cache it holds.
    split : Parallelism
        Over how many devices they are divided.
    capacity : float
        What the stack may use [bytes].
    token_budget : float
        Tokens of the largest step, which set the activations [tokens].
    reserve : float
        CUDA graphs, communication buffers and the framework itself [bytes].
    expert_slots : int or None
        Expert slots per layer, redundant ones included.
    device : float
        All that the device has [bytes]; 0 where it is not known.
    """
    activation = DTYPE_BYTES[model.dtypes.activation]
    per_token, per_sequence = kv_geometry(model, split)
    return MemoryBudget(
        capacity=capacity,
        weights=weight_bytes_per_device(model, split, expert_slots),
        activations=reserve + token_budget * model.hidden * ACTIVATION_WIDTHS * activation,
        kv_per_token=per_token,
        kv_per_sequence=per_sequence,
        device=device,
    )


def require_fit(
    budget: MemoryBudget, model: ModelSpec, split: Parallelism, longest: int, redundant_slots: int = 0
) -> None:
    """Raise InfeasibleScenario where weights, or one sequence of ``longest`` tokens, do not fit, and say what would.

    Parameters
    ----------
    budget : MemoryBudget
        What a device may use, and what the model takes of it.
    model : ModelSpec
        Named in the message; its layers say what fewer slots would free.
    split : Parallelism
        Whose devices are to be more.
    longest : int
        Tokens of the longest sequence, its answer included [tokens].
    redundant_slots : int
        Expert slots that the weights hold beyond one per expert, in every MoE layer [1].

    Raises
    ------
    InfeasibleScenario
        With the missing bytes and the smallest number of devices that would hold the weights.
    """
    need = budget.weights + budget.activations
    if budget.pool <= 0:
        floor = max(budget.capacity - budget.activations, 1.0)
        times = 1
        while budget.weights / times > 0.9 * floor and times < 1024:
            times *= 2
        msg = (
            f"{model.name} does not fit: each device needs {format_bytes(budget.weights)} of weights and "
            f"{format_bytes(budget.activations)} of activations, {format_bytes(need - budget.capacity)} more than the "
            f"{format_bytes(budget.capacity)} it may use; {_larger_share(budget, longest)}{split.devices * times} "
            "devices would hold it, or weights of fewer bits (model.weights); offloading weights to the host is not "
            "modelled"
        )
        if redundant_slots:
            msg += _fewer_slots(budget, model, split, redundant_slots)
        raise InfeasibleScenario(msg)
    if budget.sequence_bytes(longest) > budget.pool:
        room = int((budget.pool - budget.kv_per_sequence) / budget.kv_per_token) if budget.kv_per_token else 0
        msg = (
            f"the longest request, {longest} tokens, needs {format_bytes(budget.sequence_bytes(longest))} of KV cache "
            f"and a device has {format_bytes(budget.pool)}: room for {max(room, 0)} tokens; "
            f"{_larger_share(budget, longest)}use more devices, fewer "
            f"bits (model.kv_cache) or shorter requests"
        )
        raise InfeasibleScenario(msg)


def _larger_share(budget: MemoryBudget, longest: int) -> str:
    """Say which share of the device would hold the weights and one sequence; nothing where none would."""
    need = budget.weights + budget.activations + budget.sequence_bytes(longest)
    if not 0 < need <= MOST_SHARE * budget.device:
        return ""
    share, asked = math.ceil(100 * need / budget.device) / 100, budget.capacity / budget.device
    return f"stack.memory_fraction = {share:g} instead of {asked:g} would do, with little room for KV cache; or "


def _fewer_slots(budget: MemoryBudget, model: ModelSpec, split: Parallelism, redundant_slots: int) -> str:
    """Say how many redundant slots would fit; nothing where it does not fit without any."""
    if model.moe is None:
        return ""
    each = expert_bytes(model) * len(model.moe_layers) / split.group / split.pp
    fits = redundant_slots - int(-budget.pool / each) - 1
    fits -= (model.moe.num_experts + fits) % split.ep
    return f"; {fits} redundant slots (placement.redundant_slots) instead of {redundant_slots} fit" if fits >= 0 else ""
