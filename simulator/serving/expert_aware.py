"""Batching for a model whose router runs before the step: steps are made of requests that need the same experts.

Because the router has named the expert of every token that is ready, a scheduler may put tokens of one expert into a
step and leave the others for later; the step then reads fewer weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import IntArray
from simulator.deployment.limits import Limits
from simulator.errors import ScenarioError
from simulator.offload.residency import Residency
from simulator.scenario.sections import Opening
from simulator.serving.batch import Batch
from simulator.serving.prompt_queues import PromptQueues
from simulator.serving.request_experts import RequestExperts
from simulator.serving.state import RequestState, RunState
from simulator.serving.step_plan import NOTHING, StepPlan
from simulator.step.pregated import PregatedTimer
from simulator.step.timer import StepTimer
from simulator.step.work import KnownExperts


def expert_aware(run_state: RunState, limits: Limits, timer: StepTimer) -> ExpertAware:
    """Make the scheduler of one instance.

    Raises
    ------
    ScenarioError
        The experts of the requests or their prices are not known, or the instance is not a single plain rank.
    """
    if run_state.experts is None or not isinstance(timer, PregatedTimer):
        raise ScenarioError(
            "stack.scheduler: 'expert_aware' needs the experts of all tokens before the step, and their prices"
        )
    if limits.dp != 1 or limits.accepted_per_step != 1:
        raise ScenarioError("stack.scheduler: 'expert_aware' needs one rank and a token per step")
    return ExpertAware(run_state.state, run_state.experts, limits, timer)


class ExpertAware:
    """Takes the longest queue of ready tokens that need the same expert, then perhaps the next; or who else goes first.

    The next token of a request to be computed is at ``experts.start`` plus what its KV cache holds, in the numbering of
    the experts. All choices are made over columns of the requests that were admitted, in that order.
    """

    def __init__(self, state: RequestState, experts: RequestExperts, limits: Limits, timer: PregatedTimer) -> None:
        self._experts, self._timer, self._budget = experts, timer, limits.token_budget
        self._choice = limits.offload
        # NOTE: views of the columns of the state, which is written to all along.
        self._prompt, self._joined, self._due = (
            np.frombuffer(column, dtype=np.int64) for column in (state.prompt, state.joined, state.due)
        )
        self._running: list[int] = []
        self._steps = 0
        # Step in which each request had its last turn, or was admitted.
        self._since = np.zeros(len(state.output), dtype=np.int64)
        self._residency = Residency(experts.num_experts, self._choice.resident)

    def next_step(self, queues: PromptQueues, batch: Batch, limits: Limits) -> StepPlan:  # noqa: ARG002
        """Admit all that fit, choose who goes, and bring their experts to the device."""
        new = queues.admit()
        computed = queues.computing(0)
        before = [each for each in self._running if each in computed or self._due[each] >= 0]
        self._running = [*before, *new]
        self._since[new] = self._steps
        if not self._running:
            return NOTHING
        running = np.array(self._running, dtype=np.int64)
        done = np.array([computed.get(each, -1) for each in self._running], dtype=np.int64)
        prompting = done >= 0
        held = np.where(prompting, done, self._prompt[running] + batch.index - self._joined[running])
        at = self._experts.start[running] + held
        limit = np.where(prompting, self._experts.start[running] + self._prompt[running], at + 1)
        tokens = self._choose(running, at, limit, prompting)
        going = tokens > 0
        self._since[running[going]] = self._steps = self._steps + 1
        staying = ~prompting & ~going
        decodes = bool((~prompting & going).any())
        chunks = queues.take(0, dict(zip(self._running, np.where(prompting, tokens, 0).tolist(), strict=True)))
        return StepPlan(
            chunks,
            decodes,
            held=running[staying].tolist() if decodes else (),
            held_tokens=float(held[staying].sum()),
            experts=self._known(at, tokens, follows=bool(before)),
        )

    def _choose(self, running: IntArray, at: IntArray, limit: IntArray, prompting: NDArray[np.bool_]) -> IntArray:
        """Return how many tokens each of the running requests has in the next step."""
        first = self._choice.first
        if first == "expert":
            return self._by_expert(running, at, limit, prompting)
        wanted = limit - at
        order = np.argsort(prompting if first == "decode" else ~prompting, kind="stable")
        tokens = np.zeros(len(running), dtype=np.int64)
        tokens[order] = within(wanted[order], self._budget)
        return tokens

    def _by_expert(self, running: IntArray, at: IntArray, limit: IntArray, prompting: NDArray[np.bool_]) -> IntArray:
        """Take queue after queue, the longest first and those that waited too long before all."""
        experts, room, turns = self._experts, self._budget, 0
        late = self._steps - self._since[running] >= self._choice.patience
        tokens = np.zeros(len(running), dtype=np.int64)
        active = np.zeros(experts.num_experts, dtype=bool)
        active[experts.ids[at[late]]] = True
        # A prompt needs most experts before it is done, and every step that holds a part of it pays its host time anew.
        opening: Opening = self._choice.opening
        if opening == "worthwhile" and prompting.any():
            opening = "all"
        while room > 0:
            place = at + tokens
            left = np.flatnonzero(place < limit)
            if not len(left):
                break
            place = place[left]
            expert = experts.ids[place]
            ready = np.minimum(experts.run_end[place], limit[left]) - place
            going = active[expert]
            if not going.any():
                # Requests are counted, not tokens: else a prompt with a long run would outweigh those that answer.
                queue = np.bincount(expert, minlength=experts.num_experts)
                longest = int(np.argmax(queue))
                if turns and not self._opens(opening, turns, min(int(queue[longest]), room), active):
                    break
                active[longest] = True
                going = expert == longest
            # Those that wait too long before others, then in order of admission.
            order = np.flatnonzero(going)[np.argsort(~late[left[going]], kind="stable")]
            more = within(ready[order], room)
            tokens[left[order]] += more
            room -= int(more.sum())
            turns += int(np.count_nonzero(more))
        return tokens

    def _opens(self, opening: Opening, turns: int, more: int, active: NDArray[np.bool_]) -> bool:
        """Whether a step in which so many requests had their turn takes more of them, with a further expert."""
        if opening != "worthwhile":
            return opening == "all"
        opened = int(np.count_nonzero(active))
        so_far = self._timer.rest + opened * self._timer.expert(turns // opened or 1)
        return more * so_far >= turns * self._timer.expert(more)

    def _known(self, at: IntArray, tokens: IntArray, *, follows: bool) -> KnownExperts:
        """Count the tokens of every expert, and fetch those experts that are missing."""
        ids, experts = self._experts.ids, self._experts.num_experts
        ends = np.cumsum(tokens)
        every = np.repeat(at - ends + tokens, tokens) + np.arange(int(ends[-1]))
        by_expert = np.bincount(ids[every], minlength=experts)
        waiting = np.bincount(ids[at], minlength=experts)
        missing = self._residency.bring(np.flatnonzero(by_expert).tolist(), waiting.tolist())
        return KnownExperts(by_expert.tolist(), missing, follows)


def within(wanted: IntArray, room: int) -> IntArray:
    """Give each what it wants, one after another, as long as there is room.

    Examples
    --------
    >>> within(np.array([3, 4, 5]), 6).tolist()
    [3, 3, 0]
    """
    return np.clip(wanted - np.maximum(np.cumsum(wanted) - room, 0), 0, None)
