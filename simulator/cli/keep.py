"""Keeping the result of a run that has taken its time: where it should be, or else where it can be."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path

import typer

from simulator.cli.answer import MENDABLE, say
from simulator.errors import OutputError
from simulator.results.values import Result
from simulator.scenario import Scenario

#: A request takes so much of a result at least [bytes].
_REQUEST = 100.0


def least_bytes(scenario: Scenario) -> float:
    """Return the room that the result of a scenario takes at least [bytes]."""
    return _REQUEST * (scenario.requests.count or 0)


def keep(result: Result, folder: Path) -> str | None:
    """Write a result; where its folder does not take it, into one beside it, a temporary one, or one at home.

    Parameters
    ----------
    result : Result
        What came out.
    folder : Path
        Where it should go, as :func:`simulator.export.folders.check_output_folder` returned it.

    Returns
    -------
    str or None
        Why it is not there, and where it is instead; None where it is there.
    """
    from simulator import api

    try:
        api.save(result, folder)
    except OutputError as error:
        for place in _places(folder):
            try:
                instead = api.save(result, place / f"{folder.name}-{secrets.token_hex(4)}")
            except OutputError:
                continue
            return f"{error}; the result is in {instead}"
        return f"{error}; nor could it be written beside it, to {tempfile.gettempdir()} or home: only the text is left"
    return None


def require_kept(lost: str | None) -> None:
    """End with an error where a result is not where it should be; after it was printed, whatever happened."""
    if lost is not None:
        say(f"error: {lost}")
        raise typer.Exit(MENDABLE)


def _places(folder: Path) -> list[Path]:
    places = [folder.parent, Path(tempfile.gettempdir())]
    try:
        return [*places, Path.home()]
    except RuntimeError:
        # A user without a home.
        return places
