"""The steady state in closed form: batch, step times and latencies that sustain themselves, without events."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from simulator.arrays import FloatArray
from simulator.deployment.deployment import Deployment
from simulator.deployment.limits import Limits
from simulator.placement.replay import expert_spread
from simulator.results.summary import Capacity, Work
from simulator.results.values import Distribution, Summary
from simulator.results.work import step_work
from simulator.scenario.sections import Slo
from simulator.step.columns import STEP_COLUMNS, step_row
from simulator.step.components import COMPONENTS
from simulator.step.timer import TableTimer
from simulator.step.work import StepTime, StepWork
from workloads.requests.trace import RequestTrace

_NAN = float("nan")
_WINDOWS = 4
_ROUNDS = 40
#: Quantiles of prompt lengths that are kept, and cells of the distribution of prompt tokens on a rank [1].
_QUANTILES = 64
_CELLS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one instance is asked on average.

    ``inputs`` and ``outputs`` are mean lengths [tokens], ``prompts`` evenly spaced quantiles of the prompt lengths
    [tokens], ``context`` the mean KV length that a decoded token sees [tokens], ``concurrency`` the requests in flight
    of a closed loop and ``rate`` the arrivals of an open one [1/s]; one of the two is 0.
    """

    inputs: float
    prompts: tuple[float, ...]
    outputs: float
    context: float
    concurrency: float
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """A steady state of one instance.

    Attributes
    ----------
    running, sustained : float
        Requests that decode, and how many these step times keep decoding; the same once solved [1].
    batch : float
        Requests that decode in a decode step [1].
    decode_s, prompt_s : float
        Time of a step without and with prompt tokens [s].
    prompt_share : float
        Prompt steps per decode step (prefill first), or the share of steps with prompt tokens (mixed) [1].
    gap_s : float
        Time between two tokens of a request [s].
    ttft_s : float
        Time to first token [s].
    rate : float
        Requests per second [1/s].
    saturated : bool
        Whether the load exceeds what the instance can serve.
    steps : dict of str to array
        One decode step and one prompt step in the columns of ``STEP_COLUMNS``.
    """

    running: float
    sustained: float
    batch: float
    decode_s: float
    prompt_s: float
    prompt_share: float
    gap_s: float
    ttft_s: float
    rate: float
    saturated: bool
    steps: dict[str, FloatArray]


def mean_load(trace: RequestTrace, instances: int) -> Load:
    """Reduce a request trace to what one instance sees on average."""
    inputs, outputs = trace.input_tokens.astype(np.float64), trace.output_tokens.astype(np.float64)
    context = float((outputs * inputs + outputs**2 / 2).sum() / outputs.sum())
    span = float(trace.arrival[-1] - trace.arrival[0]) if len(trace) > 1 else 0.0
    return Load(
        inputs=float(inputs.mean()),
        prompts=tuple(np.quantile(inputs, (np.arange(_QUANTILES) + 0.5) / _QUANTILES).tolist()),
        outputs=float(outputs.mean()),
        context=context,
        concurrency=(trace.concurrency or 0) / instances,
        rate=0.0 if trace.concurrency else (len(trace) - 1) / max(span, 1e-9) / instances,
    )


def occupancy(deployment: Deployment, trace: RequestTrace, instances: int) -> tuple[float, float]:
    """Return the requests that decode at once on one instance, and the mean KV length that they see [tokens]."""
    load = mean_load(trace, instances)
    return solve(deployment, load).running, load.context


def solve(deployment: Deployment, load: Load) -> Steady:
    """Find the batch that sustains itself.

    Notes
    -----
    With n requests in a decode step, e = n / (outputs - 1) end per step and as many prompts come in, each of
    ``chunks = ceil(prompt / budget)`` prompt steps. At least one comes in with the probability 1 - exp(-e) of
    independent endings. A request meets the prompts of the others, but not its own. In a closed loop n is what is in
    flight less those who miss the step: requests not yet admitted and, where steps are mixed, in prefill. In an open
    loop rate * (outputs - 1) * gap decode at any time, a Poisson number m: a request finds m others, and a step, which
    needs at least one, m / (1 - exp(-m)). Both are solved by iteration, from the largest batch down. Wrong where
    arrivals come in bursts that queue, and where requests of equal length end together.
    """
    decodes = max(load.outputs - 1.0, 1e-9)
    most = _most_running(deployment, load)
    running = min(load.concurrency or most, most)
    state = _at(deployment, load, running, most, 1)
    for _ in range(_ROUNDS):
        target = min(max(state.sustained, 1e-3), most)
        if abs(target - running) <= 1e-4 * running:
            break
        running = target
        state = _at(deployment, load, running, most, 1)
    full = state.sustained >= most
    state = _at(deployment, load, running, most, _WINDOWS)
    if load.concurrency:
        cycle = state.ttft_s + decodes * state.gap_s
        rate = min(state.rate, load.concurrency / cycle) if full else load.concurrency / cycle
        return replace(state, ttft_s=state.ttft_s + load.concurrency / rate - cycle, rate=rate)
    saturated = full and load.rate > state.rate * 1.001
    return replace(state, rate=state.rate if saturated else load.rate, saturated=saturated)


