"""Making up a request trace from an arrival process and two distributions of lengths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workloads.errors import WorkloadError
from workloads.parameters import choose, count
from workloads.requests.arrivals import ARRIVALS
from workloads.requests.lengths import LENGTHS
from workloads.requests.trace import RequestTrace
from workloads.streams import stream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def generate_requests(
    *,
    requests: int,
    seed: int,
    arrivals: Mapping[str, Any],
    input_tokens: int | Mapping[str, Any] | None = None,
    output_tokens: int | Mapping[str, Any] | None = None,
    lengths_of: RequestTrace | None = None,
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
