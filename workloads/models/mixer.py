"""What a token mixer knows of itself, and the counts that all of them are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol

#: Whether a step computes prompts or decodes.
Phase = Literal["prefill", "decode"]


class Count(NamedTuple):
    """Parameters of one part: those in matrices (multiplied by every token) and those in vectors (norms, biases)."""

    matrices: float
    vectors: float = 0.0


class Mixer(Protocol):
    """What a token mixer knows of itself."""

    @property
    def window(self) -> int | None:
        """Last tokens whose keys and values it keeps; all where absent [tokens]."""

    def parameters(self, hidden: int) -> Count:
        """Count projections and convolutions; and norms, biases, sinks and decays, at a model width [elements]."""

    def score_flops(self, phase: Phase, context: float) -> float:
        """FLOPs of one token outside the projections: scores and values, or the update of a state [FLOP].

        Parameters
        ----------
        phase : {"prefill", "decode"}
            In prefill the mean token of a prompt, in decode the last.
        context : float
            Prompt length (prefill) or tokens in the cache (decode) [tokens].
        """

    def kv_bytes(self, element: float) -> float:
        """Bytes in the KV cache for each token, at so many per element [bytes]; 0 with a constant state."""

    def state_bytes(self, state: float, activation: float) -> float:
        """Bytes of constant state per sequence, at so many per element of state and of activations [bytes]."""

    def kv_share(self, tp: int) -> float:
        """Share of a token's KV bytes that each of ``tp`` devices keeps [1]."""

    def problems(self) -> Iterator[str]:
        """Say what of the description does not fit together."""

    def split_problems(self, tp: int) -> Iterator[str]:
        """Say why it cannot be split over ``tp`` devices."""


def attended_tokens(phase: Phase, context: float, limit: float | None = None) -> float:
    """Tokens that one query token attends to, itself included.

    Parameters
    ----------
    phase : {"prefill", "decode"}
        In prefill, the mean over the tokens of a prompt; in decode, the last token.
    context : float
        Prompt length (prefill) or tokens in the cache with the new one (decode) [tokens].
    limit : float or None
        Window or top-k of the attention [tokens].

    Notes
    -----
    The i-th token of a causal prompt attends to min(i, w) tokens; the mean over i = 1..n is (n + 1)/2 without a
    window and w - w(w - 1)/(2n) for n >= w.
    """
    bound = context if limit is None else min(limit, context)
    if phase == "decode":
        return bound
    return bound - bound * (bound - 1) / (2 * context)
