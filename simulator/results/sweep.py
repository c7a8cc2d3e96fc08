"""The answers to many scenarios, in their order, and the one table that they make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, overload

from pydantic import BaseModel

from simulator.errors import MoesimError
from simulator.results.values import Distribution, Estimate, Summary
from simulator.scenario import Scenario

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one scenario.

    Attributes
    ----------
    scenario : Scenario
        The question.
    how : {"solved", "played", "refused"}
        Whether the closed form answered, the events did, or nobody.
    estimate : Estimate or None
        The answer; that of a scenario that was played has its summary, breakdown, warnings and provenance, not its
        frames. ``None`` where nobody answered.
    error : MoesimError or None
        Why nobody did: it does not fit, cannot be loaded, or the closed form knows nothing of what it asks for.
    """

    scenario: Scenario
    how: Literal["solved", "played", "refused"]
    estimate: Estimate | None = None
    error: MoesimError | None = None


class Sweep(Sequence[Outcome]):
    """The outcomes of many scenarios, in the order in which these were given."""

    __slots__ = ("_outcomes",)

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self._outcomes = tuple(outcomes)

    @overload
    def __getitem__(self, index: int) -> Outcome: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Outcome, ...]: ...

    def __getitem__(self, index: int | slice) -> Outcome | tuple[Outcome, ...]:
        """Return one outcome, or some of them."""
        return self._outcomes[index]

    def __len__(self) -> int:
        """Count the scenarios."""
        return len(self._outcomes)

    def __iter__(self) -> Iterator[Outcome]:
        """Go through the outcomes."""
        return iter(self._outcomes)

    def __repr__(self) -> str:
        """Say how many were answered in which way."""
        ways = [outcome.how for outcome in self._outcomes]
        said = [f"{ways.count(how)} {how}" for how in ("solved", "played", "refused") if how in ways]
        return f"<Sweep of {len(self)} scenarios: {', '.join(said) or 'none'}>"

    def frame(self) -> pd.DataFrame:
        """Put the outcomes into a table, one row per scenario.

        Returns
        -------
        DataFrame
            The name of the scenario, a column for every key in which the scenarios differ
            (``requests.concurrency``), ``how`` it was answered and ``why_not``, and the numbers of the summary:
            means of latencies [s], rates per second, and both ends of the interval as factors on times [1]. NaN where
            there is no answer.
        """
        import pandas as pd

        columns: dict[str, Sequence[Any]] = {"scenario": [outcome.scenario.name for outcome in self._outcomes]}
        columns |= _differing([outcome.scenario for outcome in self._outcomes])
        columns["how"] = [outcome.how for outcome in self._outcomes]
        columns["why_not"] = ["" if outcome.error is None else str(outcome.error) for outcome in self._outcomes]
        numbers = [None if outcome.estimate is None else outcome.estimate.summary for outcome in self._outcomes]
        return pd.DataFrame(columns | _numbers(numbers))


def _differing(scenarios: Sequence[Scenario]) -> dict[str, list[Any]]:
    """Return the values of the keys in which scenarios differ, by dotted key."""
    columns: dict[str, list[Any]] = {}
    for name in Scenario.model_fields:
        if name == "name":
            continue
        values = [getattr(scenario, name) for scenario in scenarios]
        known = {value: _flat(name, value) for value in dict.fromkeys(values)}
        if len(known) < 2:
            continue
        for key in dict.fromkeys(key for flat in known.values() for key in flat):
            column = [known[value].get(key) for value in values]
            if any(each != column[0] for each in column):
                columns[key] = column
    return columns


def _flat(key: str, value: Any) -> dict[str, Any]:
    """Return a section's values by dotted key; rows of tables stay what they are."""
    if not isinstance(value, BaseModel):
        return {key: value}
    found: dict[str, Any] = {}
    for name, inner in value:
        found |= _flat(f"{key}.{name}", inner)
    return found


def _numbers(summaries: Sequence[Summary | None]) -> dict[str, list[float]]:
    """Return the numbers of summaries by column; NaN where there is none."""
    nan = float("nan")
    columns: dict[str, list[float]] = {}
    for field in fields(Summary):
        values = [None if summary is None else getattr(summary, field.name) for summary in summaries]
        if field.name == "interval_80":
            ends = [(nan, nan) if value is None else value for value in values]
            columns["interval_80_low"], columns["interval_80_high"] = ([pair[end] for pair in ends] for end in (0, 1))
        else:
            columns[field.name] = [
                nan if value is None else value.mean if isinstance(value, Distribution) else value for value in values
            ]
    return columns
