"""What a scheduler decides of the next step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.step.work import KnownExperts


@dataclass(slots=True)
class Chunk:
    """Tokens of one prompt in one step, after ``prefix`` that are in the KV cache [tokens]."""

    rank: int
    request: int
    tokens: int
    prefix: int


@dataclass(slots=True)
class StepPlan:
    """What the next step holds: chunks of prompts, and whether the running requests decode.

    Attributes
    ----------
    chunks : sequence of Chunk
        Prompt tokens.
    decodes : bool
        Whether running requests decode: all but those that are ``held``.
    held : sequence of int
        Requests that run and do not go in this step, though others do.
    held_tokens : float
        KV tokens that these hold [tokens].
    experts : KnownExperts or None
        The experts of the tokens, where they are known before the step.
    """

    chunks: Sequence[Chunk]
    decodes: bool
    held: Sequence[int] = ()
    held_tokens: float = 0.0
    experts: KnownExperts | None = None


#: Plans that most steps share, so that none is made anew where only decoding goes on.
DECODE = StepPlan((), decodes=True)
NOTHING = StepPlan((), decodes=False)
