"""The way of a KV cache from the instance that computed a prompt to the one that decodes."""

from __future__ import annotations

from dataclasses import dataclass, field

#: A rank of an instance.
Place = tuple[int, int]


@dataclass(slots=True, kw_only=True)
class KVLink:
    """Links of all ranks: each sends one KV cache after another, and receives one after another.

    Attributes
    ----------
    send_per_token, receive_per_token : float
        Time that a token takes out of a rank that computes prompts, and into one that decodes [s].
    per_sequence : float
        Further time of a sequence: sliding windows and recurrent state [s].
    latency : float
        Time until the first byte arrives [s].
    layers : int
        Layers of the model [1].
    overlapped : bool
        Whether layers are sent as soon as they are computed, or all after the last.
    """

    send_per_token: float
    receive_per_token: float
    per_sequence: float
    latency: float
    layers: int
    overlapped: bool
    _sends: dict[Place, float] = field(default_factory=dict)
    _receives: dict[Place, float] = field(default_factory=dict)

    def arrival(self, now: float, began: float, tokens: int, source: Place, target: Place) -> float:
        """Send a KV cache and return when all of it has arrived [s].

        Parameters
        ----------
        now, began : float
            When the prompt was computed, and when its computation began [s].
        tokens : int
            Tokens of the prompt [tokens].
        source, target : Place
            Ranks between which it goes.

        Notes
        -----
        With overlap, layers leave while the next are computed, so at least the last layer's share remains.
        """
        duration = tokens * max(self.send_per_token, self.receive_per_token) + self.per_sequence
        free = max(self._sends.get(source, 0.0), self._receives.get(target, 0.0))
        if self.overlapped:
            end = max(max(began, free) + duration, now + duration / self.layers, free + duration / self.layers)
        else:
            end = max(now, free) + duration
        self._sends[source] = self._receives[target] = end
        return end + self.latency
