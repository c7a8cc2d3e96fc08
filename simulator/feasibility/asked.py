"""A deployment as a server sees it when it starts, and what it says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.conditions import Condition, Effect
from simulator.parallelism import Parallelism
from simulator.stack import StackProfile
from workloads.models.spec import ModelSpec, Phase

#: What divides the sources of a condition, the first of which stands in the message.
_SOURCES = "; "
#: What a sentence says after the name of a server that does not serve this.
_REFUSES = " refuses this: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be served.

    Attributes
    ----------
    model : ModelSpec
        The model in the dtypes that are asked for.
    split : Parallelism
        How one instance is split.
    stack : StackProfile
        The stack with the scenario's changes.
    device, architecture : str
        The device's name and generation.
    phases : tuple of str
        What the instance runs: prompts, decoding or both.
    drafts : int
        Tokens drafted per step [1].
    draft : str
        What drafts them: ``mtp`` or ``none``.
    redundant_slots : int
        Expert slots beyond one per expert [1].
    prefix_cache : bool
        Whether beginnings of prompts are kept.
    decoding : int
        Requests that a rank decodes at once, as far as the load says [1]; 0 where it does not.
    longest : int
        Longest request [tokens]; 0 where it is not known.
    exchange_chosen : bool
        Whether the scenario asks for its exchange; a server goes without the default one where that does not run.
    """

    model: ModelSpec
    split: Parallelism
    stack: StackProfile
    device: str
    architecture: str
    phases: tuple[Phase, ...] = ("prefill", "decode")
    drafts: int = 0
    draft: str = "mtp"
    redundant_slots: int = 0
    prefix_cache: bool = False
    decoding: int = 0
    longest: int = 0
    exchange_chosen: bool = False

    @property
    def exchanges(self) -> dict[Phase, str]:
        """How tokens travel to experts in each phase; nothing where they do not."""
        if not self.split.exchanges_tokens or not self.model.moe_layers:
            return {}
        return {phase: self.stack.exchange_for(phase).name for phase in self.phases}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a rule found: the scenario key to blame, what is wrong, and what would mend it."""

    where: str
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFinding:
    """What a server says of a deployment.

    Attributes
    ----------
    effect : {"refuses", "warns"}
        Whether it serves at all.
    where : str
        The scenario key.
    message : str
        The whole sentence, with the server's name and the first source.
    remedy : str
        What would mend it.
    source : str
        Where the condition was read.
    """

    effect: Effect
    where: str
    message: str
    remedy: str
    source: str


def refusals(warnings: Sequence[str]) -> tuple[str, ...]:
    """Pick the sentences of an answer's warnings by which a server refuses what was asked."""
    return tuple(warning for warning in warnings if _REFUSES in warning)


def said(condition: Condition, found: Found, server: str) -> ServerFinding:
    """Put what a rule found into the words of a finding."""
    verb = _REFUSES if condition.effect == "refuses" else ": "
    end = f"; {condition.note}" if condition.note else ""
    versions = f", {condition.versions}" if condition.versions else ""
    source = condition.source.split(_SOURCES)[0]
    return ServerFinding(
        effect=condition.effect,
        where=found.where,
        message=f"{server}{verb}{found.message}{end} ({source}{versions})",
        remedy=found.remedy or condition.remedy,
        source=condition.source,
    )
