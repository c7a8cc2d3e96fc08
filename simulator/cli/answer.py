"""How an answer leaves: text or one JSON document on standard output, everything else on standard error."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from simulator.errors import InfeasibleScenario, MoesimError

#: Exit code of everything that the user can mend: wrong usage, wrong input, a scenario that cannot run.
MENDABLE = 2
INTERRUPTED = 130


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
        say(f"{label}: " + str(error).replace("\n", "\n" + " " * (len(label) + 2)))
        raise typer.Exit(MENDABLE) from None
    except KeyboardInterrupt:
        say("interrupted: nothing was written")
        raise typer.Exit(INTERRUPTED) from None


def say(message: str) -> None:
    """Print a line on standard error."""
    print(message, file=sys.stderr)


def print_json(document: Mapping[str, Any]) -> None:
    """Print one strict JSON document (RFC 8259): numbers that JSON cannot hold become null."""
    print(json.dumps(plain(document), allow_nan=False, indent=2))


def plain(value: Any) -> Any:
    """Reduce a value to what JSON holds.

    Dataclasses become objects, arrays and numpy scalars become lists and numbers, NaN and infinities become null.

    Examples
    --------
    >>> plain({"a": (1, float("nan"))})
    {'a': [1, None]}
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    msg = f"a {type(value).__name__} has no place in JSON"
    raise TypeError(msg)
