"""Prompts that wait and prompts that are being computed, by rank, and how a step divides its tokens among them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from simulator.deployment.limits import Limits
from simulator.serving.state import RequestState
from simulator.serving.step_plan import Chunk


class PromptQueues:
    """The queues of one instance.

    Parameters
    ----------
    limits : Limits
        Tokens of a step, and whether prompts may be split.
    state : RequestState
        The prompts.
    fits : callable
        Tells of a rank and a request whether it may be admitted.
    admit : callable
        Admits a request to a rank and returns how many tokens of its prompt are cached [tokens].

    Attributes
    ----------
    waiting : int
        Requests that are not admitted yet, over all ranks [1].
    unfinished : int
        Requests whose prompt is not computed, waiting ones included [1].
    open : set of int
        Ranks on which there may be something to do.
    """

    __slots__ = ("_admit", "_computing", "_fits", "_limits", "_state", "_waiting", "open", "unfinished", "waiting")

    def __init__(
        self,
        limits: Limits,
        state: RequestState,
        fits: Callable[[int, int], bool],
        admit: Callable[[int, int], int],
    ) -> None:
        self._limits, self._state, self._fits, self._admit = limits, state, fits, admit
        self._waiting: list[deque[int]] = [deque() for _ in range(limits.dp)]
        # Requests and how many tokens of their prompts are done.
        self._computing: list[deque[list[int]]] = [deque() for _ in range(limits.dp)]
        self.waiting = self.unfinished = 0
        self.open: set[int] = set()

    def add(self, rank: int, request: int) -> None:
        """Queue a request behind all that are as urgent."""
        waiting, priority = self._waiting[rank], self._state.priority
        if priority is None:
            waiting.append(request)
        else:
            place = len(waiting)
            while place and priority[waiting[place - 1]] > priority[request]:
                place -= 1
            waiting.insert(place, request)
        self.open.add(rank)
        self.waiting += 1
        self.unfinished += 1

    def put_back(self, rank: int, request: int) -> None:
        """Queue a preempted request before the others; nothing is admitted before somebody has ended."""
        self._waiting[rank].appendleft(request)
        self.waiting += 1
        self.unfinished += 1
        # The freed memory is for those that stay.
        if not self._computing[rank]:
            self.open.discard(rank)

    def reopen(self, rank: int) -> bool:
        """Look at a rank again, if anything waits there; return whether it does."""
        if not self._waiting[rank]:
            return False
        self.open.add(rank)
        return True

    def chunks(self, rows: Sequence[int] = (), query_tokens: int = 1) -> list[Chunk]:
        """Give every open rank prompt tokens within its budget, admitting waiting requests that fit.

        Parameters
        ----------
        rows : sequence of int
            Requests that decode in the step, by rank; nobody where empty [1].
        query_tokens : int
            Tokens that each of them has in it [tokens].
        """
        chunks: list[Chunk] = []
        prompt, chunked = self._state.prompt, self._limits.chunked
        for rank in sorted(self.open) if len(self.open) > 1 else tuple(self.open):
            budget = self._limits.token_budget - (rows[rank] * query_tokens if rows else 0)
            computing, waiting = self._computing[rank], self._waiting[rank]
            before = len(chunks)
            for item in computing:
                budget -= self._take(chunks, rank, item, budget)
            while budget > 0 and waiting:
                request = waiting[0]
                if not (chunked or self._in_one_piece(request, budget, fresh=len(chunks) == before)):
                    break
                if not self._fits(rank, request):
                    break
                waiting.popleft()
                self.waiting -= 1
                done = self._admit(rank, request)
                # NOTE: as _take does; most prompts begin and end here.
                tokens = prompt[request] - done
                if tokens > budget:
                    tokens = budget
                computing.append([request, done + tokens])
                chunks.append(Chunk(rank, request, tokens, done))
                budget -= tokens
            if not computing:
                # Nothing fits, or nothing waits: look again when a request ends or arrives.
                self.open.discard(rank)
        return chunks

    def admit(self) -> list[int]:
        """Admit all waiting requests that fit, before anything of them is computed; return them."""
        admitted: list[int] = []
        for rank in sorted(self.open):
            waiting = self._waiting[rank]
            while waiting and self._fits(rank, waiting[0]):
                request = waiting.popleft()
                self.waiting -= 1
                self._computing[rank].append([request, self._admit(rank, request)])
                admitted.append(request)
        # What does not fit now may when a request ends or arrives.
        self.open.clear()
        return admitted

    def computing(self, rank: int) -> dict[int, int]:
        """Tell of every admitted request of a rank whose prompt is not computed how many tokens of it are [tokens]."""
        return {item[0]: item[1] for item in self._computing[rank]}

    def take(self, rank: int, tokens: Mapping[int, int]) -> list[Chunk]:
        """Put so many prompt tokens of some admitted requests of a rank into a step [tokens]."""
        chunks: list[Chunk] = []
        for item in self._computing[rank]:
            self._take(chunks, rank, item, tokens.get(item[0], 0))
        return chunks

    def _in_one_piece(self, request: int, budget: int, *, fresh: bool) -> bool:
        """Whether a prompt that must goes into a step whole; one longer than a whole step is split anyway."""
        if self._state.prompt[request] <= budget:
            return True
        return fresh and budget >= self._limits.token_budget

    def _take(self, chunks: list[Chunk], rank: int, item: list[int], budget: int) -> int:
        request, done = item
        tokens = min(self._state.prompt[request] - done, budget)
        if tokens > 0:
            chunks.append(Chunk(rank, request, tokens, done))
            item[1] = done + tokens
        return max(tokens, 0)

    def finish(self, rank: int, request: int) -> None:
        """Take off a prompt of a rank, which is computed: the first one unless the scheduler mixes their order."""
        computing = self._computing[rank]
        if computing[0][0] == request:
            computing.popleft()
        else:
            del computing[next(place for place, item in enumerate(computing) if item[0] == request)]
        self.unfinished -= 1

    def drop(self, rank: int) -> tuple[int, int] | None:
        """Take off the last prompt that is being computed on a rank; return its request and its tokens so far."""
        if not self._computing[rank]:
            return None
        self.unfinished -= 1
        request, done = self._computing[rank].pop()
        return request, done

    def clear(self, rank: int) -> list[int]:
        """Take off and return all that waits on a rank."""
        lost = list(self._waiting[rank])
        self._waiting[rank].clear()
        self.waiting -= len(lost)
        self.unfinished -= len(lost)
        if not self._computing[rank]:
            self.open.discard(rank)
        return lost

    def undo(self, chunks: Sequence[Chunk]) -> None:
        """Put prompts back to where they were before a step that was lost."""
        before = {chunk.request: chunk.prefix for chunk in chunks}
        for rank, items in enumerate(self._computing):
            for item in items:
                item[1] = before.get(item[0], item[1])
            if items:
                self.open.add(rank)
