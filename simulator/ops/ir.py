"""The op, the shape of a step, and the builders of the plain ops that every layer is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from simulator.arrays import FloatArray
from simulator.kernels.collectives import CollectiveShape
from simulator.kernels.elementwise import ElementwiseShape
from simulator.kernels.gemm import GemmShape
from simulator.kernels.kernel import dtype_bytes
from simulator.parallelism import Parallelism
from simulator.stack import StackProfile
from workloads.models.spec import ModelSpec, Phase

Driver = Literal["tokens", "prefill", "decode", "logits", "experts"]
Block = Literal["ends", "attention", "dense", "router", "dispatch", "experts", "shared", "combine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
    """The work of one step on one attention rank; every field is a number or an array that broadcasts.

    ``prefill_prefix`` and ``decode_context`` are means per sequence: tokens already cached before a prompt chunk,
    and KV length that a decoded token attends to. A decoded sequence has ``decode_query_tokens`` tokens in the
    step, more than one where drafts are verified. ``tokens`` counts what ops compute that all
    tokens drive, where that is more than prefill and decode tokens, as in padded CUDA graphs. ``group_tokens`` counts
    the tokens of all data-parallel ranks (dp times this rank's where absent). ``max_rank_share`` is what the busiest
    expert rank receives, in multiples of the mean, ``touched_slots`` the expert slots of the mean rank that receive any
    token (those of evenly drawn experts where absent).
    """

    prefill_tokens: ArrayLike = 0.0
    prefill_sequences: ArrayLike = 0.0
    prefill_prefix: ArrayLike = 0.0
    decode_sequences: ArrayLike = 0.0
    decode_context: ArrayLike = 0.0
    decode_query_tokens: float = 1.0
    tokens: ArrayLike | None = None
    group_tokens: ArrayLike | None = None
    max_rank_share: ArrayLike = 1.0
    touched_slots: ArrayLike | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One kernel of a step.

    Attributes
    ----------
    name, kind, component : str
        What it is, which kernel model prices it, and which part of the breakdown it belongs to.
    driver : {"tokens", "prefill", "decode", "logits", "experts"}
        What of the step sets its size: all tokens, the prompt chunks, the decoded sequences, the rows that reach the
        LM head, or the tokens of all ranks and where they go.
    block : {"ends", "attention", "dense", "router", "dispatch", "experts", "shared", "combine"}
        Which part of a layer it belongs to, or the ends of the model; what a schedule moves as one.
    family : str
        First word of the kernel tables that it is priced from.
    dtype : str
        Arithmetic dtype: the format of the operands that it multiplies, or of what it moves.
    backends : tuple of str
        Kernel backends that run it, preferred first; those that the stack names for the family where empty.
    resource : str
        What runs it: ``main``, the device's first processor, ``link`` where it waits for links, another processor of
        the device by name, or the ``host`` of its node.
    repeat : float
        Times per step on this rank [1].
    rows : array
        Tokens, sequences or bytes that it works on; where zero it does not run.
    shape : dataclass
        Typed shape of its kernel family, see :mod:`simulator.kernels.families`.
    flops, memory_bytes, message_bytes : array
        Work [FLOP], device-memory traffic [bytes] and bytes sent per rank [bytes], of one repeat.
    """

    name: str
    kind: str
    component: str
    driver: Driver
    family: str
    dtype: str
    repeat: float
    rows: FloatArray
    shape: Any
    flops: FloatArray
    memory_bytes: FloatArray
    message_bytes: FloatArray = field(default_factory=lambda: np.zeros(()))
    block: Block = "ends"
    backends: tuple[str, ...] = ()
    resource: str = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """What all op builders share: the split, the stack, and the step's sizes as float arrays."""

    model: ModelSpec
    split: Parallelism
    stack: StackProfile
    prefill: FloatArray
    sequences: FloatArray
    prefix: FloatArray
    decode_sequences: FloatArray
    context: FloatArray
    query_tokens: float
    tokens: FloatArray
    group_tokens: FloatArray
    max_rank_share: FloatArray
    touched_slots: FloatArray | None

    @property
    def decode(self) -> FloatArray:
        """Decoded tokens of this attention rank, drafted ones included [tokens]."""
        return self.decode_sequences * self.query_tokens

    @property
    def phase(self) -> Phase:
        """Phase whose kernels run it: that of prompts where every step has some."""
        return "prefill" if np.all(self.prefill > 0) else "decode"

    @property
    def prompt_length(self) -> FloatArray:
        """Mean new tokens of a prompt chunk; 0 where there is none [tokens]."""
        return np.divide(self.prefill, self.sequences, out=np.zeros_like(self.prefill), where=self.sequences > 0)


def in_block(block: Block, ops: Iterable[Op]) -> Iterator[Op]:
    """Say which part of a layer ops belong to."""
    return (replace(op, block=block) for op in ops)


def gemm(name: str, repeat: float, m: FloatArray, n: float, k: float, dtype: str, driver: Driver = "tokens") -> Op:
    """Build ``C[m,n] = A[m,k] B[k,n]`` with 16-bit activations.

    Parameters
    ----------
    name : str
        What it is.
    repeat : float
        Times per step [1].
    m : array
        Rows [1].
    n, k : float
        Columns, and the dimension that is summed over, on this rank [1].
    dtype : str
        Storage of the weights.
    driver : {"tokens", "prefill", "decode", "logits", "experts"}
        What of the step sets ``m``.
    """
    return Op(
        name=name,
        kind="gemm",
        component="gemm",
        driver=driver,
        family="gemm",
        dtype=dtype,
        repeat=repeat,
        rows=m,
        shape=GemmShape(m=m, n=n, k=k, dtype=dtype),
        flops=2.0 * m * n * k,
        memory_bytes=n * k * dtype_bytes(dtype) + 2.0 * m * (n + k),
    )


def small(name: str, repeat: float, rows: FloatArray, moved: FloatArray, driver: Driver = "tokens") -> Op:
    """Build a kernel that does nothing but move bytes.

    Parameters
    ----------
    name : str
        What it is.
    repeat : float
        Times per step [1].
    rows : array
        Tokens that it works on [tokens].
    moved : array
        Bytes read and written [bytes].
    driver : {"tokens", "prefill", "decode", "logits", "experts"}
        What of the step sets ``rows``.
    """
    return Op(
        name=name,
        kind="elementwise",
        component="small_kernels",
        driver=driver,
        family="elementwise",
        dtype="bfloat16",
        repeat=repeat,
        rows=rows,
        shape=ElementwiseShape(bytes_moved=moved),
        flops=np.zeros_like(rows),
        memory_bytes=moved,
    )


def collective(
    name: str, kind: str, component: str, repeat: float, message: FloatArray, ranks: int, driver: Driver = "tokens"
) -> Op:
    """Build a collective, which waits for links and passes its buffer through the memory twice.

    Parameters
    ----------
    name, kind, component : str
        What it is, the collective, and the part of the breakdown that it belongs to.
    repeat : float
        Times per step [1].
    message : array
        Bytes of its buffer, as its kernel counts them [bytes].
    ranks : int
        Ranks that take part [1].
    driver : {"tokens", "prefill", "decode", "logits", "experts"}
        What of the step sets the message.
    """
    return Op(
        name=name,
        kind=kind,
        component=component,
        driver=driver,
        family=kind,
        dtype="bfloat16",
        repeat=repeat,
        rows=message,
        shape=CollectiveShape(message_bytes=message, ranks=ranks),
        resource="link",
        flops=np.zeros_like(message),
        memory_bytes=2.0 * message,
        message_bytes=message,
    )


def all_reduce(c: StepContext, name: str, repeat: float, ranks: int, tokens: FloatArray) -> Iterator[Op]:
    """Build the all-reduce of hidden states; none where a rank is alone.

    Parameters
    ----------
    c : StepContext
        The step.
    name : str
        What it is.
    repeat : float
        Times per step [1].
    ranks : int
        Ranks that add up [1].
    tokens : array
        Tokens whose hidden states they add [tokens].
    """
    if ranks > 1:
        message = tokens * c.model.hidden * dtype_bytes(c.model.dtypes.activation)
        yield collective(name, "all_reduce", "all_reduce", repeat, message, ranks)


def residual_norm(c: StepContext, name: str, repeat: float) -> Op:
    """Residual add fused with the norm reads the stream and the residual and writes both.

    Where the stack fuses it into the all-reduce before it, no kernel is left to run.
    """
    rows = c.tokens
    if c.split.tp > 1 and "all_reduce_norm" in c.stack.fused:
        rows = np.zeros_like(rows)
    return small(name, repeat, rows, rows * c.model.hidden * dtype_bytes(c.model.dtypes.activation) * 4)
