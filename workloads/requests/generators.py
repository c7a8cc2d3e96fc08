"""Making up a request trace from an arrival process and two distributions of lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workloads.errors import WorkloadError
from workloads.parameters import choose, count, number
from workloads.requests.arrivals import ARRIVALS
from workloads.requests.lengths import LENGTHS
from workloads.requests.trace import LONGEST, RequestTrace
from workloads.streams import stream

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionShape:
    """What conversations are like.

    Attributes
    ----------
    turns : float
        Requests of a session on average, at least 1; a whole number where all have as many [1].
    spread : {"fixed", "geometric"}
        Whether all sessions have as many turns, or each turn is the last with the same chance.
    think_time : float
        Mean time between an answer and the next turn [s].
    think_kind : {"fixed", "exponential"}
        Distribution of that time.
    added_tokens : int or mapping
        Prompt tokens that a later turn adds to all that was said before it, as ``input_tokens`` [tokens].
    """

    turns: float
    spread: str = "fixed"
    think_time: float = 0.0
    think_kind: str = "fixed"
    added_tokens: int | Mapping[str, Any]


def generate_requests(
    *,
    requests: int,
    seed: int,
    arrivals: Mapping[str, Any],
    input_tokens: int | Mapping[str, Any] | None = None,
    output_tokens: int | Mapping[str, Any] | None = None,
    lengths_of: RequestTrace | None = None,
    sessions: SessionShape | None = None,
) -> RequestTrace:
    """Generate requests.

    Parameters
    ----------
    requests : int
        How many, at least 1.
    seed : int
        Seed. Arrivals, prompt lengths and answer lengths use streams of their own: changing one leaves the others.
    arrivals : mapping
        ``kind`` (a key of ``ARRIVALS``) and its parameters.
    input_tokens, output_tokens : int or mapping
        A fixed length [tokens], or ``kind`` (a key of ``LENGTHS``) and its parameters.
    lengths_of : RequestTrace, optional
        Draw pairs of prompt and answer length from this trace instead, so that their correlation is kept.
    sessions : SessionShape, optional
        Make the requests turns of conversations; each stands alone where absent. Arrivals and ``input_tokens`` are
        then those of first turns, at such a rate that there are as many requests per second as ``arrivals`` says, and
        a closed loop has ``concurrency`` sessions in flight.

    Returns
    -------
    RequestTrace
        The trace; a closed loop if ``arrivals`` says so.

    Examples
    --------
    >>> trace = generate_requests(
    ...     requests=3, seed=1, arrivals={"kind": "constant", "rate": 2.0}, input_tokens=1024, output_tokens=128
    ... )
    >>> trace.arrival.tolist(), trace.input_tokens.tolist()
    ([0.0, 0.5, 1.0], [1024, 1024, 1024])
    """
    number_of_requests = count("requests", requests)
    kind, parameters = _split("arrivals", arrivals)
    arrive = choose(ARRIVALS, "arrivals", kind, parameters)
    concurrency = count("arrivals.concurrency", parameters["concurrency"]) if kind == "closed_loop" else None
    if sessions is not None:
        if lengths_of is not None:
            raise WorkloadError("lengths_of: not together with sessions, whose prompts grow from turn to turn")
        return _sessions(
            sessions,
            number_of_requests,
            seed,
            arrivals=lambda begun, turns: arrive(stream(seed, "arrivals"), begun, **_slower(parameters, turns)),
            lengths=(input_tokens, output_tokens),
            concurrency=concurrency,
            source=f"generated: sessions, {kind} arrivals, {number_of_requests} requests, seed {seed}",
        )
    arrival = arrive(stream(seed, "arrivals"), number_of_requests, **parameters)
    prompt_stream, answer_stream = stream(seed, "lengths").spawn(2)
    if lengths_of is not None:
        if input_tokens is not None or output_tokens is not None:
            msg = "input_tokens, output_tokens: not together with lengths_of; give one or the other"
            raise WorkloadError(msg)
        drawn = prompt_stream.integers(len(lengths_of), size=number_of_requests)
        prompts, answers = lengths_of.input_tokens[drawn], lengths_of.output_tokens[drawn]
    else:
        prompts = _lengths(prompt_stream, number_of_requests, "input_tokens", input_tokens)
        answers = _lengths(answer_stream, number_of_requests, "output_tokens", output_tokens)
    return RequestTrace(
        arrival=arrival,
        input_tokens=prompts,
        output_tokens=answers,
        concurrency=concurrency,
        source=f"generated: {kind} arrivals, {number_of_requests} requests, seed {seed}",
    )


def _sessions(
    shape: SessionShape,
    requests: int,
    seed: int,
    *,
    arrivals: Callable[[int, float], NDArray[np.float64]],
    lengths: tuple[int | Mapping[str, Any] | None, int | Mapping[str, Any] | None],
    concurrency: int | None,
    source: str,
) -> RequestTrace:
    """Generate sessions, the last one cut where there are enough requests."""
    turn_stream, think_stream = stream(seed, "sessions").spawn(2)
    prompt_stream, answer_stream, added_stream = stream(seed, "lengths").spawn(3)
    if shape.spread == "geometric":
        mean = number("sessions.turns", shape.turns, least=1.0)
        ends = turn_stream.geometric(1.0 / mean, requests).cumsum()
    else:
        mean = number("sessions.turns", shape.turns, least=1.0)
        if mean != int(mean):
            expected = "expected a whole number where spread = 'fixed'; 'geometric' takes a mean"
            raise WorkloadError(f"sessions.turns: got {mean:g}, {expected}")
        mean = int(mean)
        ends = np.arange(1, -(-requests // mean) + 1) * mean
    begins = np.concatenate(([0], ends[: np.searchsorted(ends, requests)]))
    session = np.zeros(requests, np.int64)
    session[begins[1:]] = 1
    session = session.cumsum()
    row = np.arange(requests)
    first = row == begins[session]
    prompts = _lengths(prompt_stream, requests, "input_tokens", lengths[0])
    answers = _lengths(answer_stream, requests, "output_tokens", lengths[1])
    added = np.where(first, prompts, _lengths(added_stream, requests, "sessions.added_tokens", shape.added_tokens))
    # All that is said until the end of each turn, less what was said in the sessions before.
    said = np.cumsum(added + answers)
    whole = said - answers - np.concatenate(([0], said))[begins[session]]
    if whole.max() > LONGEST:
        raise WorkloadError(f"sessions.turns: a prompt of {whole.max():,} tokens, expected at most {LONGEST:,}")
    think = number("sessions.think_time", shape.think_time)
    delay = think * think_stream.exponential(1.0, requests) if shape.think_kind == "exponential" else think
    return RequestTrace(
        arrival=arrivals(len(begins), mean)[session],
        input_tokens=whole,
        output_tokens=answers,
        concurrency=concurrency,
        after=np.where(first, -1, row - 1),
        delay=np.where(first, 0.0, delay),
        source=source,
    )


def _slower(parameters: dict[str, Any], turns: float) -> dict[str, Any]:
    """Turn the rate of requests into that of sessions, each of so many turns [1/s]."""
    rate = parameters.get("rate")
    return parameters if rate is None else {**parameters, "rate": number("arrivals.rate", rate, above=0) / turns}


def _lengths(
    rng: np.random.Generator, requests: int, key: str, given: int | Mapping[str, Any] | None
) -> NDArray[np.int64]:
    if given is None:
        msg = f"{key}: missing; give a length, a distribution, or lengths_of"
        raise WorkloadError(msg)
    if not isinstance(given, Mapping):
        return LENGTHS["fixed"](rng, requests, key, length=given)
    kind, parameters = _split(key, given)
    return choose(LENGTHS, key, kind, parameters)(rng, requests, key, **parameters)


def _split(key: str, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if not isinstance(given, Mapping) or "kind" not in given:
        msg = f"{key}: got {given!r}, expected a table with a kind"
        raise WorkloadError(msg)
    return given["kind"], {name: value for name, value in given.items() if name != "kind"}
