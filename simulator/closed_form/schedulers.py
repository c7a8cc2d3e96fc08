"""The steady-state twins of the schedulers: what each policy does to the mean step, request and round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

from simulator.closed_form.load import Load
from simulator.closed_form.numbers import Number, larger, rounded_up, smaller
from simulator.deployment.limits import Limits
from simulator.scenario.sections import Scheduler as SchedulerName


class SteadyScheduler(Protocol):
    """What the closed form asks of a scheduler; each that the table of features does not refuse has one.

    All but the first answer of one load, or of many at once.
    """

    def most_running(self, limits: Limits, load: Load) -> float:
        """Requests that can decode on a rank while as many prompts come in as requests end [1]."""

    def budget(self, limits: Limits, decoding: Number) -> Number:
        """Prompt tokens that a step has room for on a rank where so many requests decode [tokens]."""

    def decoding(self, running: Number) -> Number:
        """Of so many requests that run, those that decode in a step with prompts [1]."""

    def late(self, frontend: float, decode: Number) -> Number:
        """Decode steps that pass before a prompt arrives that others made room for [1].

        Parameters
        ----------
        frontend : float
            Time from its start until the scheduler sees it [s].
        decode : float
            Time of a decode step [s].
        """

    def step_shares(self, share: Number, beside: Number) -> tuple[Number, Number]:
        """Steps without and with prompts per step in which requests decode [1].

        Parameters
        ----------
        share : float
            Steps with prompts that are asked for [1].
        beside : float
            Share of these that find requests which decode [1].
        """

    def gap(self, decode: Number, prefill: Number, met: Number) -> Number:
        """Time between two tokens of a request [s].

        Parameters
        ----------
        decode, prefill : float
            Time of a step without and with prompts [s].
        met : float
            Steps with prompts of others that it meets per token [1].
        """

    def missed(self, chunks: Number) -> Number:
        """Decode steps of the others that a prompt of so many chunks takes [1]."""


class MixedSteady:
    """Prompt chunks and decoding share steps: prompts make some steps longer, and the batch takes budget from them."""

    def most_running(self, limits: Limits, load: Load) -> float:
        """Leave room for the prompt tokens that keep the batch full."""
        return limits.token_budget / (1.0 + load.inputs / max(load.decodes, 1.0))

    def budget(self, limits: Limits, decoding: Number) -> Number:
        """Decoded tokens count against the budget."""
        return larger(limits.token_budget - decoding * limits.query_tokens, 1.0)

    def decoding(self, running: Number) -> Number:
        """All go on."""
        return running

    def late(self, frontend: float, decode: Number) -> Number:  # noqa: ARG002
        """Nobody stops for a prompt, so none comes late."""
        return 0

    def step_shares(self, share: Number, beside: Number) -> tuple[Number, Number]:
        """Requests decode in steps with prompts or without."""
        share = smaller(share, 1.0 / beside)
        return 1.0 - share * beside, share

    def gap(self, decode: Number, prefill: Number, met: Number) -> Number:
        """A token takes one step of either kind."""
        return (1.0 - met) * decode + met * prefill

    def missed(self, chunks: Number) -> Number:
        """The others decode in the steps of its chunks."""
        return chunks


class PrefillFirstSteady:
    """Prompts have steps of their own, during which decoding stands still."""

    def most_running(self, limits: Limits, load: Load) -> float:  # noqa: ARG002
        """Prompts take no budget from those that decode."""
        return math.inf

    def budget(self, limits: Limits, decoding: Number) -> Number:  # noqa: ARG002
        """The whole budget."""
        return float(limits.token_budget)

    def decoding(self, running: Number) -> Number:  # noqa: ARG002
        """Nobody."""
        return 0.0

    def late(self, frontend: float, decode: Number) -> Number:
        """Decode steps that the frontend takes."""
        return rounded_up(frontend / decode)

    def step_shares(self, share: Number, beside: Number) -> tuple[Number, Number]:  # noqa: ARG002
        """Steps with prompts come on top."""
        return 1.0, share

    def gap(self, decode: Number, prefill: Number, met: Number) -> Number:
        """A token takes a decode step, and the steps with prompts that come between."""
        return decode + met * prefill

    def missed(self, chunks: Number) -> Number:  # noqa: ARG002
        """The others wait too."""
        return 0.0


STEADY_SCHEDULERS: Mapping[SchedulerName, SteadyScheduler] = {
    "mixed": MixedSteady(),
    "prefill_first": PrefillFirstSteady(),
}
