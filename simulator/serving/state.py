"""What bounds an instance, and the state of all requests that its instances share."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from simulator.serving.prefix_cache import Blocks, PrefixCache
from simulator.serving.recorder import ColumnRecorder, RequestRecorder
from simulator.serving.request_experts import RequestExperts
from simulator.serving.step_log import StepLog
from workloads.requests.trace import RequestTrace

#: What an instance does: all of a request, its prompt alone, or its answer alone.
Role = Literal["both", "prefill", "decode"]


@dataclass(slots=True)
class RequestState:
    """State of all requests as arrays of shape (requests,), shared by all instances.

    ``prompt`` is what must be in the KV cache before the next token (the input, and after a preemption the answer so
    far); ``generated`` counts emitted tokens; ``joined`` and ``due`` are the decode steps at which the request began to
    decode and ends, ``due`` -1 while it does not; ``steps`` the decode steps that a whole answer takes, less than
    its tokens where drafts are accepted. ``swapped`` holds requests whose KV cache lies with the host, ``paused``
    when those that were interrupted emitted their last token [s]. ``priority`` is the urgency of each, 0 first.
    """

    output: array[int]
    prompt: array[int]
    generated: array[int]
    joined: array[int]
    due: array[int]
    steps: array[int]
    priority: list[int] | None = None
    swapped: set[int] = field(default_factory=set)
    paused: dict[int, float] = field(default_factory=dict)

    def steps_left(self, request: int) -> int:
        """Decode steps until a request that has begun to answer ends [1]."""
        whole, left = self.output[request] - 1, self.output[request] - self.generated[request]
        steps = self.steps[request]
        return left if steps == whole else -(-steps * left // max(whole, 1))

    def put_off(self, request: int) -> None:
        """Let a request that decodes go, and end, a step later than the others."""
        self.joined[request] += 1
        self.due[request] += 1


def request_state(trace: RequestTrace, steps: np.ndarray | None = None) -> RequestState:
    """Put every request of a trace at its start; without drafts each further token takes a step."""
    total = len(trace)
    taken = trace.output_tokens - 1 if steps is None else steps
    return RequestState(
        output=array("q", trace.output_tokens.astype(np.int64).tobytes()),
        prompt=array("q", trace.input_tokens.astype(np.int64).tobytes()),
        generated=array("q", [0]) * total,
        joined=array("q", [0]) * total,
        due=array("q", [-1]) * total,
        steps=array("q", taken.astype(np.int64).tobytes()),
        priority=None if trace.priority is None else trace.priority.tolist(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """What all instances of a run share: the requests, and where they, steps and inter-token gaps are recorded.

    ``blocks`` are the full hash blocks of every prompt of ``block_tokens`` tokens each, ``None`` where prefixes are not
    cached; ``answers`` those that its answer fills behind them, where another prompt may want them; ``store`` the
    blocks that all instances share, up to ``store_tokens``, where they do. ``experts`` are those of every token, where
    a router says so before the step. ``log`` takes the steps of a run whose clock counts them.
    """

    state: RequestState
    records: RequestRecorder
    steps: ColumnRecorder
    gaps: ColumnRecorder
    blocks: Blocks | None = None
    answers: Blocks | None = None
    block_tokens: int = 0
    store: PrefixCache | None = None
    store_tokens: float = 0.0
    experts: RequestExperts | None = None
    log: StepLog | None = None
