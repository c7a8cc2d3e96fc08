"""How many requests an instance can serve at most."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

from simulator.closed_form.load import Load
from simulator.closed_form.steady import most_running, solve
from simulator.closed_form.steps import MeanTimer
from simulator.deployment.deployment import Deployment

#: More requests than any instance serves [1/s], and more tokens than any step has [1].
_MOST_RATE, _BOUNDLESS = 1e9, 1 << 40
#: Parts of the routing trace over which a step is averaged [1].
_WINDOWS = 4


def capacity(deployment: Deployment, load: Load, role: Literal["both", "prefill", "decode"]) -> float:
    """Return the requests per second that one instance can serve at most [1/s].

    Parameters
    ----------
    deployment : Deployment
        What serves them.
    load : Load
        Their lengths; how many come does not matter.
    role : {"both", "prefill", "decode"}
        Whether it does all, computes prompts alone, or decodes alone.

    Notes
    -----
    An instance that does all, or prompts alone, is given more than any can serve. One that decodes alone has as many
    requests as its memory and its limits let in, each of which takes ``outputs - 1`` of its steps.
    """
    if role == "decode":
        if load.decodes <= 0.0:
            return math.inf
        most = most_running(replace(deployment.limits, token_budget=_BOUNDLESS), load)
        step = MeanTimer(deployment).mean(most, load, windows=_WINDOWS)
        return most / (load.decodes * step.duration)
    asked = replace(load, outputs=1.0) if role == "prefill" else load
    return solve(deployment, replace(asked, concurrency=0.0, rate=_MOST_RATE)).rate
