"""The steady state in closed form: batch, step times and latencies that sustain themselves, without events."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray
from simulator.closed_form.load import Load, busiest_prompts, mean_load
from simulator.closed_form.prompt_queue import serve_prompts
from simulator.closed_form.rounds import keeps_step, play_rounds
from simulator.closed_form.schedulers import STEADY_SCHEDULERS, SteadyScheduler
from simulator.closed_form.steps import MeanTimer, columns, mean_step
from simulator.deployment.deployment import Deployment
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
    if keeps_step(deployment.limits, load):
        return _in_rounds(deployment, load)
    if load.decodes <= 0.0:
        return _prompts_alone(deployment, load)
    return _sustained(deployment, load)


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
    timer, most = MeanTimer(deployment), _most_running(deployment.limits, load)
    running = min(load.concurrency or most, most)
    state = _at(deployment, timer, load, running, most, 1)
    before = None
    for _ in range(_ROUNDS):
        target = min(max(state.sustained, 1e-3), most)
        if abs(target - running) <= 1e-4 * running:
            break
        tried, running = (running, target), _next(before, (running, target), most)
        before = tried
        state = _at(deployment, timer, load, running, most, 1)
    full = state.sustained >= most
    state = _at(deployment, timer, load, running, most, _WINDOWS)
    if load.concurrency:
        cycle = state.ttft_s + load.decodes * state.gap_s
        rate = min(state.rate, load.concurrency / cycle) if full else load.concurrency / cycle
        # By Little's law; an open loop, which may rest, keeps that of its steps.
        inside = rate * load.decodes * state.gap_s
        served = replace(state, ttft_s=state.ttft_s + load.concurrency / rate - cycle, rate=rate, batch_mean=inside)
    else:
        saturated = full and load.rate > state.rate * 1.001
        served = replace(state, rate=state.rate if saturated else load.rate, saturated=saturated)
    # So many decode steps are needed; what is left of the time is idle.
    return replace(served, weights=state.weights * served.rate * load.decodes / max(state.batch, 1e-9))


def _next(before: tuple[float, float] | None, now: tuple[float, float], most: float) -> float:
    """Return the batch to try after one, where so many are sustained, and perhaps another before: of the secant [1].

    A batch sustains nearly as many as a straight line says, so the secant meets what sustains itself in few steps. It
    goes no further than nine times the plain step, in whose direction the solution is.
    """
    tried, target = now
    if before is None or tried == before[0]:
        return target
    slope = (target - before[1]) / (tried - before[0])
    if not slope < _STEEPEST:
        slope = _STEEPEST
    return min(max(tried + (target - tried) / (1.0 - slope), 1e-3), most)


def _most_running(limits: Limits, load: Load) -> float:
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

    share: float
    pure: float
    tokens: float
    own: float
    chunks: float


def _prefill(limits: Limits, load: Load, policy: SteadyScheduler, running: float, batch: float, late: int) -> _Prefill:
    """Put the prompts that come in for those that end into steps, ``late`` decode steps after these.

    In an open loop a step that decodes is one of a ``batch``, but prompts come all the time, whether or not any of the
    ``running`` is there.
    """
    ends = batch / load.decodes
    if load.concurrency:
        together, beside = ends, 1.0
    else:
        together, beside = running / load.decodes, -math.expm1(-running)
    budget = policy.budget(limits, batch / limits.dp)
    # A prompt that may not be split is so nevertheless where it is longer than a whole step.
    longest = budget if limits.chunked else float(limits.token_budget)
    chunks = 1.0 if load.prompts[-1] <= longest else float(np.ceil(np.asarray(load.prompts) / longest).mean())
    steps, own = _prompt_steps(load, limits.dp, together, late)
    steps *= ends / together
    # Prompts that arrive within one step are computed together, as far as the budget of all ranks goes.
    pure, share = policy.step_shares(max(steps * chunks, ends * load.inputs / (limits.dp * budget)), beside)
    # No step is larger than the engine's largest.
    tokens = min(ends * load.inputs / share, limits.dp * longest)
    own = min(max(own / chunks, tokens / limits.dp), tokens, longest)
    return _Prefill(share=share, pure=pure, tokens=tokens, own=own, chunks=chunks)


def _at(deployment: Deployment, timer: MeanTimer, load: Load, running: float, most: float, windows: int) -> Steady:
    """Step times with so many requests decoding, averaged over windows of the routing trace, always the same."""
    limits = deployment.limits
    timer.places = 0, 0
    closed, policy = load.concurrency > 0, STEADY_SCHEDULERS[limits.scheduler]
    others = max(running - 1.0, 0.0) if closed else running
    batch = max(running, 1.0) if closed else running / -math.expm1(-running)
    decode = mean_step(timer, batch, load, windows=windows)
    frontend = deployment.stack.number("frontend")
    late = policy.late(frontend, decode.duration) if closed else 0
    prompts = _prefill(limits, load, policy, running, batch, late)
    decoding = policy.decoding(others)
    prefill = mean_step(timer, decoding, load, tokens=prompts.tokens, own=prompts.own, windows=windows)
    felt = decode.duration
    if not closed:
        felt = mean_step(timer, min(running + 1.0, most), load, windows=windows).duration
    met = prompts.share * others / batch
    if not closed:
        # The step after its own prompt holds the prompts that came meanwhile.
        after = -math.expm1(-load.rate * prompts.chunks * prefill.duration)
        met += max(after - met, 0.0) / max(load.decodes, 1.0)
    gap = policy.gap(felt, prefill.duration, met)
    weights = np.array([prompts.pure, prompts.share])
    durations = np.array([decode.duration, prefill.duration])
    period = float(weights @ durations)
    entry = frontend
    if frontend > 0.0 or not closed:
        # Who comes at any time waits for the rest of a step; the next of a closed loop comes as one ends.
        entry += -math.expm1(-others) * float(weights @ durations**2) / (2.0 * period)
    # Users get their first and last tokens some steps late, but at once where nothing is left to do.
    behind, busy = limits.delivery_steps, -math.expm1(-others)
    first, last = min(behind, load.decodes) * gap, behind * busy * gap
    missed = entry / period + policy.missed(prompts.chunks) + behind * busy
    return Steady(
        running=running,
        sustained=load.concurrency * load.decodes / (load.decodes + missed)
        if closed
        else load.rate * load.decodes * gap,
        batch=batch,
        batch_mean=float(weights @ (durations * np.array([batch, others]))) / period,
        gap_s=gap + (last - first) / load.decodes,
        ttft_s=entry + prompts.chunks * prefill.duration + first,
        rate=batch / load.decodes / period,
        saturated=False,
        steps=columns((decode, prefill)),
        weights=weights,
    )


def _prompt_steps(load: Load, dp: int, ends: float, late: int) -> tuple[float, float]:
    """Prefill steps per decode step, and prompt tokens of the busiest rank in one, before any chunking [1], [tokens].

    Prompts come ``late`` decode steps after the ends that made room for them. Where they run first, the first to come
    stops the decoding; those whose turn came while it was on its way arrive during its step and share the next.
    """
    first, second = -math.expm1(-ends), -math.expm1(-ends * late)
    # A rank that is alone has them all.
    own = busiest_prompts(load, dp, ends) if dp > 1 else 0.0
    if late and dp > 1:
        own = (own + second * busiest_prompts(load, dp, ends * late)) / (1.0 + second)
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
    deployment, states = asked[-1].deployment, [solve(each.deployment, each.load) for each in asked]
    steps = {name: np.concatenate([state.steps[name] for state in states]) for name in STEP_COLUMNS}
    weights = np.concatenate([state.weights for state in states])
    owner = np.repeat(np.arange(len(states)), [len(state.weights) for state in states])
    works = step_works(deployment, steps, weights, owner, len(states))
    breakdowns = _breakdowns(deployment, steps, weights, owner, len(states))
    spreads = PRICES.kept(
        "derived", ("spread", deployment.fingerprint), lambda: SpreadTable(deployment.routing, _WINDOWS)
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
    )
