"""What changing the size of a live deployment consists of: phases with their durations, memory, and who serves.

Times count from the command. Bytes come from the model and its placement, links from the topology, and the rest from
the start-up profile.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from simulator.elastic.moves import Moves, plan_moves
from simulator.hardware import Hardware
from simulator.memory import MemoryBudget
from simulator.parallelism import Parallelism
from simulator.startup import Startup
from workloads.models.spec import ModelSpec

Mechanism = Literal["cold_restart", "horizontal", "vertical_new", "colocated", "elastic", "ideal"]
MECHANISMS: tuple[Mechanism, ...] = get_args(Mechanism)
#: What can be taken away from the elastic mechanism.
Part = Literal["ipc_alloc", "p2p", "preinit", "zero_copy"]
PARTS: tuple[Part, ...] = get_args(Part)
#: What the old instance does after the command: ``stops`` at once; ``serves`` on until the new one is ready, and then
#: finishes what it has admitted; ``stays``, because the change is beside it.
Old = Literal["stops", "serves", "stays"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPhase:
    """One phase: when it begins after the command [s], how long it lasts [s], and device memory meanwhile [bytes]."""

    name: str
    start: float
    duration: float
    memory: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPlan:
    """How one change of size goes.

    Attributes
    ----------
    phases : tuple of ScalingPhase
        In order of their start.
    ready : float
        When the new instance could serve, after the command [s].
    old : {"stops", "serves", "stays"}
        What the old instance does.
    waits : bool
        Whether the new instance takes no request before the old one has done its last.
    shares : bool
        Whether old and new instance use the same devices.
    contention : float
        Factor on the steps of the old instance until the new one is ready [1].
    devices : int
        Devices that are held until the old instance is gone [1].
    memory : float
        Device memory that is held then, over all of them; the largest of the phases [bytes].
    moved : float
        Weights that travel between devices or are read from disk [bytes].
    """

    phases: tuple[ScalingPhase, ...]
    ready: float
    old: Old
    waits: bool
    shares: bool
    contention: float
    devices: int
    memory: float
    moved: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Instances before or after: the split of one, the memory of a device of it, its KV pool [bytes], how many.

    The pool may be smaller than the budget leaves: to be kept through changes, or to leave room for a second instance.
    """

    split: Parallelism
    budget: MemoryBudget
    pool: float
    count: int = 1

    @property
    def devices(self) -> int:
        """Devices of all of them [1]."""
        return self.split.devices * self.count

    @property
    def full(self) -> float:
        """Memory of all devices where the framework takes all it may use [bytes]."""
        return self.devices * self.budget.capacity


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingContext:
    """What plans depend on besides sizes: the model, its hardware, start-up constants and disabled features.

    ``reserve`` is device memory of the framework and its buffers, which is held whatever the allocator [bytes];
    ``waits`` whether a new instance that shares devices with the old one takes no request before that is empty.
    """

    model: ModelSpec
    hardware: Hardware
    startup: Startup
    reserve: float = 0.0
    without: Collection[Part] = ()
    waits: bool = True

    def moves(self, before: Size, after: Size) -> Moves:
        """Plan what moves between two sizes."""
        return plan_moves(
            self.model,
            before.split,
            after.split,
            expert_tensors=self.startup.number("expert_tensors"),
            layer_tensors=self.startup.number("layer_tensors"),
        )

    def warmup(self, size: Size) -> float:
        """Time of the first pass of an instance [s]."""
        return self.startup.number("warmup") * len(self.model.layers) * size.split.devices

    def loading(self, weights: float) -> float:
        """Time to read so many bytes of weights from disk, all devices together [s]."""
        return weights / self.startup.number("disk_streaming")


def plan_scaling(mechanism: Mechanism, before: Size, after: Size, context: ScalingContext) -> ScalingPlan:
    """Lay out the phases of one change of size.

    Parameters
    ----------
    mechanism : str
        How it is done.
    before, after : Size
        What serves, and what shall; they differ in ``count`` for ``horizontal`` and in ``split`` otherwise.
    context : ScalingContext
        Model, hardware and start-up constants.

    Notes
    -----
    ``cold_restart`` stops the instance and starts a larger or smaller one on the devices. ``horizontal`` starts or
    stops an instance beside those that serve. ``vertical_new`` starts the new size on devices of its own while the old
    one serves. ``colocated`` does so on the same devices, for which both keep half of the KV pool at all times.
    ``elastic`` keeps weights and KV cache where they are, moves what must move and hands over to a prepared instance,
    which takes requests when the old one has done its last. ``ideal`` takes no time and no memory: a bound.
    """
    return _PLANS[mechanism](before, after, context)


def _cold_restart(before: Size, after: Size, context: ScalingContext) -> ScalingPlan:
    weights = float(context.moves(before, after).held_after.sum())
    phases = _sequence(
        ("start server", context.startup.number("server_start"), after.full),
        ("load weights", context.loading(weights), after.full),
        ("warm up", context.warmup(after), after.full),
        at=before.full,
    )
    return _plan(phases, old="stops", devices=max(before.devices, after.devices), moved=weights)


def _horizontal(before: Size, after: Size, context: ScalingContext) -> ScalingPlan:
    if after.count < before.count:
        # An instance that goes needs nothing but the time to finish what it has admitted.
        return ScalingPlan(
            phases=(),
            ready=0.0,
            old="stays",
            waits=False,
            shares=False,
            contention=1.0,
            devices=before.devices,
            memory=before.full,
            moved=0.0,
        )
    fresh = replace(after, count=after.count - before.count)
    return _plan(
        _fresh(before, fresh, context, beside=before.full),
        old="stays",
        devices=after.devices,
        moved=_weights(fresh, context),
    )


