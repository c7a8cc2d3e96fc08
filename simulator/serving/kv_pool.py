"""KV memory of an instance: what its requests take, what is promised to them, and what they share."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.deployment.limits import Limits
from simulator.serving.batch import Batch
from simulator.serving.prefix_cache import PrefixCache
from simulator.serving.state import RunState

#: Decode steps after which memory is looked at again even where it cannot run out: a number, so that steps are
#: compared with one, and so large that looking costs nothing [1].
_LONGEST_WITHOUT_LOOK = 1_000_000


class KVPool:
    """The KV pools of the ranks of one instance.

    Parameters
    ----------
    limits : Limits
        Sizes, and how much of an answer admission reserves.
    batch : Batch
        The tokens that requests hold by rank.
    run_state : RunState
        The requests, and the hash blocks of their prompts where prefixes are cached.

    Attributes
    ----------
    caches : list of PrefixCache
        The prefix cache of each rank; empty where prefixes are not cached.
    plain : bool
        Whether requests take nothing but what the batch counts: no prefixes are shared, nothing is reserved.
    check_at : int
        Decode step before which the memory of no rank can run out, but for that of ``fuller`` [1].
    fuller : set of int
        Ranks that have taken requests on since that was told.
    """

    __slots__ = (
        "_batch",
        "_blocks",
        "_full",
        "_held",
        "_limits",
        "_run_state",
        "_shared",
        "_state",
        "caches",
        "check_at",
        "fuller",
        "plain",
    )

    def __init__(self, limits: Limits, batch: Batch, run_state: RunState) -> None:
        self._limits, self._batch, self._run_state, self._blocks = limits, batch, run_state, run_state.blocks
        self._state = run_state.state
        self.plain = run_state.blocks is None and not limits.reserved_output
        self.check_at = _LONGEST_WITHOUT_LOOK
        self.fuller: set[int] = set()
        self._full = [0.0] * limits.dp
        # Tokens that requests count as theirs but that lie in the prefix cache, by rank, and blocks by request.
        self._shared = [0] * limits.dp
        self._held: dict[int, Sequence[int]] = {}
        self.caches = (
            [PrefixCache(run_state.block_tokens) for _ in range(limits.dp)] if run_state.blocks is not None else []
        )

    def left(self, rank: int) -> float:
        """Memory that is free on a rank, idle cached blocks counted as free [bytes]."""
        limits = self._limits
        taken = self._tokens(rank) * limits.kv_per_token + self._batch.sequences[rank] * limits.kv_per_sequence
        return limits.pool - taken

    def steps_left(self, rank: int, rows: int | None = None) -> float:
        """Decode steps until a rank has no memory left, with ``rows`` that decode or else all that hold memory [1]."""
        limits = self._limits
        growing = self._batch.sequences[rank] if rows is None else rows
        return self.left(rank) / max(growing * limits.kv_per_token * limits.accepted_per_step, 1e-9)

    def look_ahead(self) -> None:
        """Tell when the memory of ranks that have taken requests on could run out."""
        for rank in self.fuller:
            self.check_at = min(self.check_at, self._batch.index + int(self.steps_left(rank)) - 1)
        self.fuller.clear()

    def look_at_all(self) -> None:
        """Tell when the memory of any rank could run out, now that it has been looked at."""
        spare = float(_LONGEST_WITHOUT_LOOK)
        for rank, sequences in enumerate(self._batch.sequences):
            if sequences:
                spare = min(spare, self.steps_left(rank))
        self.check_at = self._batch.index + max(int(spare) - 1, 1)

    def swap_time(self, tokens: int) -> float:
        """Time to move the KV cache of a sequence to the host or back [s]."""
        return tokens * self._limits.kv_per_token / self._limits.swap_rate

    def _tokens(self, rank: int) -> float:
        tokens = self._batch.tokens_on(rank)
        return tokens - self._shared[rank] + self.caches[rank].held_tokens if self.caches else tokens

    def fits(self, rank: int, request: int) -> bool:
        """Whether a rank has a place and memory for a further request, beside what every sequence decodes next."""
        limits, batch = self._limits, self._batch
        sequences = batch.sequences[rank] + 1
        if sequences > limits.max_running:
            return False
        prompt = self._state.prompt[request]
        tokens = (self._tokens(rank) if self.caches else batch.tokens_on(rank)) + prompt
        tokens += sequences * limits.accepted_per_step
        if not self.plain:
            tokens = self._beyond(rank, request, prompt, tokens)
        return tokens * limits.kv_per_token + sequences * limits.kv_per_sequence <= limits.pool

    def _beyond(self, rank: int, request: int, prompt: int, tokens: float) -> float:
        """Tokens that a rank has to have room for with a further request, with what is reserved and shared [tokens]."""
        reserved = self._limits.reserved_output
        if reserved:
            tokens = max(tokens, self._full[rank] + prompt + reserved * self._state.output[request])
        if self._blocks is not None:
            # What others hold already is not taken twice.
            cache = self.caches[rank]
            tokens -= cache.match_held(self._blocks[request]) * cache.block_tokens
        return tokens

    def match(self, rank: int, request: int, prompt: int) -> int:
        """Tokens of a prompt that need not be computed on a rank; its last token always is [tokens]."""
        if self._blocks is None:
            return 0
        cache = self.caches[rank]
        return min(cache.match(self._blocks[request]) * cache.block_tokens, prompt - 1)

    def cached_tokens(self, request: int) -> int:
        """Tokens of a prompt that lie in the prefix cache of the best rank [tokens]."""
        prompt = self._state.prompt[request]
        return max(self.match(rank, request, prompt) for rank in range(self._limits.dp))

    def admit(self, rank: int, request: int, prompt: int, output: int) -> int:
        """Reserve memory for a request, and return how many tokens of its prompt are there already [tokens].

        Parameters
        ----------
        rank : int
            Which rank.
        request : int
            Which request, for its hash blocks.
        prompt, output : int
            Tokens of its prompt, and of its answer [tokens].
        """
        self._batch.admit(rank, prompt)
        self.fuller.add(rank)
        if self.plain:
            return 0
        self._full[rank] += prompt + self._limits.reserved_output * output
        if self._blocks is None:
            return 0
        cache = self.caches[rank]
        matched = cache.match(self._blocks[request])
        self._hold(rank, request, self._blocks[request][:matched])
        self._shrink(rank)
        return min(matched * cache.block_tokens, prompt - 1)

    def computed(self, rank: int, request: int) -> None:
        """Let later prompts share the blocks of a prompt that is now computed."""
        if self._blocks is not None:
            held = len(self._held[request])
            blocks = self._blocks[request]
            self._hold(rank, request, blocks[held:])
            if self._run_state.store is not None:
                self._run_state.store.add_idle(blocks)
                self._run_state.store.shrink(self._run_state.store_tokens)

    def answered(self, rank: int, request: int) -> None:
        """Keep the blocks of an answer that is complete, for prompts that begin with it."""
        answers, store = self._run_state.answers, self._run_state.store
        if answers is None or not answers[request]:
            return
        # Before those of the prompt are released: what comes last is forgotten first.
        self.caches[rank].add_idle(answers[request])
        if store is not None:
            store.add_idle(answers[request])
            store.shrink(self._run_state.store_tokens)

    def take(self, rank: int, blocks: Sequence[int]) -> None:
        """Put blocks from elsewhere into the cache of a rank, as far as there is room."""
        self.caches[rank].add_idle(blocks)
        self._shrink(rank)

    def release(self, rank: int, request: int, prompt: int, output: int) -> None:
        """Take back what was reserved for a request beside the tokens that its batch counts.

        Parameters
        ----------
        rank : int
            Which rank.
        request : int
            Which request, for its hash blocks.
        prompt, output : int
            Tokens of its prompt, and of its answer [tokens].
        """
        if self.plain:
            return
        self._full[rank] -= prompt + self._limits.reserved_output * output
        if self._blocks is not None:
            cache, blocks = self.caches[rank], self._held.pop(request)
            cache.release(blocks)
            self._shared[rank] -= len(blocks) * cache.block_tokens
            self._shrink(rank)

    def _hold(self, rank: int, request: int, blocks: Sequence[int]) -> None:
        cache = self.caches[rank]
        cache.hold(blocks)
        self._held[request] = (*self._held.get(request, ()), *blocks)
        self._shared[rank] += len(blocks) * cache.block_tokens

    def _shrink(self, rank: int) -> None:
        per_token = self._limits.kv_per_token
        if per_token > 0:
            self.caches[rank].shrink(self.left(rank) / per_token)
