"""The discrete-event engine: arrivals, load balancers, instances and what acts on them, on one simpy clock."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.deployment.limits import Limits
from simulator.errors import InfeasibleScenario
from simulator.results.packed import PackedColumns
from simulator.scenario.sections import Balancer
from simulator.serving.balancers import balancer
from simulator.serving.clock import Clock
from simulator.serving.instance import Probe
from simulator.serving.kv_link import KVLink
from simulator.serving.prefix_cache import Blocks, PrefixCache
from simulator.serving.recorder import ColumnRecorder, RequestRecorder
from simulator.serving.request_experts import RequestExperts
from simulator.serving.server import Control, Server, Store
from simulator.serving.state import Role, RunState, request_state
from simulator.serving.step_log import FRONTEND, StepLog
from simulator.step.columns import STEP_COLUMNS
from simulator.step.timer import StepTimer, TableTimer
from simulator.step.work import StepWork
from workloads.requests.trace import RequestTrace
from workloads.requests.turns import follows

#: Called with the share of requests that are done, in [0, 1].
Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Instances of one kind: a timer for each, what bounds them, what of a request they do, and who watches them.

    ``experts`` are those of every token, where its scheduler knows them before the step; there is one pool then.
    """

    timers: Sequence[StepTimer]
    limits: Limits
    role: Role = "both"
    probe: Probe | None = None
    experts: RequestExperts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixCaching:
    """How prefixes are cached: the hash blocks of every prompt, their size, and the pool that instances share.

    ``answers`` are the blocks behind them that an answer fills, where a turn that follows names them; none where
    absent. ``store_tokens`` is the size of the pool [tokens], 0 for none; ``fetch_per_token`` the time to fetch a token
    from it [s].
    """

    blocks: Blocks
    block_tokens: int
    answers: Blocks | None = None
    store_tokens: float = 0.0
    fetch_per_token: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRun:
    """What the engine recorded.

    ``requests`` holds one row per request; ``steps`` the columns of ``STEP_COLUMNS``; ``gaps`` the time between
    tokens [s], how many requests saw it, and when; ``end`` is the time of the last event [s].
    """

    requests: RequestRecorder
    steps: PackedColumns
    gaps: PackedColumns
    end: float


