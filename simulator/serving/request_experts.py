"""The expert of every token of every request, as a router names it that runs before the step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.arrays import IntArray
from simulator.errors import ScenarioError
from workloads.requests.trace import RequestTrace
from workloads.routing.trace import RoutingTrace


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestExperts:
    """The expert of every token of every request, prompt and answer.

    Attributes
    ----------
    ids : int64 array, shape (tokens,)
        Experts, request after request.
    start : int64 array, shape (requests,)
        First token of each request.
    run_end : int64 array, shape (tokens,)
        For each token the end of its run: the first later token of the request with another expert, or its end.
    """

    ids: IntArray
    start: IntArray
    run_end: IntArray
    num_experts: int


def request_experts(requests: RequestTrace, routing: RoutingTrace) -> RequestExperts:
    """Deal the tokens of a routing trace out to requests, in order and from its beginning again where it ends.

    Raises
    ------
    ScenarioError
        The trace has several layers or several experts per token: a pre-gating router names one for all layers.
    """
    if routing.layers != 1 or routing.top_k != 1 or routing.padded:
        raise ScenarioError(
            f"routing trace {routing.source}: {routing.layers} layers, top-{routing.top_k}; a router before the step "
            "names one expert for all layers of a token"
        )
    lengths = (requests.input_tokens + requests.output_tokens).astype(np.int64)
    end = np.cumsum(lengths)
    ids = np.resize(routing.expert_ids[:, 0, 0].astype(np.int64), int(end[-1]))
    changes = np.append(ids[1:] != ids[:-1], True)
    changes[end - 1] = True
    at = np.flatnonzero(changes)
    run_end = at[np.searchsorted(at, np.arange(len(ids)))] + 1
    return RequestExperts(ids=ids, start=end - lengths, run_end=run_end, num_experts=routing.num_experts)