def _most_running(deployment: Deployment, load: Load) -> float:
    """Requests that an instance can decode at once: as many as it may, fit its memory, and leave room for prompts."""
    limits = deployment.limits
    held = limits.kv_per_sequence + (load.inputs + load.outputs / 2) * limits.kv_per_token
    most = min(limits.max_running, limits.pool / held)
    if limits.scheduler == "mixed":
        most = min(most, limits.token_budget / (1.0 + load.inputs / max(load.outputs - 1.0, 1.0)))
    return limits.dp * most


def _at(deployment: Deployment, load: Load, running: float, most: float, windows: int) -> Steady:
    """Step times with so many requests decoding, averaged over windows of the routing trace, always the same."""
    limits, timer = deployment.limits, deployment.timer()
    closed, mixed = load.concurrency > 0, limits.scheduler == "mixed"
    decodes = max(load.outputs - 1.0, 1e-9)
    others = max(running - 1.0, 0.0) if closed else running
    batch = max(running, 1.0) if closed else running / -math.expm1(-running)
    ends = batch / decodes
    decode, decode_row = _mean_step(timer, limits, batch, load, 0.0, 0.0, windows)
    budget = max(limits.token_budget - (batch / limits.dp if mixed else 0.0), 1.0)
    chunks = float(np.ceil(np.asarray(load.prompts) / budget).mean()) if limits.chunked else 1.0
    entry = frontend = deployment.stack.number("frontend")
    late = math.ceil(frontend / decode) if closed and not mixed else 0
    share, own = _prompt_steps(load, limits.dp, ends, late)
    # Prompts that arrive within one step are computed together, as far as the budget of all ranks goes.
    share = max(share * chunks, ends * load.inputs / (limits.dp * budget))
    if mixed:
        share = min(share, 1.0)
    tokens = ends * load.inputs / share
    # No step is larger than the engine's largest: its budget, or one prompt that is longer and cannot be split.
    largest = budget if limits.chunked else max(budget, *load.prompts)
    tokens = min(tokens, limits.dp * largest)
    own = min(max(own / chunks, tokens / limits.dp), tokens, largest)
    prompt, prompt_row = _mean_step(timer, limits, others if mixed else 0.0, load, tokens, own, windows)
    pure, met = (1.0 - share if mixed else 1.0), share * others / batch
    period = pure * decode + share * prompt
    felt = decode if closed else _mean_step(timer, limits, min(running + 1.0, most), load, 0.0, 0.0, windows)[0]
    gap = (1.0 - met if mixed else 1.0) * felt + met * prompt
    if frontend > 0.0 or not closed:
        # Who comes at any time waits for the rest of a step; the next of a closed loop comes as one ends.
        entry += -math.expm1(-others) * (pure * decode**2 + share * prompt**2) / (2.0 * period)
    missed = entry / period + chunks * mixed
    return Steady(
        running=running,
        sustained=load.concurrency * decodes / (decodes + missed) if closed else load.rate * decodes * gap,
        batch=batch,
        decode_s=decode,
        prompt_s=prompt,
        prompt_share=share,
        gap_s=gap,
        ttft_s=entry + chunks * prompt,
        rate=ends / period,
        saturated=False,
        steps={name: np.array([decode_row[name], prompt_row[name]]) for name in STEP_COLUMNS},
    )


def _prompt_steps(load: Load, dp: int, ends: float, late: int) -> tuple[float, float]:
    """Prompt steps per decode step, and prompt tokens of the busiest rank in one, before any chunking [1], [tokens].

    Prompts come ``late`` decode steps after the ends that made room for them. Where they run first, the first to come
    stops the decoding; those whose turn came while it was on its way arrive during its step and share the next.
    """
    first, second = -math.expm1(-ends), -math.expm1(-ends * late)
    own = busiest_prompts(load, dp, ends)
    if late:
        own = (own + second * busiest_prompts(load, dp, ends * late)) / (1.0 + second)
    return (1.0 + second) / (1.0 / first + late), own


def busiest_prompts(load: Load, dp: int, ends: float) -> float:
    """Prompt tokens on the rank with most of them, in a step that computes the prompts of one step [tokens].

    Parameters
    ----------
    load : Load
        Its prompt lengths.
    dp : int
        Ranks that prompts come to at random [1].
    ends : float
        Prompts that come in per step, over all ranks [1].

    Notes
    -----
    Each rank gets a compound Poisson load, whose distribution is the inverse transform of exp(rate (phi - 1)) for
    prompt lengths of transform phi; the expected largest of ``dp`` such loads is the sum of 1 - F^dp, divided by the
    probability that any prompt comes in.
    """
    rate = ends / dp
    cell = max(load.prompts) * (2.0 + rate + 6.0 * math.sqrt(rate)) / _CELLS
    places = np.maximum(np.rint(np.asarray(load.prompts) / cell).astype(np.int64), 1)
    lengths = np.bincount(places, minlength=_CELLS) / len(load.prompts)
    chance = np.fft.irfft(np.exp(rate * (np.fft.rfft(lengths) - 1.0)), _CELLS)
    below = np.clip(np.cumsum(chance), 0.0, 1.0)
    return float((1.0 - below**dp).sum() * cell / -math.expm1(-ends))


