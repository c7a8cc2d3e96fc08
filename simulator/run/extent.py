"""How long a run is: what can be said of its steps, their memory and its warm-up before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from simulator.scenario import Scenario
from simulator.step.work import StepWork
from workloads.memory import allowed_memory, require_memory
from workloads.requests.trace import RequestTrace

if TYPE_CHECKING:
    from simulator.serving.plan import PoolPlan

#: What a recorded step takes with its gaps, as a day of ten million of them shows [bytes].
STEP_BYTES = 110.0
#: Memory from which a run's need is worth a word [bytes].
_WORTH_A_WORD = 4e9


def most_steps(pools: Sequence[PoolPlan], trace: RequestTrace) -> int:
    """Return about how many steps a load takes at most [1].

    A step emits a token of everybody who runs. In a closed loop so many run; in an open loop instances take hardly more
    steps than go one after the other, each of one request, from the first arrival to the last.
    """
    decode = next(pool for pool in pools if pool.role != "prefill")
    limits, tokens = decode.deployment.limits, int(trace.output_tokens.sum())
    if trace.concurrency is not None:
        return tokens // max(min(trace.concurrency, len(trace)), 1)
    work = StepWork.decode(1, float(trace.input_tokens.mean()), dp=limits.dp, query_tokens=limits.query_tokens)
    span = float(trace.arrival.max() - trace.arrival.min())
    return int(min(tokens, decode.instances * span / decode.deployment.engine_timer().time(work).duration))


def require_extent(pools: Sequence[PoolPlan], trace: RequestTrace) -> None:
    """Refuse a run whose steps no memory holds.

    Raises
    ------
    WorkloadError
        They take more than this process may have.
    """
    # Steps of many requests are longer than those of one.
    require_memory("requests: the steps of the run", most_steps(pools, trace) // 2, STEP_BYTES)


def extent_notes(pools: Sequence[PoolPlan], trace: RequestTrace) -> Iterator[str]:
    """Say what a long run takes."""
    steps = most_steps(pools, trace)
    if steps * STEP_BYTES > min(_WORTH_A_WORD, allowed_memory() / 2):
        yield f"the run takes up to about {steps:,} steps, and these {steps * STEP_BYTES / 1e9:.0f} GB of memory"


def warmup_notes(scenario: Scenario, trace: RequestTrace) -> Iterator[str]:
    """Say where the warm-up leaves nothing to measure."""
    left_out = scenario.run.warmup_requests
    if left_out is not None and left_out >= len(trace):
        yield (
            f"run.warmup_requests = {left_out:,} would leave out all {len(trace):,} requests; the last one is measured "
            "all the same"
        )
