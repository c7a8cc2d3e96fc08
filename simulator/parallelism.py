"""How an instance is split over devices, and what follows for every rank."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.errors import InfeasibleScenario
from simulator.scenario.sections import ParallelismChoice, PlacementChoice
from workloads.models.spec import DenseFFN, ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """One instance: ``tp`` x ``dp`` devices in each of ``pp`` stages.

    Attention is split over ``tp`` devices and repeated ``dp`` times, each time for its own requests. Experts are
    spread over ``ep`` ranks; the ``etp = tp * dp / ep`` devices of an expert rank split each of its experts.
    """

    tp: int = 1
    dp: int = 1
    pp: int = 1
    ep: int = 1

    @classmethod
    def of(cls, choice: ParallelismChoice) -> Parallelism:
        """Split one instance as a scenario asks."""
        return cls(tp=choice.tp, dp=choice.dp, pp=choice.pp, ep=choice.ep)

    @property
    def group(self) -> int:
        """Devices of one pipeline stage [1]."""
        return self.tp * self.dp

    @property
    def devices(self) -> int:
        """Devices of the instance [1]."""
        return self.group * self.pp

    @property
    def etp(self) -> int:
        """Tensor parallelism inside an expert [1]."""
        return self.group // self.ep

    @property
    def exchanges_tokens(self) -> bool:
        """Whether tokens travel to their experts: only where ranks hold different tokens."""
        return self.dp > 1 and self.group > 1


def expert_slots(model: ModelSpec, choice: PlacementChoice) -> int | None:
    """Slots for experts per layer over all ranks, redundant ones included [1]; ``None`` for a dense model."""
    return None if model.moe is None else model.moe.num_experts + choice.redundant_slots


def parallelism_problems(model: ModelSpec, parallelism: Parallelism, expert_slots: int | None = None) -> list[str]:
    """List why a model cannot be split this way.

    Parameters
    ----------
    model : ModelSpec
        The model.
    parallelism : Parallelism
        The split.
    expert_slots : int or None
        Expert slots per layer over all ranks, redundant ones included; the number of experts where absent.
    """
    p, found, more = parallelism, list[str](), ""
    if p.group % p.ep:
        found.append(f"ep={p.ep} must divide tp*dp={p.group}")
    if p.pp > len(model.layers):
        found.append(f"pp={p.pp} exceeds the {len(model.layers)} layers")
    for layer in model.layers:
        found.extend(layer.attention.split_problems(p.tp) if layer.attention is not None else ())
        if isinstance(layer.ffn, DenseFFN) and layer.ffn.intermediate % p.tp:
            found.append(f"tp={p.tp} must divide the dense FFN width {layer.ffn.intermediate}")
    most = max((moe.num_experts for moe in model.moe_layers), default=0)
    for moe in model.moe_layers:
        slots = expert_slots or most
        own = moe.num_experts + max(slots - most, 0)
        if own % p.ep and own != slots:
            found.append(f"ep={p.ep} must divide the {moe.num_experts} experts of every MoE layer")
        if slots % p.ep:
            found.append(f"ep={p.ep} must divide the {slots} expert slots per layer")
            more = f"{-slots % p.ep} more redundant slots (placement.redundant_slots) would do"
        if p.group % p.ep == 0 and moe.intermediate % p.etp:
            found.append(f"tp*dp/ep={p.etp} must divide the expert width {moe.intermediate}")
    if not model.moe_layers and p.ep > 1:
        found.append(f"ep={p.ep}, but {model.name} has no experts; use ep=1")
    found = list(dict.fromkeys(found))
    # More slots are no remedy where something else is in the way as well.
    return [f"{found[0]}; {more}"] if more and len(found) == 1 else found


def require_split(model: ModelSpec, parallelism: Parallelism, expert_slots: int | None = None) -> None:
    """Raise InfeasibleScenario where the model cannot be split this way, naming every reason."""
    if problems := parallelism_problems(model, parallelism, expert_slots):
        raise InfeasibleScenario(f"parallelism: {model.name} cannot be split so: " + "; ".join(problems))
