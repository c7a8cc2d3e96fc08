"""One instance of a scenario, loaded and laid out over its devices, before anything is priced."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.arrays import FloatArray
from simulator.conditions import load_conditions
from simulator.deployment.inputs import scenario_hardware, scenario_model
from simulator.feasibility.widened import widened
from simulator.hardware import Hardware
from simulator.memory import MemoryBudget, memory_budget, require_fit
from simulator.parallelism import Parallelism, expert_slots, require_split
from simulator.placement.replay import RoutingReplay
from simulator.scenario import Scenario
from simulator.scenario.features import asks
from simulator.stack import StackProfile, customised
from workloads.models.spec import ModelSpec


def layer_slots(model: ModelSpec, routing: RoutingReplay | None) -> FloatArray | None:
    """Count the slots of each MoE layer that hold experts of its own [1]; ``None`` where every layer has as many."""
    experts = np.array([moe.num_experts for moe in model.moe_layers], dtype=np.float64)
    if routing is None or len(set(experts.tolist())) == 1:
        return None
    return experts + (routing.placement.slots - routing.placement.num_experts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What of an instance does not depend on its load.

    Attributes
    ----------
    model, hardware, split, stack
        What runs where, how it is split, and what runs it; the model in formats that its kernels multiply.
    slots : int or None
        Expert slots per layer over all ranks, redundant ones included; ``None`` for a dense model [1].
    budget : MemoryBudget
        Memory of a device.
    """

    model: ModelSpec
    hardware: Hardware
    split: Parallelism
    stack: StackProfile
    slots: int | None
    budget: MemoryBudget


def lay_out(scenario: Scenario) -> Layout:
    """Load what an instance of a scenario consists of, and see that the model can be split so and fits.

    Raises
    ------
    MoesimError
        Something cannot be loaded, does not match or does not fit.
    """
    stored = scenario_model(scenario.model)
    split = Parallelism.of(scenario.parallelism)
    stack = customised(scenario.stack, scenario.hardware.profiles)
    hardware = scenario_hardware(scenario.hardware, split.devices)
    model = widened(stored, hardware.device.architecture, load_conditions(scenario.stack.name).conditions)
    slots = expert_slots(model, scenario.placement)
    require_split(model, split, slots)
    budget = device_budget(model, split, stack, hardware, held_slots(scenario, model, slots))
    require_fit(budget, model, split, 1, scenario.placement.redundant_slots)
    return Layout(model=model, hardware=hardware, split=split, stack=stack, slots=slots, budget=budget)


def held_slots(scenario: Scenario, model: ModelSpec, slots: int | None) -> int | None:
    """Return the expert slots per layer that devices hold: fewer than all where others are fetched when needed [1]."""
    resident = scenario.offload.resident
    if model.moe is None or resident is None or not asks(scenario, "expert_aware"):
        return slots
    return min(resident, model.moe.num_experts)


def device_budget(
    model: ModelSpec, split: Parallelism, stack: StackProfile, hardware: Hardware, slots: int | None
) -> MemoryBudget:
    """Split the memory of one device as the stack does.

    Parameters
    ----------
    model : ModelSpec
        What is held.
    split : Parallelism
        Over how many devices.
    stack : StackProfile
        How much of the memory it uses, and what it keeps for itself.
    hardware : Hardware
        Whose memory it is.
    slots : int or None
        Expert slots per layer, redundant ones included [1]; one per expert where absent.
    """
    return memory_budget(
        model,
        split,
        capacity=hardware.device.memory_capacity.value * stack.number("memory_fraction"),
        token_budget=stack.number("token_budget"),
        reserve=stack.number("activation_reserve"),
        expert_slots=slots,
        device=hardware.device.memory_capacity.value,
    )