def run_engine(
    trace: RequestTrace,
    pools: Sequence[Pool],
    *,
    balance: Balancer = "least_loaded",
    frontend: float = 0.0,
    link: KVLink | None = None,
    caching: PrefixCaching | None = None,
    answer_steps: NDArray[np.int64] | None = None,
    controls: Sequence[Control] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> EngineRun:
    """Play a request trace through instances until every request is answered.

    Parameters
    ----------
    trace : RequestTrace
        Arrivals and lengths, or a closed loop.
    pools : sequence of Pool
        The instances.
    balance : {"round_robin", "least_loaded", "power_of_two", "cache_aware"}
        Which instance takes a request; one that decodes what others computed is always the least loaded.
    frontend : float
        Time from a request's arrival until the scheduler sees it: HTTP, tokenisation, hand-over [s].
    link : KVLink, optional
        How KV caches travel between pools; at once where absent.
    caching : PrefixCaching, optional
        How prefixes are cached; not at all where absent.
    answer_steps : array, shape (requests,), optional
        Decode steps that a whole answer takes; one per token after the first where absent [1].
    controls : sequence of Control
        Processes that act on the live server.
    seed : int
        Seed of what the balancer draws.
    progress : callable, optional
        Told the share of requests that are done.
    """
    store = None
    if caching is not None and caching.store_tokens:
        store = Store(
            blocks=PrefixCache(caching.block_tokens),
            prompts=caching.blocks,
            tokens=caching.store_tokens,
            per_token=caching.fetch_per_token,
        )

    def play(log: StepLog | None) -> tuple[RunState, float, int]:
        run_state = RunState(
            state=request_state(trace, answer_steps),
            records=RequestRecorder(len(trace)),
            steps=ColumnRecorder(STEP_COLUMNS),
            gaps=ColumnRecorder(("gap_s", "tokens", "at_s")),
            blocks=caching.blocks if caching else None,
            answers=caching.answers if caching else None,
            block_tokens=caching.block_tokens if caching else 0,
            store=store.blocks if store else None,
            store_tokens=store.tokens if store else 0.0,
            experts=pools[0].experts,
            log=log,
        )
        server = Server(
            Clock(),
            trace,
            run_state,
            balancer(balance, seed),
            balancer("least_loaded", seed),
            frontend=frontend if log is None else FRONTEND * (frontend > 0.0),
            link=link,
            store=store,
            progress=progress,
        )
        end = _played(server, pools, controls)
        return run_state, end, len(trace) - server.finished

    timer = None if link or store or controls else _timed_afterwards(trace, pools, frontend)
    if timer is not None:
        log = StepLog(pools[0].limits)
        run_state, end, left = play(log)
        timed = log.timed(timer, run_state.records, run_state.gaps.arrays(), end, frontend)
        if timed is not None:
            steps, gaps, end = timed
            return _answered(EngineRun(requests=run_state.records, steps=steps, gaps=gaps, end=end), left)
    run_state, end, left = play(None)
    steps, gaps = run_state.steps.columns(), run_state.gaps.columns()
    return _answered(EngineRun(requests=run_state.records, steps=steps, gaps=gaps, end=end), left)


def _played(server: Server, pools: Sequence[Pool], controls: Sequence[Control]) -> float:
    """Let a server answer its requests on instances; return when the last event is [s]."""
    env = server.env
    for pool in pools:
        for timer in pool.timers:
            server.add(timer, pool.limits, pool.role, pool.probe)
    server.begin()
    for control in controls:
        env.process(control(server))
    with _no_collector():
        env.reach(server.done)
    return env.now


def _answered(run: EngineRun, left: int) -> EngineRun:
    """Return a run unless it has left requests without an answer."""
    if left:
        raise InfeasibleScenario(
            f"{left} of {len(run.requests.finish)} requests are never answered: from {run.end:.1f} s on no instance "
            "takes them; let one that failed start anew (faults.restart), or add instances"
        )
    return run


def _timed_afterwards(trace: RequestTrace, pools: Sequence[Pool], frontend: float) -> TableTimer | None:
    """Return the timer of the only instance of a run whose decisions need no clock; ``None`` in any other run.

    They need none where all requests are there from the beginning, or each comes as another ends; where nobody
    watches or knows experts from step to step; and where the timer can time many steps at once. The frontend has to be
    quicker than a step of half a batch, which requests that keep together decode in; whether it is in every step shows
    when they are timed.
    """
    pool, timer = pools[0], pools[0].timers[0]
    turns = follows(trace)
    waits = trace.concurrency is None and trace.arrival.max() > 0.0
    waits |= turns and trace.delay is not None and trace.delay.max() > 0.0
    alone = len(pools) == len(pool.timers) == 1 and pool.probe is None and pool.experts is None
    if not alone or waits or not isinstance(timer, TableTimer) or not timer.takes_series:
        return None
    if not frontend or (trace.concurrency is None and not turns):
        return timer
    limits, places = pool.limits, timer.places
    at_once = len(trace) if trace.after is None else int((trace.after < 0).sum())
    half = -(-min(trace.concurrency or at_once, at_once, limits.dp * limits.max_running) // 2)
    context = float(trace.input_tokens.mean())
    step = timer.time(StepWork.decode(half, context, dp=limits.dp, query_tokens=limits.query_tokens))
    timer.go_to(places)
    return timer if frontend < step.duration else None


@contextmanager
def _no_collector() -> Iterator[None]:
    """Keep the cycle collector from walking the recorded rows again and again: a run makes no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