def _vertical_new(before: Size, after: Size, context: ScalingContext) -> ScalingPlan:
    fresh = _fresh(before, after, context, beside=before.full)
    devices = before.devices + after.devices
    return _plan(fresh, old="serves", devices=devices, moved=_weights(after, context))


def _colocated(before: Size, after: Size, context: ScalingContext) -> ScalingPlan:
    # Both live within the share of each device's memory that one of them could use alone.
    larger = max(before.full, after.full)
    fresh = _fresh(before, after, context, beside=larger - after.full)
    return _plan(
        fresh,
        old="serves",
        devices=max(before.devices, after.devices),
        moved=_weights(after, context),
        shares=True,
        contention=context.startup.number("contention"),
    )


def _elastic(before: Size, after: Size, context: ScalingContext) -> ScalingPlan:
    if "zero_copy" in context.without:
        return _managed_restart(before, after, context)
    startup, moves = context.startup, context.moves(before, after)
    received = moves.received
    shares = "ipc_alloc" not in context.without
    larger = max(before.devices, after.devices)
    # The framework's own allocator keeps the whole share of every device, the peak of activations included.
    kept = _kept(before, after, context)
    during = kept + float(moves.held_during.sum()) if shares else larger * after.budget.capacity
    at_start = kept + float(moves.held_before.sum()) if shares else during
    steps: list[tuple[str, float, float]] = [("plan and share", startup.number("command"), at_start)]
    if "p2p" in context.without:
        steps.append(("read from disk", float(received.sum()) / startup.number("disk_selective"), during))
    else:
        steps.append(("move weights", moves.seconds(context.hardware.fabric, startup.number("message")), during))
    if not shares:
        steps.append(("copy to share", float(received.max()) / startup.number("staging_bandwidth"), during))
    if "preinit" in context.without:
        steps.append(("boot standby", _boot(after, startup), during))
    steps.append(("warm up", context.warmup(after), during))
    moved = float(received.sum())
    return _plan(_sequence(*steps), old="serves", devices=larger, moved=moved, waits=context.waits, shares=True)


def _managed_restart(before: Size, after: Size, context: ScalingContext) -> ScalingPlan:
    """Elastic without sharing: the old instance must go before the new one can have the memory."""
    startup, weights = context.startup, _weights(after, context)
    boot = _boot(after, startup) if "preinit" in context.without else 0.0
    phases = _sequence(
        ("plan", startup.number("command"), before.full),
        ("boot standby", boot, after.full),
        ("load weights", context.loading(weights), after.full),
        ("warm up", context.warmup(after), after.full),
    )
    return _plan(phases, old="stops", devices=max(before.devices, after.devices), moved=weights)


def _ideal(before: Size, after: Size, _context: ScalingContext) -> ScalingPlan:
    larger = max(before.full, after.full)
    return ScalingPlan(
        phases=(),
        ready=0.0,
        old="serves",
        waits=False,
        shares=False,
        contention=1.0,
        devices=max(before.devices, after.devices),
        memory=larger,
        moved=0.0,
    )


_PLANS: Mapping[Mechanism, Callable[[Size, Size, ScalingContext], ScalingPlan]] = {
    "cold_restart": _cold_restart,
    "horizontal": _horizontal,
    "vertical_new": _vertical_new,
    "colocated": _colocated,
    "elastic": _elastic,
    "ideal": _ideal,
}


def _fresh(before: Size, after: Size, context: ScalingContext, *, beside: float) -> tuple[ScalingPhase, ...]:
    """Start a stock server beside so much memory in use [bytes]."""
    held = beside + after.full
    return _sequence(
        ("start server", context.startup.number("server_start"), held),
        ("load weights", context.loading(_weights(after, context)), held),
        ("warm up", context.warmup(after), held),
        at=before.full,
    )


def _boot(size: Size, startup: Startup) -> float:
    return startup.number("standby") + startup.number("standby_per_device") * size.split.devices


def _weights(size: Size, context: ScalingContext) -> float:
    """Weights over all devices of an instance [bytes]."""
    return float(context.moves(size, size).held_after.sum()) * size.count


def _kept(before: Size, after: Size, context: ScalingContext) -> float:
    """KV pools and reserves over all devices while old and new are alive [bytes]."""
    larger = max(before, after, key=lambda size: size.devices)
    return larger.devices * (larger.pool + context.reserve)


def _sequence(*steps: tuple[str, float, float], at: float = 0.0) -> tuple[ScalingPhase, ...]:
    """Put phases one after another; the first holds at least ``at`` bytes, those of the old instance."""
    phases, now = [], 0.0
    for index, (name, duration, memory) in enumerate(steps):
        held = max(memory, at) if index == 0 else memory
        if duration > 0.0:
            phases.append(ScalingPhase(name=name, start=now, duration=duration, memory=held))
        now += duration
    return tuple(phases)


def _plan(
    phases: tuple[ScalingPhase, ...],
    *,
    old: Old,
    devices: int,
    moved: float,
    waits: bool = False,
    shares: bool = False,
    contention: float = 1.0,
) -> ScalingPlan:
    return ScalingPlan(
        phases=phases,
        ready=phases[-1].start + phases[-1].duration if phases else 0.0,
        old=old,
        waits=waits,
        shares=shares,
        contention=contention,
        devices=devices,
        memory=max((phase.memory for phase in phases), default=0.0),
        moved=moved,
    )
