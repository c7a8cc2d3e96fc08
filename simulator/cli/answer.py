"""How an answer leaves: text or one JSON document on standard output, everything else on standard error."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer

from hardware_profiles.edge import printable
from simulator.errors import InfeasibleScenario, MoesimError

#: Exit code of everything that the user can mend: wrong usage, wrong input, a scenario that cannot run.
MENDABLE = 2
INTERRUPTED = 130
#: Longest message, however many things are wrong [characters].
_LONGEST = 480
#: What terminals obey and JSON allows: codes of one byte beyond ASCII, and those that turn the direction of text.
_OBEYED = re.compile("[\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@contextmanager
def answering(*, as_json: bool = False) -> Iterator[None]:
    """Turn errors that the user can mend into one message and exit code 2, an interrupt into 130.

    With ``as_json`` the message is also the JSON document: ``{"error": {"kind", "message"}}``. Errors of ours keep
    their traceback, because they are bugs.
    """
    try:
        yield
    except MoesimError as error:
        label = "infeasible" if isinstance(error, InfeasibleScenario) else "error"
        if as_json:
            print_json({"error": {"kind": type(error).__name__, "message": str(error)}})
        say(f"{label}: " + _first_lines(str(error)).replace("\n", "\n" + " " * (len(label) + 2)))
        raise typer.Exit(MENDABLE) from None
    except KeyboardInterrupt:
        say("interrupted: nothing was written")
        raise typer.Exit(INTERRUPTED) from None


def _first_lines(message: str) -> str:
    """Keep the first things that are wrong with a scenario, as many as make a short message."""
    lines = message.split("\n")
    if len(message) <= _LONGEST or len(lines) == 1:
        return message
    kept = 1
    while len("\n".join(lines[: kept + 1])) <= _LONGEST - 60:
        kept += 1
    return "\n".join([*lines[:kept], f"... and {len(lines) - kept:,} more; 'moesim check' shows them"])


def say(message: str) -> None:
    """Print lines on standard error, what no terminal should obey replaced."""
    print(_lines(message), file=sys.stderr)


def tell(message: str) -> None:
    """Print lines on standard output, likewise."""
    print(_lines(message))


def _lines(message: str) -> str:
    return "\n".join(printable(line) for line in message.split("\n"))


def print_json(document: Mapping[str, Any]) -> None:
    """Print one strict JSON document (RFC 8259) in UTF-8; numbers that JSON cannot hold become null."""
    from simulator.export.files import encode_json

    text = encode_json(document).decode()
    # JSON may hold them as they are; a terminal would obey them.
    typer.echo(_OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode(), nl=False)
