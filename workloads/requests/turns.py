"""Turns of conversations: which session a request belongs to, its place in it, and what prompts of a session share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from workloads.requests.trace import RequestTrace

#: Tokens of the blocks that are made up where a trace names none, the default of vLLM [tokens], and the most blocks of
#: a prompt up to which they are so small: a cache looks at each of them [1].
_BLOCK, _MOST_BLOCKS = 16, 2048
#: Bits of the number of a block within what one request names [1].
_OWN = 32


def follows(trace: RequestTrace) -> bool:
    """Tell whether any request of a trace waits for the answer to another."""
    return trace.after is not None and bool((trace.after >= 0).any())


def first_requests(trace: RequestTrace) -> NDArray[np.int64]:
    """Return the request with which the session of each request begins; shape (requests,).

    Examples
    --------
    >>> one = np.ones(3, np.int64)
    >>> chain = RequestTrace(arrival=np.zeros(3), input_tokens=one, output_tokens=one, after=np.array([-1, 0, 1]))
    >>> first_requests(chain).tolist()
    [0, 0, 0]
    """
    first = np.arange(len(trace))
    if trace.after is not None:
        later = trace.after >= 0
        first[later] = trace.after[later]
        # Each round doubles how far back everybody looks.
        while ((before := first[first]) != first).any():
            first = before
    return first


def session_columns(trace: RequestTrace) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the session of each request, counted from 0 in the order of their first requests, and its turn, from 1.

    Examples
    --------
    >>> one = np.ones(4, np.int64)
    >>> two = RequestTrace(arrival=np.zeros(4), input_tokens=one, output_tokens=one, after=np.array([-1, -1, 0, 2]))
    >>> tuple(column.tolist() for column in session_columns(two))
    ([0, 1, 0, 0], [1, 1, 2, 3])
    """
    session = np.unique(first_requests(trace), return_inverse=True)[1]
    turn = np.ones(len(trace), np.int64)
    if trace.after is not None:
        # Requests stand behind those that they follow.
        for request in np.flatnonzero(trace.after >= 0).tolist():
            turn[request] = turn[trace.after[request]] + 1
    return session.astype(np.int64), turn


def most_in_flight(trace: RequestTrace) -> int:
    """Return how many requests of a closed loop can be in flight at once; 0 where nothing bounds them [1].

    A session has more than one in flight where several requests follow the same answer.
    """
    if trace.concurrency is None or trace.after is None:
        return trace.concurrency or 0
    answered = np.zeros(len(trace), np.bool_)
    answered[trace.after[trace.after >= 0]] = True
    last = np.bincount(first_requests(trace)[~answered], minlength=1)
    return trace.concurrency * int(last.max())


def own_times(trace: RequestTrace) -> NDArray[np.bool_]:
    """Tell which requests have a time of their own: first ones, and turns later than the request before them."""
    if trace.after is None:
        return np.ones(len(trace), np.bool_)
    return (trace.after < 0) | (trace.arrival > trace.arrival[trace.after])


def mean_rate(trace: RequestTrace) -> float:
    """Return the requests that an open loop is sent per second, turns that wait for an answer among them [1/s].

    Those come as often as the sessions begin in which they are, however long they wait; 0 where all come at once.
    """
    timed = own_times(trace)
    arrival = trace.arrival[timed]
    span = float(arrival[-1] - arrival[0])
    return (len(arrival) - 1) / span * (len(trace) / len(arrival)) if span > 0 else 0.0


def session_block_tokens(trace: RequestTrace) -> int:
    """Return how many tokens the blocks have that :func:`session_blocks` makes up: 16, or more for long prompts."""
    tokens = _BLOCK
    while int(trace.input_tokens.max()) > tokens * _MOST_BLOCKS:
        tokens *= 2
    return tokens


def session_blocks(trace: RequestTrace, block_tokens: int) -> list[Sequence[int]]:
    """Make up the full blocks of every prompt from who follows whom, where a trace does not name them.

    Parameters
    ----------
    trace : RequestTrace
        Requests, some of which follow others.
    block_tokens : int
        Tokens of a block [tokens].

    Returns
    -------
    list of sequence of int
        Shape (requests, blocks of the prompt). Sessions share nothing. A prompt at least as long as the one before it
        and its answer begins with both; one that is shorter, but not than the prompt before it, with that alone, as
        where reasoning is left out of what the model is shown; one that is shorter still shares nothing, as where a
        context is made anew.
    """
    prompts, answers = trace.input_tokens.tolist(), trace.output_tokens.tolist()
    before = [-1] * len(trace) if trace.after is None else trace.after.tolist()
    # What a request shares with those that do not go on as it does, and where its own blocks are counted from.
    shared: list[tuple[int, ...]] = []
    start: list[int] = []
    continued: set[int] = set()

    def leading(request: int, tokens: int) -> Sequence[int]:
        head, count = shared[request], tokens // block_tokens
        # NOTE: a range takes no memory, and most sessions are one from end to end.
        own = range(start[request], start[request] + max(count - len(head), 0))
        return (*head[:count], *own) if head else own

    blocks = []
    for request, (prompt, earlier) in enumerate(zip(prompts, before, strict=True)):
        whole = prompts[earlier] + answers[earlier] if earlier >= 0 else 0
        if earlier >= 0 and prompt >= whole and earlier not in continued:
            continued.add(earlier)
            shared.append(shared[earlier])
            start.append(start[earlier])
        else:
            known = 0 if earlier < 0 or prompt < prompts[earlier] else whole if prompt >= whole else prompts[earlier]
            shared.append(tuple(leading(earlier, known)) if known else ())
            start.append(request << _OWN)
        blocks.append(leading(request, prompt))
    return blocks


def answer_blocks(trace: RequestTrace, blocks: Sequence[Sequence[int]], block_tokens: int) -> list[Sequence[int]]:
    """Return the full blocks of every answer, behind those of its prompt, as far as a turn that follows names them.

    Parameters
    ----------
    trace : RequestTrace
        Requests, some of which follow others.
    blocks : sequence of sequence of int
        Full blocks of every prompt.
    block_tokens : int
        Tokens of a block [tokens].

    Returns
    -------
    list of sequence of int
        Shape (requests, further blocks). The last token of an answer is not among them: its KV cache is not computed.
    """
    found: list[Sequence[int]] = [()] * len(trace)
    if trace.after is None:
        return found
    whole = ((trace.input_tokens + trace.output_tokens - 1) // block_tokens).tolist()
    for request in np.flatnonzero(trace.after >= 0).tolist():
        earlier = int(trace.after[request])
        own, known = blocks[request], len(blocks[earlier])
        if not found[earlier] and len(own) > known and tuple(own[:known]) == tuple(blocks[earlier]):
            found[earlier] = own[known : whole[earlier]]
    return found
