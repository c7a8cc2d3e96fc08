"""What unit a trace's times have and how many tokens a hash block has: told by the file, by its data, or by the user.

Traces of different origin share keys and differ in both. Nothing is assumed without a word: each decision comes with a
sentence that says what it rests on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workloads.errors import WorkloadError

#: Seconds of each unit of time that traces use.
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
#: Unix time of the years 2008 to 2100 [s]: a first time in it is a date, and says its unit.
_DATES = (1.2e9, 4.1e9)
#: Mean rates that a recorded service may have, and those that most have [1/s].
_POSSIBLE, _USUAL = (0.005, 1000.0), (0.05, 100.0)
#: Requests below which a rate says nothing against what a format documents [1].
_FEW = 10


class UnitError(WorkloadError):
    """A unit cannot be told; ``row`` is the index of the request that contradicts, or -1."""

    def __init__(self, what: str, row: int = -1) -> None:
        super().__init__(what)
        self.row = row


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What was decided, and the sentence that says what it rests on."""

    value: Any
    why: str


def time_unit(
    times: Sequence[float], documented: str, whose: str, *, stated: str | None = None, doubtful: bool = False
) -> Decided:
    """Decide the unit of a trace's times.

    Parameters
    ----------
    times : sequence of number
        Times as they stand in the file.
    documented : {"s", "ms", "us", "ns"}
        What the format's own document says.
    whose : str
        The format, for the sentence.
    stated : str, optional
        What the user says; it stands.
    doubtful : bool
        Whether something else in the file is not as the format documents it.

    Raises
    ------
    UnitError
        The data fit several units as well.

    Notes
    -----
    In this order: what the user says; a date since 1970, whose size says its unit; the documented unit, where the mean
    rate is one that a service may have; the only unit in which the rate is one that most services have. Fractions of a
    documented millisecond count as doubt. Whole numbers may count another unit as well: where that has a rate that is
    usual, and the documented one a higher rate, the user is asked; where both may be, the sentence gives both.
    """
    if stated is not None:
        return Decided(value=stated, why="")
    first, span = min(times), max(times) - min(times)
    for unit, seconds in UNITS.items():
        if _DATES[0] <= first * seconds <= _DATES[1]:
            return Decided(value=unit, why=f"times read as {_NAMES[unit]} since 1970, by their size")
    own = f"times read as {_NAMES[documented]}, as in {whose}"
    if not span > 0:
        return Decided(value=documented, why=own)
    rates = {unit: (len(times) - 1) / (span * seconds) for unit, seconds in UNITS.items()}
    whole = all(time == int(time) for time in times[:10_000])
    doubtful |= documented == "ms" and not whole
    possible = _POSSIBLE[0] <= rates[documented] <= _POSSIBLE[1]
    usual = [unit for unit, rate in rates.items() if _USUAL[0] <= rate <= _USUAL[1]]
    # Whole numbers may count any unit.
    others = [unit for unit in usual if unit != documented] if whole else []
    if not doubtful and (possible or len(times) < _FEW):
        fast, few = rates[documented] > _USUAL[1], len(times) < _FEW
        if others and fast and not few:
            readings = ", and ".join(f"{_rate(rates[unit])}/s as {_NAMES[unit]}" for unit in (documented, others[0]))
            raise UnitError(
                f"the unit of its whole times cannot be told: they are {readings}; say requests.time_unit = "
                f"{documented!r} or {others[0]!r}"
            )
        if not others or (few and not fast):
            return Decided(value=documented, why=own)
        other = f"as {_NAMES[others[0]]} it would be {_rate(rates[others[0]])}/s: requests.time_unit = {others[0]!r}"
        return Decided(value=documented, why=f"{own}: {_rate(rates[documented])} requests/s ({other})")
    if usual == [documented] or (not usual and possible):
        return Decided(value=documented, why=own)
    if len(usual) == 1:
        told = ", ".join(f"{_rate(rates[unit])} requests/s as {_NAMES[unit]}" for unit in (usual[0], documented))
        return Decided(value=usual[0], why=f"times read as {_NAMES[usual[0]]}, by their rate ({told})")
    told = ", ".join(f"{_rate(rates[unit])}/s in {unit}" for unit in UNITS)
    raise UnitError(f"the unit of its times cannot be told (requests arrive at {told}); say requests.time_unit")


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100.0 else f"{rate:.3g}"


