"""Speculative decoding: how many drafted tokens are accepted, and how many steps an answer takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray
from simulator.errors import ScenarioError
from simulator.scenario.sections import Speculation
from workloads.streams import stream

#: Draws that are held at once [1].
_DRAWS = 4_000_000


def accepted_chances(choice: Speculation) -> FloatArray:
    """Return the chance that at least 1, 2, ... drafted tokens are accepted; shape (draft tokens,).

    Raises
    ------
    ScenarioError
        Tokens are drafted, but no acceptance is given.
    """
    if not choice.draft_tokens:
        return np.zeros(0)
    if not choice.acceptance:
        raise ScenarioError(
            "speculation.acceptance: is required where speculation.draft_tokens is above 0: the chance that a drafted "
            "token is accepted if those before it are, as in [0.85, 0.7]"
        )
    given = choice.acceptance
    each = [given[min(place, len(given) - 1)] for place in range(choice.draft_tokens)]
    return np.asarray(np.cumprod(each), dtype=np.float64)


def tokens_per_step(choice: Speculation) -> float:
    """Tokens that a step yields per request on average: one, and the drafts that are accepted [1].

    Examples
    --------
    >>> tokens_per_step(Speculation(draft_tokens=2, acceptance=(0.5,)))
    1.75
    """
    return 1.0 + float(accepted_chances(choice).sum())


def answer_steps(choice: Speculation, output_tokens: NDArray[np.int64], seed: int) -> NDArray[np.int64] | None:
    """Draw how many decode steps every answer takes.

    Parameters
    ----------
    choice : Speculation
        What is drafted and accepted.
    output_tokens : int64 array, shape (requests,)
        Lengths of the answers, the token of the prompt included [tokens].
    seed : int
        Seed of the scenario.

    Returns
    -------
    int64 array, shape (requests,), or None
        Decode steps after the prompt [1]; ``None`` without drafts.
    """
    if not choice.draft_tokens:
        return None
    chances = accepted_chances(choice)
    rng = stream(seed, "speculation")
    wanted = output_tokens - 1
    steps = np.zeros(len(wanted), dtype=np.int64)
    widest = max(int(wanted.max()), 1)
    block = max(_DRAWS // widest, 1)
    for start in range(0, len(wanted), block):
        part = wanted[start : start + block]
        # A step yields one token and as many drafts as come before the first that is refused.
        draws = rng.random((len(part), widest))
        yields = 1 + (draws[..., None] < chances).sum(axis=-1)
        steps[start : start + block] = (np.cumsum(yields, axis=1) < part[:, None]).sum(axis=1) + (part > 0)
    return steps
