"""Published figures are predicted once for all tests, whichever process asks first."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from validation.papers.report import Verdict
from validation.papers.run import run_case

PaperVerdicts = Callable[[str], list[Verdict]]


@pytest.fixture(scope="session")
def paper_verdicts(tmp_path_factory: pytest.TempPathFactory) -> PaperVerdicts:
    """Return what gives the verdicts of a case, from a file that all workers of this run share."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "paper-verdicts"
    folder.mkdir(exist_ok=True)
    known: dict[str, list[Verdict]] = {}

    def verdicts(case: str) -> list[Verdict]:
        if case not in known:
            known[case] = _shared(folder / f"{case}.pickle", case)
        return known[case]

    return verdicts


def _shared(path: Path, case: str) -> list[Verdict]:
    if path.is_file():
        return list(pickle.loads(path.read_bytes()))  # noqa: S301  # this run wrote it
    found = run_case(case)
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_bytes(pickle.dumps(found))
    unfinished.replace(path)
    return found
