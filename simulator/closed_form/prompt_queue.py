"""Open loops whose answers have one token: no decode step exists, and prompts queue for steps of their own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from simulator.arrays import FloatArray
from simulator.closed_form.load import Load
from simulator.closed_form.steps import MeanStep, MeanTimer, columns
from simulator.deployment.deployment import Deployment

#: Prompts of one step, and such that wait, that are told apart; more are bundled [1].
_MOST_IN_STEP, _MOST_WAITING = 192, 256
#: Numbers of prompts for which a step is priced; others lie on lines between them [1].
_PRICED = 24
#: Share of its capacity from which a queue is taken to grow without end [1].
_FULL = 0.999
#: Rate of arrivals that never meet [1/s].
_RAREST = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptQueue:
    """A steady queue of prompts: time to first token [s], requests per second, and the mean of its steps.

    ``steps`` holds one row of ``STEP_COLUMNS`` per number of prompts in a step, ``weights`` how many of these steps
    there are per second [1/s].
    """

    ttft_s: float
    rate: float
    saturated: bool
    steps: dict[str, FloatArray]
    weights: FloatArray


def serve_prompts(deployment: Deployment, load: Load, windows: int) -> PromptQueue:
    """Solve the queue of an open loop of one-token answers.

    Parameters
    ----------
    deployment : Deployment
        What prices steps and bounds them.
    load : Load
        An open loop.
    windows : int
        Parts of the routing trace over which a step is averaged [1].

    Notes
    -----
    Arrivals are Poisson and prompts have their mean length, so the number of prompts that wait as a step ends is a
    Markov chain: from q the next step takes min(max(q, 1), most) prompts, and a Poisson number comes while it runs.
    Its stationary distribution gives the mean number of requests in the instance, and Little's law their time there.
    A prompt longer than the budget of a step has several steps for itself. Wrong where arrivals come in bursts, and too
    long where a balancer spreads them over instances better than chance.
    """
    limits, frontend = deployment.limits, deployment.stack.number("frontend")
    budget = float(limits.token_budget)
    chunks = max(math.ceil(load.inputs / budget), 1)
    most = max(int(budget / load.inputs), 1) * limits.dp
    bundle = max(math.ceil(most / _MOST_IN_STEP), 1)
    sizes = np.arange(1, max(most // bundle, 1) + 1)
    grid = np.unique(np.rint(np.geomspace(1, sizes[-1], _PRICED)))
    timer = MeanTimer(deployment)
    priced = columns(_prompt_step(timer, load, size * bundle, chunks, windows) for size in grid.tolist())
    steps = {name: np.interp(sizes, grid, values) for name, values in priced.items()}
    duration = chunks * steps["duration_s"]
    arrivals = max(load.rate, _RAREST) / bundle
    capacity = float((sizes / duration).max())
    saturated = arrivals >= _FULL * capacity
    if saturated:
        often = np.where(sizes == sizes[-1], 1.0 / duration[-1], 0.0)
        inside = math.nan
    else:
        often, inside = _stationary(arrivals, duration, limits.delivery_steps)
    return PromptQueue(
        ttft_s=frontend + inside / arrivals,
        rate=min(load.rate, capacity * bundle),
        saturated=saturated,
        steps=steps,
        weights=often * chunks,
    )


def _prompt_step(timer: MeanTimer, load: Load, prompts: float, chunks: int, windows: int) -> MeanStep:
    """Price a step of so many prompts over all ranks, or one of the ``chunks`` of a longer one."""
    limits = timer.limits
    timer.restart()
    own = min(math.ceil(prompts / limits.dp) * load.inputs / chunks, float(limits.token_budget))
    tokens = prompts * load.inputs / chunks
    return timer.mean(0.0, load, tokens=tokens, own=own, windows=windows)


def _stationary(arrivals: float, duration: FloatArray, behind: int) -> tuple[FloatArray, float]:
    """Return how often steps of every size begin [1/s], and the mean number of requests that have no answer yet [1].

    Parameters
    ----------
    arrivals : float
        Requests per second [1/s].
    duration : array, shape (sizes,)
        Time of a step with 1, 2, ... requests [s].
    behind : int
        Further steps after which users have their answers, unless the instance rests before [1].
    """
    waiting = np.arange(_MOST_WAITING)
    served = np.clip(waiting, 1, len(duration))
    lasting = duration[served - 1]
    during = arrivals * lasting
    left = np.maximum(waiting - served, 0)
    factorial = np.cumsum(np.log(np.maximum(waiting, 1)))
    chance = np.exp(waiting * np.log(during)[:, None] - during[:, None] - factorial)
    moves = np.zeros((_MOST_WAITING, _MOST_WAITING))
    for state in range(_MOST_WAITING):
        moves[state, left[state] :] = chance[state, : _MOST_WAITING - left[state]]
        moves[state, -1] += max(1.0 - moves[state].sum(), 0.0)
    # The last equation of balance follows from the others; that all shares add up to 1 takes its place.
    balance = moves.T - np.eye(_MOST_WAITING)
    balance[-1] = 1.0
    share = np.linalg.solve(balance, np.append(np.zeros(_MOST_WAITING - 1), 1.0))
    late = np.zeros(_MOST_WAITING)
    for _ in range(behind):
        late = np.where(waiting > 0, lasting + moves @ late, 0.0)
    time = float(share @ (lasting + (waiting == 0) / arrivals))
    inside = share @ ((np.maximum(waiting, 1) + during / 2.0) * lasting + served * (moves @ late))
    return np.bincount(served - 1, share, minlength=len(duration)) / time, float(inside) / time
