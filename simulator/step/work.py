"""The work of one step of an instance, and the time that it takes: the one description that everything shares.

The engine fills a :class:`StepWork` from its batch, the closed form from means, explanation and timeline from what the
user asks for. :meth:`StepWork.shape` is the only door from there to ops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.arrays import FloatArray, IntArray
from simulator.ops import Op, StepShape, build_ops, draft_ops
from simulator.parallelism import Parallelism
from simulator.schedule.mechanisms import Overlap
from simulator.stack import StackProfile
from workloads.models.spec import ModelSpec, Phase

LoadArray = NDArray[np.unsignedinteger]


@dataclass(frozen=True, slots=True)
class KnownExperts:
    """What is known of the experts of a step before it runs, where the router runs before it.

    Attributes
    ----------
    tokens : sequence of int
        Tokens of the step by expert [tokens].
    missing : int
        Experts among them that are not on the device [1].
    follows : bool
        Whether requests of the step before go on, so that the experts could be fetched while it ran.
    """

    tokens: Sequence[int]
    missing: int
    follows: bool


@dataclass(slots=True)
class StepWork:
    """What one step of an instance does; a single value that the scheduler fills anew for every step.

    Attributes
    ----------
    rows : int
        Tokens of the busiest data-parallel rank, drafted ones included [tokens].
    decode_rows : int
        Decoded sequences of the rank with most context [1].
    decode_context : float
        Mean KV length that they attend to [tokens].
    prompt_rows, prompt_sequences : int
        Prompt tokens of the rank with most of them [tokens], and the prompts that they belong to [1].
    prompt_prefix : float
        Mean tokens of these prompts that are cached already [tokens].
    prompt_total, decode_total : int
        Tokens of all ranks, drafted ones included [tokens].
    logits : int
        Rows that reach the LM head of the busiest rank [1].
    running : int
        Requests that decode on all ranks [1].
    query_tokens : int
        Tokens of a decoded sequence in a step, more than one where drafts are verified [1].
    known_experts : KnownExperts or None
        The experts of its tokens, where they are known before it runs.
    """

    rows: int = 0
    decode_rows: int = 0
    decode_context: float = 0.0
    prompt_rows: int = 0
    prompt_sequences: int = 0
    prompt_prefix: float = 0.0
    prompt_total: int = 0
    decode_total: int = 0
    logits: int = 0
    running: int = 0
    query_tokens: int = 1
    known_experts: KnownExperts | None = None

    @classmethod
    def decode(cls, sequences: int, context: float, *, dp: int = 1, query_tokens: int = 1) -> StepWork:
        """Describe a step that decodes.

        Parameters
        ----------
        sequences : int
            Sequences over all ranks [1].
        context : float
            KV length of each [tokens].
        dp : int
            Ranks that they are dealt to evenly [1].
        query_tokens : int
            Tokens of each in the step [tokens].

        Examples
        --------
        >>> work = StepWork.decode(10, 500.0, dp=4, query_tokens=2)
        >>> work.decode_rows, work.rows, work.decode_total
        (3, 6, 20)
        """
        work, own = cls(query_tokens=query_tokens), -(-sequences // dp)
        work.set_decode(running=sequences, most=own, sequences=own, context=context)
        return work

    @classmethod
    def prefill(cls, sequences: int, tokens: int, *, dp: int = 1, prefix: float = 0.0) -> StepWork:
        """Describe a step that computes prompts.

        Parameters
        ----------
        sequences, tokens : int
            Prompts over all ranks, and new tokens of all of them together [1], [tokens].
        dp : int
            Ranks that they are dealt to evenly [1].
        prefix : float
            Tokens of each that are cached already [tokens].

        Examples
        --------
        >>> work = StepWork.prefill(2, 2000, dp=4)
        >>> work.prompt_sequences, work.rows, work.prompt_total
        (1, 1000, 2000)
        """
        work, own = cls(), -(-sequences // dp)
        rows = own * tokens // sequences
        work.add_prompts(rows=rows, prompt_rows=rows, sequences=own, prefix=prefix, total=tokens)
        return work

    def set_decode(self, running: int, most: int, sequences: int, context: float) -> None:
        """Make this a step that decodes ``running`` sequences over all ranks, and nothing else.

        Parameters
        ----------
        running, most, sequences : int
            Decoded sequences over all ranks, of the rank with most of them, and of the rank with most context [1].
        context : float
            Mean KV length on the last [tokens].
        """
        tokens = most * self.query_tokens
        self.rows = self.logits = tokens
        self.decode_rows, self.decode_context = sequences, context
        self.decode_total, self.running = running * self.query_tokens, running
        self.prompt_rows = self.prompt_sequences = self.prompt_total = 0

    def clear(self, *, running: int) -> None:
        """Make this a step without work, in which so many requests wait to decode."""
        self.rows = self.logits = self.decode_rows = self.decode_total = 0
        self.prompt_rows = self.prompt_sequences = self.prompt_total = 0
        self.running = running

    def add_prompts(self, *, rows: int, prompt_rows: int, sequences: int, prefix: float, total: int) -> None:
        """Add prompt tokens to the step.

        Parameters
        ----------
        rows : int
            Tokens of the busiest rank, decoded ones included [tokens].
        prompt_rows, sequences, total : int
            Prompt tokens of the rank with most of them, prompts there, and prompt tokens over all ranks [tokens], [1].
        prefix : float
            Mean cached tokens before a chunk on that rank [tokens].
        """
        self.rows, self.prompt_rows, self.prompt_sequences = rows, prompt_rows, sequences
        self.prompt_prefix, self.prompt_total = prefix, total
        self.logits = sequences + self.decode_rows * self.query_tokens

    @property
    def phase(self) -> Phase:
        """Which kernels run: those of prompts as soon as there is a prompt token."""
        return "prefill" if self.prompt_total else "decode"

    def stage_tokens(self, pp: int) -> int:
        """Tokens over all ranks that one of so many pipeline stages has in flight [tokens]."""
        return -(-self.prompt_total // pp) + -(-self.decode_total // pp)

    def shape(self, split: Parallelism, stack: StackProfile, *, max_rank_share: float = 1.0) -> StepShape:
        """Return what the ops of this step work on, on the busiest rank of a pipeline stage.

        Parameters
        ----------
        split : Parallelism
            Its stages, each of which has a part of the batch in flight.
        stack : StackProfile
            How CUDA graphs pad a step that only decodes.
        max_rank_share : float
            What the busiest expert rank receives, in multiples of the mean [1].
        """
        pp = split.pp
        rows = -(-self.rows // pp)
        return StepShape(
            prefill_tokens=self.prompt_rows / pp,
            prefill_sequences=max(self.prompt_sequences / pp, 1.0) if self.prompt_total else 0.0,
            prefill_prefix=self.prompt_prefix,
            decode_sequences=max(self.decode_rows / pp, 1.0) if self.decode_rows else 0.0,
            decode_context=self.decode_context,
            decode_query_tokens=float(self.query_tokens),
            tokens=float(rows if self.prompt_total else graph_rows(rows, stack)),
            group_tokens=float(self.stage_tokens(pp)),
            max_rank_share=max_rank_share,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSeries:
    """The work of steps that follow each other: fields of ``StepWork`` as arrays of shape (steps,)."""

    rows: IntArray
    decode_rows: IntArray
    decode_context: FloatArray
    prompt_rows: IntArray
    prompt_sequences: IntArray
    prompt_prefix: FloatArray
    prompt_total: IntArray
    decode_total: IntArray
    logits: IntArray


@dataclass(slots=True)
class Window:
    """The tokens of the routing trace that a step replays: where they start, how many, and the load that they make.

    ``load`` has the shape (ranks, layers): assignments of every rank [1].
    """

    prompt_at: int = 0
    prompt: int = 0
    decode_at: int = 0
    decode: int = 0
    load: LoadArray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.uint32))


@dataclass(slots=True)
class StepTime:
    """Duration of a step and the parts that only the step itself knows [s].

    ``imbalance`` is max/mean over ranks. All parts are those of one batch whose ops follow each other; ``saved`` is
    what ``overlap`` takes off their sum, ``offload_stall`` the wait for experts that are not on the device, which
    ``duration`` includes. ``window`` is what the step replays of the routing trace.
    """

    duration: float = 0.0
    attention: float = 0.0
    prompt_projections: float = 0.0
    experts: float = 0.0
    imbalance_wait: float = 0.0
    gap: float = 0.0
    imbalance: float = 1.0
    saved: float = 0.0
    offload_stall: float = 0.0
    overlap: Overlap = "none"
    window: Window = field(default_factory=Window)


def step_ops(
    work: StepWork,
    model: ModelSpec,
    split: Parallelism,
    stack: StackProfile,
    *,
    drafts: int = 0,
    expert_counts: FloatArray | None = None,
    max_rank_share: float = 1.0,
) -> tuple[Op, ...]:
    """List the ops of a step, those that draft its next tokens included.

    Parameters
    ----------
    work : StepWork
        The step.
    model, split, stack
        What runs, how it is split, and what runs it.
    drafts : int
        Tokens that a further layer of the model's own drafts per step, one after the other [1].
    expert_counts : array or None
        As for :func:`simulator.ops.build_ops`.
    max_rank_share : float
        As for :meth:`StepWork.shape` [1].
    """
    shape = work.shape(split, stack, max_rank_share=max_rank_share)
    ops = build_ops(model, split, stack, shape, expert_counts)
    if not work.decode_rows:
        return ops
    sequences = np.asarray(shape.decode_sequences)
    return (*ops, *draft_ops(model, split, stack, sequences, work.decode_context, drafts))


def graph_rows(rows: ArrayLike, stack: StackProfile) -> NDArray[np.int64]:
    """Rows that a decode step of so many computes: CUDA graphs are captured at 1, 2, 4 and multiples beyond [tokens].

    Steps of more rows than were captured run as they are.
    """
    pad, top = int(stack.number("graph_pad")), int(stack.number("graph_max_batch"))
    given = np.asarray(rows, dtype=np.int64)
    if pad <= 1:
        return given
    small = np.where(given <= 2, given, np.where(given <= 4, 4, pad))
    padded = np.where(given <= pad, np.minimum(small, pad), -(-given // pad) * pad)
    return np.where(given <= top, padded, given)