def _mean_step(
    timer: TableTimer, limits: Limits, running: float, load: Load, tokens: float, own: float, windows: int
) -> tuple[float, dict[str, float]]:
    """Average a step over windows of the routing trace, between the whole batch sizes around ``running``.

    Of the prompt ``tokens`` of the step, the busiest rank computes its ``own``.
    """
    # Fewer requests than ranks: the busiest rank holds one as soon as there is one.
    dp = limits.dp
    each = min(running / dp, limits.max_running) if running >= dp else min(running, 1.0)
    low = math.floor(each)
    sizes = {low: 1.0 - (each - low), low + 1: each - low}
    row = dict.fromkeys(STEP_COLUMNS, 0.0)
    for size, weight in sizes.items():
        total = max(round(running), size) if dp > 1 else size
        if weight <= 0.0 or (size == 0 and tokens <= 0.0):
            continue
        for _ in range(windows):
            work = _work(size, total, load, tokens, own, limits.query_tokens)
            _accumulate(row, work, timer.time(work), weight / windows)
    return row["duration_s"], row


def _work(size: int, total: int, load: Load, tokens: float, own: float, query_tokens: int) -> StepWork:
    """One step: ``size`` decoding and ``own`` prompt tokens on the busiest rank."""
    work = StepWork(query_tokens=query_tokens)
    if size:
        work.set_decode(running=total, most=size, sequences=size, context=load.context)
    if tokens:
        work.add_prompts(
            rows=work.rows + round(own),
            prompt_rows=round(own),
            sequences=max(round(own / load.inputs), 1),
            # Chunks of a prompt follow half of the rest of it on average.
            prefix=max(load.inputs - own, 0.0) / 2,
            total=round(tokens),
        )
    return work


def _accumulate(row: dict[str, float], work: StepWork, step: StepTime, weight: float) -> None:
    context = work.decode_total * work.decode_context
    values = step_row(work, step, instance=0, start=0.0, queue_length=0, kv_use=0.0, context=context)
    for name, value in zip(STEP_COLUMNS, values, strict=True):
        row[name] += weight * value


def steady_state(
    deployment: Deployment, trace: RequestTrace, instances: int, slo: Slo, capacity: Capacity
) -> tuple[Summary, dict[str, float]]:
    """Summarise the steady state of a load.

    Returns
    -------
    summary : Summary
        Means; percentiles are NaN, counts of the run 0.
    breakdown : dict of str to float
        Seconds by component per second of one instance, idle included.
    """
    load = mean_load(trace, instances)
    state = solve(deployment, load)
    mixed = deployment.limits.scheduler == "mixed"
    weights = np.array([1.0 - state.prompt_share if mixed else 1.0, state.prompt_share])
    breakdown = dict.fromkeys(COMPONENTS, 0.0)
    for index, weight in enumerate(weights):
        parts = deployment.timer().breakdown({name: column[index : index + 1] for name, column in state.steps.items()})
        for part, seconds in parts.items():
            breakdown[part] += weight * seconds
    busy = sum(breakdown.values())
    steps_per_s = state.rate * max(load.outputs - 1.0, 1e-9) / max(state.batch, 1e-9)
    breakdown = {part: seconds * steps_per_s for part, seconds in breakdown.items()}
    breakdown["idle"] = max(1.0 - busy * steps_per_s, 0.0)
    work = step_work(deployment, state.steps, weights)
    tpot = state.gap_s
    e2el = state.ttft_s + (load.outputs - 1.0) * tpot
    limits = ((state.ttft_s, slo.ttft), (tpot, slo.tpot), (e2el, slo.e2el))
    met = all(limit is None or value <= limit for value, limit in limits)
    rate = state.rate * instances
    spread = expert_spread(deployment.routing, max(round(state.batch), 1), _WINDOWS)
    summary = _summary(state, load, capacity, work, rate, steps_per_s, e2el, instances, spread, met=met)
    return summary, breakdown


def _summary(
    state: Steady,
    load: Load,
    capacity: Capacity,
    work: Work,
    rate: float,
    steps_per_s: float,
    e2el: float,
    instances: int,
    spread: tuple[float, float],
    *,
    met: bool,
) -> Summary:
    def mean(value: float) -> Distribution:
        return Distribution(mean=value, p50=_NAN, p90=_NAN, p99=_NAN)

    scale = steps_per_s * instances / capacity.devices
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
        # Over the time of all steps, in which an open loop may rest.
        batch_size_mean=state.batch if load.rate else state.rate * (load.outputs - 1.0) * state.gap_s,
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
