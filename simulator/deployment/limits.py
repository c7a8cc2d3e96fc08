"""What bounds the steps and batches of an instance."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from simulator.deployment.layout import Layout
from simulator.scenario import Scenario
from simulator.scenario.sections import Offload, Scheduler
from simulator.step.speculation import tokens_per_step


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds a step and a batch, per data-parallel rank.

    Attributes
    ----------
    dp : int
        Data-parallel attention ranks, each with its own requests and KV pool [1].
    token_budget : int
        Tokens of one step on one rank [tokens].
    max_running : int
        Requests that a rank runs at once [1].
    pool : float
        KV pool of a rank, on one of its devices [bytes].
    kv_per_token, kv_per_sequence : float
        What a sequence takes of the pool [bytes].
    scheduler : str
        Whether prompt chunks share steps with decoding: a key of ``simulator.serving.scheduler.SCHEDULERS``.
    chunked : bool
        Whether a prompt may be split over steps; otherwise only one longer than the budget is.
    reserved_output : float
        Share of a request's answer for which admission reserves KV cache: 0 admits what fits now and preempts when
        memory runs out, 1 never preempts [1].
    preemption : {"recompute", "swap"}
        What becomes of a preempted request's KV cache: thrown away, or moved to the host and back.
    swap_rate : float
        Rate at which one device moves KV cache to the host or back [bytes/s].
    delivery_steps : int
        Steps after which a step's first tokens and last tokens reach the user, where the host works a step behind [1].
    query_tokens : int
        Tokens of a request in a decode step; above 1 with speculative decoding [1].
    accepted_per_step : float
        Tokens of these that are accepted on average, the one that every step yields included [1].
    offload : Offload
        How ``expert_aware`` batches, and which experts the device holds.
    """

    dp: int
    token_budget: int
    max_running: int
    pool: float
    kv_per_token: float
    kv_per_sequence: float
    scheduler: Scheduler
    chunked: bool
    reserved_output: float = 0.0
    preemption: Literal["recompute", "swap"] = "recompute"
    swap_rate: float = float("inf")
    delivery_steps: int = 0
    query_tokens: int = 1
    accepted_per_step: float = 1.0
    offload: Offload = field(default_factory=Offload)


def instance_limits(scenario: Scenario, laid: Layout) -> Limits:
    """Bound the steps and batches of one instance by its stack and its memory, whatever the load.

    Parameters
    ----------
    scenario : Scenario
        How it preempts and how many tokens it drafts.
    laid : Layout
        The instance: what its stack takes into a step, and the KV pool of its devices.
    """
    stack, split, budget = laid.stack, laid.split, laid.budget
    most = int(stack.number("max_running"))
    if budget.kv_per_sequence > 0:
        most = min(most, max(int(budget.pool / budget.sequence_bytes(1)), 1))
    return Limits(
        dp=split.dp,
        token_budget=int(stack.number("token_budget")),
        max_running=max(most, 1),
        pool=budget.pool,
        kv_per_token=budget.kv_per_token,
        kv_per_sequence=budget.kv_per_sequence,
        scheduler=stack.scheduler,
        chunked=stack.chunked,
        delivery_steps=int(stack.number("delivery_steps")),
        reserved_output=stack.number("reserved_output"),
        preemption=scenario.stack.preemption,
        query_tokens=1 + scenario.speculation.draft_tokens,
        accepted_per_step=tokens_per_step(scenario.speculation),
        swap_rate=laid.hardware.host_bandwidth,
        offload=scenario.offload,
    )


def loaded_limits(limits: Limits, concurrency: int) -> Limits:
    """Bound batches by the load too: so many requests are in flight at most, 0 where nothing bounds them [1]."""
    if not concurrency:
        return limits
    return replace(limits, max_running=max(min(limits.max_running, -(-concurrency // limits.dp) + 1), 1))
