"""Whatever an input holds: an answer, or one short message and exit code 2; never a traceback or half a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.harness import LONG, Case, Causes, read, run
from tests.fuzz.kinds import KINDS

#: Cases of each kind that go through a command, and that go to readers alone.
COMMANDS, READERS = LONG or 60, LONG or 150
#: Kinds without a file that a reader of ours takes by itself.
FILELESS = {"settings", "paths", "arguments", "recorded_files"}


def gone_through(kind: str, cases: int, play: Callable[[Case, Path], str]) -> Causes:
    """Play so many cases of a kind; return what went wrong, by cause."""
    causes = Causes()

    @settings(
        max_examples=cases,
        derandomize=not LONG,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    @given(st.data())
    def every_case(data: st.DataObject) -> None:
        case = KINDS[kind](data.draw)
        with TemporaryDirectory() as folder:
            causes.add(play(case, Path(folder)), case)

    every_case()
    assert causes.cases >= cases // 2
    return causes


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_damaged_input_is_answered_or_refused_in_one_message(kind: str) -> None:
    causes = gone_through(kind, COMMANDS, run)
    assert not causes.counts, causes.told()


@pytest.mark.parametrize("kind", sorted(set(KINDS) - FILELESS))
def test_readers_raise_nothing_but_errors_that_a_user_can_mend(kind: str) -> None:
    causes = gone_through(kind, READERS, read)
    assert not causes.counts, causes.told()
