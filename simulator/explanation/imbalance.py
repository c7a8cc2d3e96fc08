"""What uneven routing costs a step: waits for the busiest rank, less the weights that are not read."""

from __future__ import annotations

from dataclasses import dataclass, replace

from simulator.deployment.deployment import Deployment, balanced_replay
from simulator.explanation.priced import priced_step, step_gap
from simulator.placement.replay import spread_of_counts
from simulator.results.values import ImbalanceCost
from simulator.scenario import Scenario
from simulator.step.work import StepWork

#: Windows of the routing trace over which touched experts are counted [1].
_WINDOWS = 8


def imbalance_cost(scenario: Scenario, deployment: Deployment, work: StepWork) -> ImbalanceCost | None:
    """Compare a step with the same one under ``routing.kind = "balanced"``; ``None`` for a dense model.

    Parameters
    ----------
    scenario : Scenario
        What the deployment was made of.
    deployment : Deployment
        What runs the step.
    work : StepWork
        The step.

    Notes
    -----
    A step is priced four times: under either routing as it is, and as if every rank were as loaded as the mean one.
    What the former takes longer than the latter is waiting; what remains of the difference is the work of the mean
    rank's experts. Of what these take less, not more than the share of slots that are no longer touched is put down to
    weights that are not read: the rest is kernels whose tiles the rows fill otherwise. Whole steps are compared, what
    the host cannot hide included, so that both parts add up to the difference. They are those of one batch whose ops
    follow each other: what an overlap would hide of a wait is not taken off.
    """
    routing = deployment.routing
    if routing is None:
        return None
    even = replace(deployment, routing=balanced_replay(scenario, deployment))
    given, balanced = _steps(deployment, work), _steps(even, work)
    tokens = work.stage_tokens(deployment.split.pp)
    active, balanced_active = (
        spread_of_counts(each.routing.counts(work.phase, tokens, _WINDOWS))[1] if each.routing else 1.0
        for each in (deployment, even)
    )
    experts_s = given.level_s - balanced.level_s
    untouched = max(1.0 - active / balanced_active, 0.0) if balanced_active > 0.0 else 0.0
    return ImbalanceCost(
        phase=work.phase,
        step_s=given.step_s,
        balanced_step_s=balanced.step_s,
        waiting_s=(given.step_s - given.level_s) - (balanced.step_s - balanced.level_s),
        messages_s=given.messages_s - balanced.messages_s,
        experts_s=experts_s,
        unread_s=-min(max(-experts_s, 0.0), untouched * balanced.experts_s),
        active=active,
        balanced_active=balanced_active,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Steps:
    """A step, the same as if each rank were as loaded as the mean, and of the difference what messages are [s].

    ``experts_s`` is what the mean rank's experts take [s].
    """

    step_s: float
    level_s: float
    messages_s: float
    experts_s: float


def _steps(deployment: Deployment, work: StepWork) -> _Steps:
    times = priced_step(deployment, work)
    # Without an exchange, nothing but the waits knows of the busiest rank.
    level = priced_step(deployment, work, level=True) if deployment.split.exchanges_tokens else times
    busy = sum(float(time.seconds + time.imbalance_wait) for time in times)
    busy_level = sum(float(time.seconds) for time in level)
    return _Steps(
        step_s=busy + step_gap(deployment, work, busy),
        level_s=busy_level + step_gap(deployment, work, busy_level),
        messages_s=sum(float(time.seconds) for time in times) - busy_level,
        experts_s=sum(float(time.seconds) for time in level if time.op.component == "experts"),
    )
