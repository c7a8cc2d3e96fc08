"""The steady state in closed form: batch, step times and latencies that sustain themselves, without events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray
from simulator.closed_form.load import Load, Loads, busiest_prompts, mean_load
from simulator.closed_form.numbers import Number, chosen, larger, smaller, some
from simulator.closed_form.prompt_queue import serve_prompts
from simulator.closed_form.rounds import keeps_step, play_rounds
from simulator.closed_form.schedulers import STEADY_SCHEDULERS, SteadyScheduler
from simulator.closed_form.steps import ManyTimer, MeanTimer
from simulator.deployment.deployment import Deployment
from simulator.deployment.layout import layer_slots
from simulator.deployment.limits import Limits
from simulator.deployment.prices import PRICES
from simulator.placement.spread import SpreadTable
from simulator.results.summary import Capacity, Work
from simulator.results.values import Distribution, Summary
from simulator.results.work import step_works
from simulator.scenario.sections import Slo
from simulator.step.columns import STEP_COLUMNS
from simulator.step.components import COMPONENTS, STEP_PARTS
from workloads.requests.trace import RequestTrace

_NAN = float("nan")
_WINDOWS = 4
_ROUNDS = 40
#: Largest rise of what a batch sustains with the batch that the search for the steady one reckons with [1].
_STEEPEST = 0.9
#: Halvings in which the requests in flight beside think times are found [1].
_HALVINGS = 30
#: Rate from which requests come all at once, which is none [1/s].
_AT_ONCE = 1e9
#: Decode steps of an answer below which steps matter by which its first token is late [1].
_SHORT_ANSWER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """A steady state of one instance.

    Attributes
    ----------
    running, sustained : float
        Requests that decode, and how many these step times keep decoding; the same once solved [1].
    batch, batch_mean : float
        Requests that decode in a decode step, and on average over the time of all steps [1].
    gap_s : float
        Time between two tokens of a request, NaN where answers have one [s].
    ttft_s : float
        Time to first token [s].
    rate : float
        Requests per second [1/s].
    saturated : bool
        Whether the load exceeds what the instance can serve.
    steps : dict of str to array
        Its different steps in the columns of ``STEP_COLUMNS``, such without prompts first.
    weights : array, shape (steps,)
        How many of each there are per second [1/s].
    """

    running: float
    sustained: float
    batch: float
    batch_mean: float
    gap_s: float
    ttft_s: float
    rate: float
    saturated: bool
    steps: dict[str, FloatArray]
    weights: FloatArray


def occupancy(deployment: Deployment, trace: RequestTrace, instances: int) -> tuple[float, float]:
    """Return the requests that decode at once on one instance, and the mean KV length that they see [tokens].

    A scheduler that the closed form does not know is taken to let all decode beside prompts, and one expert serve them.
    """
    load = mean_load(trace, instances)
    if deployment.limits.scheduler not in STEADY_SCHEDULERS:
        deployment = replace(deployment, limits=replace(deployment.limits, scheduler="mixed"))
    return solve(deployment, load).running, load.context


def solve(deployment: Deployment, load: Load) -> Steady:
    """Find the steady state of a load: in rounds, as a queue of prompts, or as the batch that sustains itself.

    Parameters
    ----------
    deployment : Deployment
        What serves the load.
    load : Load
        Requests of one instance.
    """
    if load.think > 0.0:
        return _with_think_time(deployment, load)
    if keeps_step(deployment.limits, load):
        return _in_rounds(deployment, load)
    if load.decodes <= 0.0:
        return _prompts_alone(deployment, load)
    return _sustained(deployment, load)


def solve_all(sites: Sequence[tuple[Deployment, Load]]) -> list[Steady]:
    """Find the steady states of loads as :func:`solve` does of one; those of independent endings all at once.

    Parameters
    ----------
    sites : sequence of (Deployment, Load)
        What serves which load. The deployments differ in their limits alone, and the last one's tables reach as far as
        those of all others.
    """
    found: dict[int, Steady] = {}
    together: dict[bool, list[int]] = {True: [], False: []}
    for index, (deployment, load) in enumerate(sites):
        if keeps_step(deployment.limits, load) or load.decodes <= 0.0 or load.think > 0.0:
            found[index] = solve(deployment, load)
        else:
            together[load.concurrency > 0].append(index)
    for closed, chosen_ones in together.items():
        if len(chosen_ones) > 1:
            farthest = replace(sites[-1][0], limits=sites[chosen_ones[-1]][0].limits)
            own = [sites[index] for index in chosen_ones[:-1]] + [(farthest, sites[chosen_ones[-1]][1])]
            found |= zip(chosen_ones, _all_sustained(own, closed=closed), strict=True)
        else:
            found |= {index: solve(*sites[index]) for index in chosen_ones}
    return [found[index] for index in range(len(sites))]


def _with_think_time(deployment: Deployment, load: Load) -> Steady:
    """Find what a closed loop of sessions sustains that think between an answer and the next request.

    Notes
    -----
    With N sessions, think time Z and response time R, N R / (R + Z) requests are in flight on average. A request that
    comes meets those of the N - 1 other sessions (Schweitzer's form of mean value analysis), so that R is that of a
    closed loop of n = 1 + (N - 1) R / (R + Z) requests without think time; found by bisection, as R grows with n.
    """
    sessions = max(load.concurrency, 1.0)
    alike = replace(load, think=0.0, equal_outputs=False)

    def meets(state: Steady) -> tuple[float, float]:
        response = state.ttft_s + (load.decodes * state.gap_s if load.decodes > 0.0 else 0.0)
        share = response / (response + load.think)
        return 1.0 + (sessions - 1.0) * share, share

    low, high = 1.0, sessions
    state = solve(deployment, replace(alike, concurrency=low))
    for _ in range(_HALVINGS):
        if high - low <= 1e-3 * low:
            break
        middle = (low + high) / 2.0
        state = solve(deployment, replace(alike, concurrency=middle))
        low, high = (middle, high) if meets(state)[0] > middle else (low, middle)
    flight = state.rate * (state.ttft_s + (load.decodes * state.gap_s if load.decodes > 0.0 else 0.0))
    busy = load.concurrency * meets(state)[1] / max(flight, 1e-12)
    return replace(state, rate=state.rate * busy, weights=state.weights * busy, batch_mean=state.batch_mean * busy)


def approximations(deployment: Deployment, load: Load) -> tuple[str, ...]:
    """Say where the closed form is known to be off for a load.

    Parameters
    ----------
    deployment : Deployment
        What serves it.
    load : Load
        Requests of one instance.
    """
    limits = deployment.limits
    if load.rate and limits.delivery_steps and 0.0 < load.decodes < _SHORT_ANSWER:
        return (
            f"estimate: answers of {load.outputs:.3g} tokens are so short that it matters by how many steps users get "
            "their first token late; the closed form knows the mean alone: TPOT may be off by a factor, use simulate",
        )
    if load.think > 0.0 and load.equal_outputs and load.concurrency > 1.0:
        return (
            "estimate: answers of one length and think times of one length keep sessions together that began together; "
            "the closed form spreads them: TTFT and TPOT may be off by a factor, use simulate",
        )
    if not load.in_lock_step:
        return ()
    if not keeps_step(limits, load):
        return (
            "estimate: answers of one length end together, and their KV caches outgrow the pool before they do; the "
            "closed form spreads their ends and knows no preemption: use simulate",
        )
    tokens = load.inputs * load.concurrency / limits.dp
    if limits.dp > 1 and max(load.prompts) > min(load.prompts) and tokens > limits.token_budget:
        return (
            "estimate: prompts of unequal length that come together take several steps, which ranks end at different "
            "times; the closed form knows the busiest alone: throughput may be off by a quarter, use simulate",
        )
    return ()


def _in_rounds(deployment: Deployment, load: Load) -> Steady:
    rounds = play_rounds(deployment, load)
    gap = (rounds.e2el_s - rounds.ttft_s) / load.decodes if load.decodes else _NAN
    time = rounds.weights * rounds.steps["duration_s"]
    return Steady(
        running=rounds.running,
        sustained=rounds.running,
        batch=rounds.running,
        batch_mean=float(time @ rounds.steps["running"] / time.sum()),
        gap_s=gap,
        ttft_s=rounds.ttft_s,
        rate=rounds.rate,
        saturated=False,
        steps=rounds.steps,
        weights=rounds.weights,
    )


def _prompts_alone(deployment: Deployment, load: Load) -> Steady:
    queue = serve_prompts(deployment, load, _WINDOWS)
    return Steady(
        running=0.0,
        sustained=0.0,
        batch=0.0,
        batch_mean=0.0,
        gap_s=_NAN,
        ttft_s=queue.ttft_s,
        rate=queue.rate,
        saturated=queue.saturated,
        steps=queue.steps,
        weights=queue.weights,
    )


def _sustained(deployment: Deployment, load: Load) -> Steady:
    """Find the batch that sustains itself.

    Notes
    -----
    With n requests in a decode step, e = n / (outputs - 1) end per step and as many prompts come in, each of
    ``chunks = ceil(prompt / budget)`` prefill steps. At least one comes in with the probability 1 - exp(-e) of
    independent endings. A request meets the prompts of the others, but not its own. In a closed loop n is what is in
    flight less those who miss the step: requests not yet admitted and, where steps are mixed, in prefill. In an open
    loop rate * (outputs - 1) * gap decode at any time, a Poisson number m: a request finds m others, and a step, which
    needs at least one, m / (1 - exp(-m)). Both are solved by iteration, from the largest batch down. Wrong where
    arrivals come in bursts that queue.
    """
    timer, frontend = MeanTimer(deployment), deployment.stack.number("frontend")
    limits, closed, most = deployment.limits, load.concurrency > 0, most_running(deployment.limits, load)
    running = min(load.concurrency or most, most)
    before = _NAN, _NAN
    for _ in range(_ROUNDS):
        state = _at(timer, limits, frontend, load, running, most, closed=closed)
        target = min(max(state.sustained, 1e-3), most)
        if abs(target - running) <= 1e-4 * running:
            break
        before, running = (running, target), _next(before, (running, target), most)
    full = state.sustained >= most
    state = _at(timer, limits, frontend, load, running, most, closed=closed, windows=_WINDOWS)
    return _served(state, load, full=full)


def _all_sustained(sites: Sequence[tuple[Deployment, Load]], *, closed: bool) -> list[Steady]:
    """Find the batches that sustain themselves under many loads, closed loops or open ones, as :func:`_sustained`."""
    deployment, each = sites[-1][0], [load for _, load in sites]
    frontend, limits, loads = deployment.stack.number("frontend"), deployment.limits, Loads.of(each)
    timer = ManyTimer(deployment, [own.limits for own, _ in sites], each)
    # As floats: where requests bound all of them, they are whole numbers, and a batch that sustains itself is not.
    most = np.array([most_running(own.limits, load) for own, load in sites], dtype=np.float64)
    running = np.minimum(loads.concurrency, most) if closed else most.copy()
    sustained, before, tried = np.zeros(len(sites)), np.full((2, len(sites)), _NAN), np.arange(len(sites))
    for _ in range(_ROUNDS):
        timer.choose(tried.tolist())
        state = _at(timer, limits, frontend, loads.taken(tried), running[tried], most[tried], closed=closed)
        sustained[tried] = state.sustained
        target = np.minimum(np.maximum(sustained, 1e-3), most)
        tried = np.flatnonzero(np.abs(target - running) > 1e-4 * running)
        if not len(tried):
            break
        now = running[tried], target[tried]
        following = _next((before[0, tried], before[1, tried]), now, most[tried])
        before[:, tried], running[tried] = now, following
    timer.choose(range(len(sites)))
    state = _at(timer, limits, frontend, loads, running, most, closed=closed, windows=_WINDOWS)
    full = sustained >= most
    return [_served(state.of(index), load, full=bool(full[index])) for index, load in enumerate(each)]


def _served(state: _State, load: Load, *, full: bool) -> Steady:
    """Say what a load gets of a state; ``full`` where its batch is the largest."""
    rate, saturated = state.rate, False
    served = Steady(
        running=state.running,
        sustained=state.sustained,
        batch=state.batch,
        batch_mean=state.batch_mean,
        gap_s=state.gap_s,
        ttft_s=state.ttft_s,
        rate=rate,
        saturated=False,
        steps=dict(zip(STEP_COLUMNS, np.array([state.decode, state.prefill]).T, strict=True)),
        weights=np.array([state.pure, state.share]),
    )
    if load.concurrency:
        cycle = state.ttft_s + load.decodes * state.gap_s
        rate = min(state.rate, load.concurrency / cycle) if full else load.concurrency / cycle
        # By Little's law; an open loop, which may rest, keeps that of its steps.
        inside = rate * load.decodes * state.gap_s
        served = replace(served, ttft_s=state.ttft_s + load.concurrency / rate - cycle, rate=rate, batch_mean=inside)
    else:
        saturated = full and load.rate > state.rate * 1.001
        rate = state.rate if saturated else load.rate
        served = replace(served, rate=rate, saturated=saturated)
    # So many decode steps are needed; what is left of the time is idle.
    return replace(served, weights=served.weights * rate * load.decodes / max(state.batch, 1e-9))


def _next(before: tuple[Number, Number], now: tuple[Number, Number], most: Number) -> Number:
    """Return the batch to try after one, where so many are sustained, and perhaps another before: of the secant [1].

    A batch sustains nearly as many as a straight line says, so the secant meets what sustains itself in few steps. It
    goes no further than ten times the plain step, in whose direction the solution is.
    """
    tried, target = now
    step = tried - before[0]
    # Neither none before (NaN) nor the same.
    known = abs(step) > 0.0
    slope = (target - before[1]) / chosen(known, step, 1.0)
    slope = chosen(slope < _STEEPEST, slope, _STEEPEST)
    return chosen(known, smaller(larger(tried + (target - tried) / (1.0 - slope), 1e-3), most), target)


def most_running(limits: Limits, load: Load) -> float:
    """Requests that an instance can decode at once: as many as it may, fit its memory, and leave room for prompts."""
    held = limits.kv_per_sequence + (load.inputs + load.outputs / 2) * limits.kv_per_token
    sustained = STEADY_SCHEDULERS[limits.scheduler].most_running(limits, load)
    return limits.dp * min(limits.max_running, limits.pool / held, sustained)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prefill:
    """Steps with prompts beside steps that decode.

    ``share`` of them per decode step, or of all steps; ``pure`` decode steps beside them, in the same measure; prompt
    ``tokens`` in one of them over all ranks, and the busiest rank's ``own`` [tokens]; ``chunks`` that a prompt takes.
    """

    share: Number
    pure: Number
    tokens: Number
    own: Number
    chunks: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What comes of a batch, for one load or for many: fields as those of ``Steady``, and two steps.

    ``decode`` and ``prefill`` are rows of ``STEP_COLUMNS``, of which there are ``pure`` and ``share`` in one measure.
    """

    running: Number
    sustained: Number
    batch: Number
    batch_mean: Number
    gap_s: Number
    ttft_s: Number
    rate: Number
    pure: Number
    share: Number
    decode: Number
    prefill: Number

    def of(self, index: int) -> _State:
        """Return that of one of many loads."""
        rows = {"decode": self.decode[index], "prefill": self.prefill[index]}
        return _State(**{name: float(getattr(self, name)[index]) for name in _NUMBERS}, **rows)


#: Fields of a state with one number per load.
_NUMBERS = tuple(each.name for each in fields(_State) if each.name not in ("decode", "prefill"))


def _prefill(
    limits: Limits,
    load: Load | Loads,
    policy: SteadyScheduler,
    running: Number,
    batch: Number,
    late: Number,
    *,
    closed: bool,
) -> _Prefill:
    """Put the prompts that come in for those that end into steps, ``late`` decode steps after these.

    In an open loop a step that decodes is one of a ``batch``, but prompts come all the time, whether or not any of the
    ``running`` is there.
    """
    ends = batch / load.decodes
    together, beside = (ends, 1.0) if closed else (running / load.decodes, some(running))
    budget = policy.budget(limits, batch / limits.dp)
    # A prompt that may not be split is so nevertheless where it is longer than a whole step.
    longest = budget if limits.chunked else float(limits.token_budget)
    chunks = _chunks(load, longest)
    steps, own = _prompt_steps(load, limits.dp, together, late)
    steps = steps * ends / together
    # Prompts that arrive within one step are computed together, as far as the budget of all ranks goes.
    pure, share = policy.step_shares(larger(steps * chunks, ends * load.inputs / (limits.dp * budget)), beside)
    # No step is larger than the engine's largest.
    tokens = smaller(ends * load.inputs / share, limits.dp * longest)
    own = smaller(smaller(larger(own / chunks, tokens / limits.dp), tokens), longest)
    return _Prefill(share=share, pure=pure, tokens=tokens, own=own, chunks=chunks)


def _chunks(load: Load | Loads, longest: Number) -> Number:
    """Mean steps that prompts take of which so much fits into one [1]."""
    if isinstance(load, Loads):
        return np.ceil(load.prompts / np.reshape(longest, (-1, 1))).mean(axis=1)
    return 1.0 if load.prompts[-1] <= longest else float(np.ceil(np.asarray(load.prompts) / longest).mean())


def _at(
    timer: MeanTimer | ManyTimer,
    limits: Limits,
    frontend: float,
    load: Any,
    running: Number,
    most: Number,
    *,
    closed: bool,
    windows: int = 1,
) -> _State:
    """Step times with so many requests decoding, averaged over windows of the routing trace, always the same.

    Parameters
    ----------
    timer : MeanTimer or ManyTimer
        What prices the steps of the load, or of the loads.
    limits : Limits
        What bounds their steps; the requests that a rank runs may differ.
    frontend : float
        Time from its start until the scheduler sees a request [s].
    load : Load or Loads
        One, or many of one kind of loop.
    running, most : float or array
        Requests that decode, and that may [1].
    closed : bool
        Whether loops are closed.
    windows : int
        Parts of the routing trace [1].
    """
    timer.restart()
    policy = STEADY_SCHEDULERS[limits.scheduler]
    others = larger(running - 1.0, 0.0) if closed else running
    batch = larger(running, 1.0) if closed else running / some(running)
    decode = timer.mean(batch, load, windows=windows)
    late = policy.late(frontend, decode.duration) if closed else 0
    prompts = _prefill(limits, load, policy, running, batch, late, closed=closed)
    decoding = policy.decoding(others)
    prefill = timer.mean(decoding, load, tokens=prompts.tokens, own=prompts.own, windows=windows)
    felt = decode.duration
    if not closed:
        felt = timer.mean(smaller(running + 1.0, most), load, windows=windows).duration
    met = prompts.share * others / batch
    if not closed:
        # The step after its own prompt holds the prompts that came meanwhile.
        after = some(load.rate * prompts.chunks * prefill.duration)
        met = met + larger(after - met, 0.0) / larger(load.decodes, 1.0)
    gap = policy.gap(felt, prefill.duration, met)
    pure, share = prompts.pure, prompts.share
    period = pure * decode.duration + share * prefill.duration
    entry = frontend
    if frontend > 0.0 or not closed:
        # Who comes at any time waits for the rest of a step; the next of a closed loop comes as one ends.
        rest = (pure * decode.duration**2 + share * prefill.duration**2) / (2.0 * period)
        entry = entry + some(others) * rest
    # Users get their first and last tokens some steps late, but at once where nothing is left to do.
    behind, busy = limits.delivery_steps, some(others)
    first, last = smaller(behind, load.decodes) * gap, behind * busy * gap
    missed = entry / period + policy.missed(prompts.chunks) + behind * busy
    return _State(
        running=running,
        sustained=load.concurrency * load.decodes / (load.decodes + missed)
        if closed
        else load.rate * load.decodes * gap,
        batch=batch,
        batch_mean=(pure * decode.duration * batch + share * prefill.duration * others) / period,
        gap_s=gap + (last - first) / load.decodes,
        ttft_s=entry + prompts.chunks * prefill.duration + first,
        rate=batch / load.decodes / period,
        pure=pure + 0.0 * running,
        share=share,
        decode=decode.row,
        prefill=prefill.row,
    )


def _prompt_steps(load: Load | Loads, dp: int, ends: Number, late: Number) -> tuple[Number, Number]:
    """Prefill steps per decode step, and prompt tokens of the busiest rank in one, before any chunking [1], [tokens].

    Prompts come ``late`` decode steps after the ends that made room for them. Where they run first, the first to come
    stops the decoding; those whose turn came while it was on its way arrive during its step and share the next.
    """
    first, second = some(ends), some(ends * late)
    # A rank that is alone has them all.
    own = busiest_prompts(load, dp, ends) if dp > 1 else 0.0
    if dp > 1 and np.any(late):
        own = (own + second * busiest_prompts(load, dp, ends * larger(late, 1))) / (1.0 + second)
    return (1.0 + second) / (1.0 / first + late), own


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A load that a deployment is asked to serve.

    Attributes
    ----------
    deployment : Deployment
        What serves, under the limits of the load.
    load : Load
        What one instance is asked.
    instances : int
        Instances, each of which is asked as much [1].
    slo : Slo
        Objectives that the means are held to.
    capacity : Capacity
        Devices and their rates, for shares and cost.
    """

    deployment: Deployment
    load: Load
    instances: int
    slo: Slo
    capacity: Capacity


def steady_states(asked: Sequence[Asked]) -> list[tuple[Summary, dict[str, float]]]:
    """Summarise the steady states of loads of one deployment.

    Parameters
    ----------
    asked : sequence of Asked
        The loads, in any order; their deployments differ in their limits alone, and the last one's tables reach as far
        as those of all others.

    Returns
    -------
    list of (Summary, dict)
        Of each load, means (percentiles are NaN, counts of the run 0), and seconds by component per second of one
        instance, idle included.
    """
    if not asked:
        return []
    deployment, states = asked[-1].deployment, solve_all([(each.deployment, each.load) for each in asked])
    steps = {name: np.concatenate([state.steps[name] for state in states]) for name in STEP_COLUMNS}
    weights = np.concatenate([state.weights for state in states])
    owner = np.repeat(np.arange(len(states)), [len(state.weights) for state in states])
    works = step_works(deployment, steps, weights, owner, len(states))
    breakdowns = _breakdowns(deployment, steps, weights, owner, len(states))
    spreads = PRICES.kept(
        "derived",
        ("spread", deployment.fingerprint),
        lambda: SpreadTable(deployment.routing, _WINDOWS, layer_slots(deployment.model, deployment.routing)),
    )
    return [
        (_summary(each, state, work, spreads.at(round(state.batch))), breakdown)
        for each, state, work, breakdown in zip(asked, states, works, breakdowns, strict=True)
    ]


def _breakdowns(
    deployment: Deployment, steps: dict[str, FloatArray], weights: FloatArray, owner: NDArray[np.int64], owners: int
) -> list[dict[str, float]]:
    """Seconds by component per second of one instance, idle included, of the steps of each of so many owners."""
    parts = deployment.timer().parts(steps)
    exchanges = [STEP_PARTS.index("dispatch"), STEP_PARTS.index("combine")]
    exchanged = parts[:, exchanges]
    saved = steps["saved"] / np.maximum(exchanged.sum(axis=1), 1e-30)
    parts[:, exchanges] -= saved[:, None] * exchanged
    totals = [np.bincount(owner, weights * column, minlength=owners).tolist() for column in parts.T]
    breakdowns = []
    for row in zip(*totals, strict=True):
        breakdown = dict.fromkeys(COMPONENTS, 0.0) | dict(zip(STEP_PARTS, row, strict=True))
        breakdown["idle"] = max(1.0 - sum(breakdown.values()), 0.0)
        breakdowns.append(breakdown)
    return breakdowns


def _summary(asked: Asked, state: Steady, work: Work, spread: tuple[float, float]) -> Summary:
    load, capacity, slo = asked.load, asked.capacity, asked.slo

    def mean(value: float) -> Distribution:
        return Distribution(mean=value, p50=_NAN, p90=_NAN, p99=_NAN)

    e2el = state.ttft_s + (load.decodes * state.gap_s if load.decodes else 0.0)
    # An answer of one token has no time between tokens, and meets any limit on it.
    limits = ((state.ttft_s, slo.ttft), (state.gap_s, slo.tpot), (e2el, slo.e2el))
    met = all(limit is None or not value > limit for value, limit in limits)
    rate, scale = state.rate * asked.instances, asked.instances / capacity.devices
    per_gpu = rate / capacity.devices
    output_rate = per_gpu * load.outputs
    return Summary(
        ttft_s=mean(_NAN if state.saturated else state.ttft_s),
        tpot_s=mean(state.gap_s),
        itl_s=mean(state.gap_s),
        e2el_s=mean(_NAN if state.saturated else e2el),
        input_tokens_per_s_per_gpu=per_gpu * load.inputs,
        output_tokens_per_s_per_gpu=output_rate,
        total_tokens_per_s_per_gpu=per_gpu * (load.inputs + load.outputs),
        requests_completed=0,
        engine_steps=0,
        simulated_s=0.0,
        wall_s=0.0,
        goodput_rps=rate if met and not state.saturated else 0.0,
        usd_per_million_output_tokens=capacity.price / output_rate * 1e6 if output_rate > 0 else _NAN,
        request_throughput_rps=rate,
        batch_size_mean=state.batch_mean,
        queue_length_mean=_NAN,
        kv_use_mean=_NAN,
        kv_use_max=_NAN,
        preemptions=0,
        mfu=work.flops * scale / capacity.peak,
        mbu=work.memory_bytes * scale / capacity.memory_bandwidth,
        rank_imbalance_mean=float(state.steps["imbalance"][0]),
        rank_imbalance_p99=_NAN,
        expert_imbalance_mean=spread[0],
        active_experts_mean=spread[1],
        offered_rps=load.rate * asked.instances if 0.0 < load.rate * asked.instances < _AT_ONCE else _NAN,
    )
