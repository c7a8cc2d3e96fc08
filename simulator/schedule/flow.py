"""The ``flow`` fidelity: messages as flows that share links max-min fairly, event by event.

A message goes over the links of its route at a rate. Rates are max-min fair: no flow can have more without one of at
most its rate having less. They change when a message starts or ends; between these events bytes flow at constant
rates. The closed form of :mod:`simulator.kernels.all_to_all` asks each rank's own links only; this one sees what they
share: a receiver that many send to, an uplink narrower than its leaf, a slow cable, another job.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray, IdArray
from simulator.errors import ProfileError, ScenarioError
from simulator.topology import CompiledTopology

if TYPE_CHECKING:
    from simpy import Environment


#: Messages up to which every completion is an event of its own; above, completions are taken together.
EXACT = 512
#: Share of the messages under way whose completions are taken together where there are more [1].
BATCH = 0.1
#: Fair shares of links that differ by less are taken for equal where there are more [1].
ALIKE = 0.02
#: Bytes of a message below which nothing is left of it, relative to its size [1].
_NOTHING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Messages:
    """Messages between devices of a topology.

    Attributes
    ----------
    source, target : integer array, shape (messages,)
        Devices that send and receive.
    size : FloatArray, shape (messages,)
        Bytes of each [bytes].
    start : FloatArray, shape (messages,)
        When each may start [s].
    """

    source: IdArray
    target: IdArray
    size: FloatArray
    start: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowResult:
    """What became of the messages.

    Attributes
    ----------
    finish : FloatArray, shape (messages,)
        When each message has arrived, its route's latency included [s].
    carried : FloatArray, shape (links,)
        Bytes over each link [bytes].
    events : int
        Times that rates were settled anew [1].
    """

    finish: FloatArray
    carried: FloatArray
    events: int

    @property
    def makespan(self) -> float:
        """When the last message has arrived [s]; 0 without messages."""
        return float(self.finish.max(initial=0.0))


def messages_of(copies: FloatArray, payload: float, *, start: float = 0.0, devices: IdArray | None = None) -> Messages:
    """Turn a matrix of copies from rank to rank into messages of ``payload`` bytes per copy [bytes].

    Parameters
    ----------
    copies : FloatArray, shape (ranks, ranks)
        The diagonal stays at home and makes no message [1].
    payload : float
        Bytes of a copy [bytes].
    start : float
        When they may start [s].
    devices : integer array, shape (ranks,), optional
        Device of each rank; rank r is device r if not given.
    """
    source, target = np.nonzero(np.where(np.eye(len(copies), dtype=bool), 0.0, copies))
    size = copies[source, target] * payload
    place = np.arange(len(copies)) if devices is None else devices
    return Messages(source=place[source], target=place[target], size=size, start=np.full(len(size), start))


def together(*messages: Messages) -> Messages:
    """Join the messages of several exchanges that share a fabric."""
    source, target, size, start = (
        np.concatenate([getattr(part, name) for part in messages]) for name in ("source", "target", "size", "start")
    )
    return Messages(source=source, target=target, size=size, start=start)


def max_min_rates(routes: IdArray, capacity: FloatArray) -> FloatArray:
    """Share links fairly among flows [bytes/s], shape (flows,).

    Parameters
    ----------
    routes : integer array, shape (flows, hops)
        Links of each flow, -1 where it has fewer.
    capacity : FloatArray, shape (links,)
        Bandwidth of each link [bytes/s].

    Notes
    -----
    Progressive filling: the link with the least capacity per flow fixes the rate of its flows, which are taken off
    the other links, until no flow is left (D. Bertsekas, R. Gallager, "Data Networks", section 6.5.2). A flow without
    links has an infinite rate.

    Examples
    --------
    Two flows share a link of 10, and one of them another link of 2 with a third flow:

    >>> max_min_rates(np.array([[0, -1], [0, 1], [1, -1]]), np.array([10.0, 2.0])).tolist()
    [9.0, 1.0, 1.0]
    """
    crossing = _Crossing.of(routes, len(capacity))
    return crossing.rates(capacity, np.ones(len(routes), dtype=bool), 0.0)


@dataclass(frozen=True, slots=True)
class _Crossing:
    """Which flows cross which link, both ways round, so that rates can be settled again and again."""

    routes: IdArray
    members: IdArray
    bounds: list[int]
    links: int

    @classmethod
    def of(cls, routes: IdArray, links: int) -> _Crossing:
        used = routes >= 0
        flow_of, link_of = np.nonzero(used)[0], routes[used]
        order = np.argsort(link_of, kind="stable")
        bounds = np.searchsorted(link_of[order], np.arange(links + 1)).tolist()
        return cls(routes, flow_of[order], bounds, links)

    def rates(self, capacity: FloatArray, active: NDArray[np.bool_], alike: float) -> FloatArray:
        """Fill progressively; links whose shares differ by less than ``alike`` are fixed together, at the least."""
        rates, waiting = np.full(len(self.routes), np.inf), active.copy()
        count, left = self._crossings(np.flatnonzero(active)), capacity.astype(np.float64)
        place = np.empty(len(self.routes), dtype=np.int64)
        while True:
            share = np.divide(left, count, out=np.full(self.links, np.inf), where=count > 0)
            level = float(share.min(initial=np.inf))
            if not np.isfinite(level):
                return rates
            tight = np.flatnonzero(share <= level * (1.0 + 1e-12 + alike)).tolist()
            touched = np.concatenate([self.members[self.bounds[i] : self.bounds[i + 1]] for i in tight])
            touched = touched[waiting[touched]]
            # A flow may cross two of the links: keep the last time it stands there.
            place[touched] = np.arange(len(touched))
            fixed = touched[place[touched] == np.arange(len(touched))]
            rates[fixed] = level
            waiting[fixed] = False
            freed = self._crossings(fixed)
            left = np.maximum(left - level * freed, 0.0)
            count = count - freed

    def _crossings(self, flows: IdArray) -> IdArray:
        """Flows over each link, of those given."""
        taken = self.routes[flows]
        return np.bincount(taken[taken >= 0], minlength=self.links)


def run_flows(
    topology: CompiledTopology,
    messages: Messages,
    *,
    scale_up_efficiency: float = 1.0,
    scale_out_efficiency: float = 1.0,
    batch: float | None = None,
) -> FlowResult:
    """Send messages over a topology until all have arrived.

    Parameters
    ----------
    topology : CompiledTopology
        Links and routes.
    messages : Messages
        What is sent.
    scale_up_efficiency, scale_out_efficiency : float
        Share of a link's bandwidth that the sending kernel reaches [1].
    batch : float, optional
        Share of the messages under way whose completions are taken together [1]; 0 settles the rates at every
        completion, exactly. If not given, 0 up to :data:`EXACT` messages and :data:`BATCH` above.

    Raises
    ------
    ScenarioError
        A message names no device, or has no size.

    Notes
    -----
    Where completions are taken together, a finished message keeps its share until the others of its batch are done:
    times are at most so much too long.
    """
    _check(topology, messages)
    network = _Network(topology, messages, scale_up_efficiency, scale_out_efficiency, batch)
    return network.run()


def run_stages(
    topology: CompiledTopology,
    stages: Sequence[FloatArray],
    payload: float,
    *,
    scale_up_efficiency: float = 1.0,
    scale_out_efficiency: float = 1.0,
) -> FlowResult:
    """Send the stages of an exchange one after another, each when the one before has arrived [s].

    Parameters
    ----------
    topology : CompiledTopology
        Links and routes; rank r is device r.
    stages : sequence of FloatArray, shape (ranks, ranks)
        Copies from rank to rank.
    payload : float
        Bytes of a copy [bytes].
    scale_up_efficiency, scale_out_efficiency : float
        Share of a link's bandwidth that the sending kernel reaches [1].

    Returns
    -------
    FlowResult
        ``finish`` is that of the last stage's messages; bytes and events are those of all stages.
    """
    done, events, carried = 0.0, 0, np.zeros(len(topology.links))
    finish = np.zeros(0)
    for stage in stages:
        result = run_flows(
            topology,
            messages_of(stage, payload, start=done),
            scale_up_efficiency=scale_up_efficiency,
            scale_out_efficiency=scale_out_efficiency,
        )
        done, finish = max(done, result.makespan), result.finish
        events, carried = events + result.events, carried + result.carried
    return FlowResult(finish=finish if len(finish) else np.array([done]), carried=carried, events=events)


class _Network:
    """Flows under way, as arrays; a simpy process lets them start and end."""

    def __init__(
        self,
        topology: CompiledTopology,
        messages: Messages,
        scale_up_efficiency: float,
        scale_out_efficiency: float,
        batch: float | None,
    ):
        share = np.where(topology.scale_out, scale_out_efficiency, scale_up_efficiency)
        self.capacity, routes = _bottlenecks(
            topology.capacity * share, topology.routes[messages.source, messages.target]
        )
        self.crossing = _Crossing.of(routes, len(self.capacity))
        self.topology, self.messages = topology, messages
        self.left = messages.size.astype(np.float64)
        self.active = np.zeros(len(self.left), dtype=bool)
        self.ended = np.full(len(self.left), np.nan)
        self.batch = batch if batch is not None else (0.0 if len(self.left) <= EXACT else BATCH)
        self.alike = ALIKE if self.batch > 0 else 0.0
        self.events = 0

    def run(self) -> FlowResult:
        # Here, so that `import simulator` does not wait for it.
        import simpy

        env: Environment = simpy.Environment()
        if len(self.left):
            env.process(self._transfer(env))
            env.run()
        m, routes = self.messages, self.topology.routes
        latency = self.topology.latency[m.source, m.target]
        ways = routes[m.source, m.target]
        bytes_of = np.broadcast_to(m.size[:, None], ways.shape)
        carried = np.bincount(ways[ways >= 0], bytes_of[ways >= 0], minlength=len(self.topology.links))
        return FlowResult(finish=self.ended + latency, carried=carried.astype(np.float64), events=self.events)

    def _transfer(self, env: Environment) -> Generator[Any, Any, None]:
        """Settle the rates, wait until messages start or end, and again."""
        starts = np.unique(self.messages.start)
        upcoming = 0
        while upcoming < len(starts) or self.active.any():
            while upcoming < len(starts) and starts[upcoming] <= env.now:
                self.active |= self.messages.start == starts[upcoming]
                upcoming += 1
            if not self.active.any():
                yield env.timeout(starts[upcoming] - env.now)
                continue
            flows = np.flatnonzero(self.active)
            rates = self.crossing.rates(self.capacity, self.active, self.alike)[flows]
            self.events += 1
            remaining = self.left[flows] / rates
            nth = max(1, int(self.batch * len(flows))) - 1
            wait = float(np.partition(remaining, nth)[nth])
            if upcoming < len(starts):
                wait = min(wait, float(starts[upcoming] - env.now))
            began = env.now
            yield env.timeout(wait)
            self._advance(flows, rates, remaining, began, wait)

    def _advance(self, flows: IdArray, rates: FloatArray, remaining: FloatArray, began: float, wait: float) -> None:
        """Let bytes flow for ``wait`` seconds and take out the messages that end."""
        done = remaining <= wait * (1.0 + _NOTHING)
        self.ended[flows[done]] = began + remaining[done]
        self.active[flows[done]] = False
        going = flows[~done]
        self.left[going] -= rates[~done] * wait


def _bottlenecks(capacity: FloatArray, routes: IdArray) -> tuple[FloatArray, IdArray]:
    """Keep of the links that the same flows cross only the narrowest, and renumber them.

    A device's port, its NIC and its cable carry the same messages: two of the three can never be what limits them.
    """
    flows = len(routes)
    used = routes >= 0
    flow_of, link_of = np.nonzero(used)[0], routes[used]
    # A random number per flow, summed over a link's flows, tells sets of flows apart.
    mark = np.random.default_rng(0).integers(0, 2**63 - 1, flows, dtype=np.uint64)
    signature = np.zeros(len(capacity), dtype=np.uint64)
    np.add.at(signature, link_of, mark[flow_of])
    present = np.flatnonzero(np.bincount(link_of, minlength=len(capacity)))
    order = present[np.lexsort((capacity[present], signature[present]))]
    first = np.ones(len(order), dtype=bool)
    first[1:] = signature[order[1:]] != signature[order[:-1]]
    kept = order[first]
    number = np.full(len(capacity) + 1, -1, dtype=np.int64)
    number[kept] = np.arange(len(kept))
    renumbered = -np.sort(-number[routes], axis=1)
    hops = int((renumbered >= 0).sum(axis=1).max(initial=0))
    return capacity[kept], renumbered[:, :hops]


def _check(topology: CompiledTopology, messages: Messages) -> None:
    devices = len(topology.devices)
    ends = np.concatenate([messages.source, messages.target])
    if ends.size and not (int(ends.min()) >= 0 and int(ends.max()) < devices):
        raise ScenarioError(f"a message names device {int(ends.max())}, but the topology has {devices}")
    if messages.size.size and not (float(messages.size.min()) > 0 and np.isfinite(messages.size).all()):
        raise ScenarioError(f"a message of {float(messages.size.min())!r} bytes; expected more than 0")
    if topology.capacity.size and float(topology.capacity.min()) <= 0:
        slow = topology.links[int(topology.capacity.argmin())]
        raise ProfileError(f"link {slow}: bandwidth is {float(topology.capacity.min())!r} B/s, expected more than 0")