def block_size(
    lengths: Sequence[float], blocks: Sequence[int], documented: int | None, *, stated: int | None = None
) -> Decided | None:
    """Decide how many tokens a hash block has, from prompts and the number of blocks that each has.

    Parameters
    ----------
    lengths : sequence of number
        Prompt lengths [tokens].
    blocks : sequence of int
        Hash blocks of each prompt; prompts without any say nothing.
    documented : int, optional
        What the format's own document says [tokens].
    stated : int, optional
        What the user says [tokens]; it stands if the data do not contradict it.

    Returns
    -------
    Decided or None
        ``None`` where no prompt has blocks.

    Raises
    ------
    UnitError
        A prompt contradicts the others or the user, or the data fit several sizes as well.

    Notes
    -----
    A prompt of ``n`` tokens has ``ceil(n / block)`` blocks where the last one may be partly filled, and
    ``floor(n / block)`` where only full ones are hashed. Every prompt so bounds the size from both sides.
    """
    count, tokens = np.asarray(blocks, np.int64), np.asarray(lengths, np.float64)
    rows = np.flatnonzero((count > 0) & (tokens >= 1) & (tokens < 2**40))
    if not len(rows):
        return None
    count, prompt = count[rows], tokens[rows].astype(np.int64)
    least = np.stack([-(-prompt // count), prompt // (count + 1) + 1])
    most = np.stack([np.where(count > 1, -(-prompt // np.maximum(count - 1, 1)) - 1, 2**40), prompt // count])
    if stated is not None:
        fits = ((least <= stated) & (stated <= most)).any(axis=0)
        if not fits.all():
            at = int((~fits).argmax())
            raise UnitError(
                f"{_blocks(count[at], prompt[at])}, not of the {stated} that requests.block_tokens says", int(rows[at])
            )
        return Decided(value=stated, why="")
    least, most = np.maximum.accumulate(least, axis=1), np.minimum.accumulate(most, axis=1)
    left = (least <= most).any(axis=0)
    if not left.all():
        at = int((~left).argmax())
        before = (
            " or ".join(
                _range(*bounds)
                for bounds in zip(least[:, at - 1], most[:, at - 1], strict=True)
                if bounds[0] <= bounds[1]
            )
            if at
            else "none"
        )
        raise UnitError(f"{_blocks(count[at], prompt[at])}; the rows before have blocks of {before}", int(rows[at]))
    bounds = [(int(low), int(high)) for low, high in zip(least[:, -1], most[:, -1], strict=True) if low <= high]
    if documented is not None and any(low <= documented <= high for low, high in bounds):
        return Decided(value=documented, why=f"hash blocks of {documented} tokens, as the format and its data say")
    powers = sorted({2**e for e in range(41) for low, high in bounds if low <= 2**e <= high})
    sizes = powers or sorted({size for low, high in bounds if low == high for size in (low,)})
    if len(sizes) == 1 and (powers or all(low == high for low, high in bounds)):
        return Decided(value=sizes[0], why=f"hash blocks of {sizes[0]} tokens, by the number that prompts have")
    fit = " or ".join(_range(low, high) for low, high in bounds)
    raise UnitError(f"its prompts fit hash blocks of {fit}; say requests.block_tokens")


def _blocks(count: int, tokens: int) -> str:
    return f"{count:,} hash blocks for {tokens:,} tokens, which is {tokens / count:.4g} tokens to a block"


def _range(low: int, high: int) -> str:
    if low == high:
        return f"{low:,} tokens"
    return f"{low:,} tokens or more" if high >= 2**40 else f"{low:,} to {high:,} tokens"
