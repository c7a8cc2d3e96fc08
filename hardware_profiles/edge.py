"""The edge where files are read: whatever is wrong with a path, a text or its syntax becomes one short message.

Readers ask here for text, TOML and JSON and name the error that they raise. What comes back is bounded: a regular file
of moderate size, nested no deeper than any format of ours, without whole numbers that no float can hold.
"""

from __future__ import annotations

import json
import os
import stat
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from hardware_profiles.errors import MoesimError, nearest

#: Largest files that are read whole [bytes]: TOML is parsed slowly, JSON takes several times its size in memory.
MOST_TOML, MOST_JSON, MOST_LINE = 8 * 2**20, 256 * 2**20, 64 * 2**20
#: Deepest nesting of tables and lists; formats of ours have six levels [1].
DEEPEST = 64
#: Bits of the largest whole number that a float can hold [1].
_MOST_BITS = 1023
#: Longest part of a path in a message, and of a value [characters].
_LONGEST_PATH, _LONGEST_VALUE = 160, 60
#: Files beside a missing one whose names are compared with it [1].
_SIBLINGS = 2000


def shown(value: object, most: int = _LONGEST_VALUE) -> str:
    """Write a value for a message: on one line, without control characters, no longer than ``most``.

    Examples
    --------
    >>> shown("a" * 100, 12)
    "'aaaaaaa...'"
    """
    # Of a long list or text the beginning says enough, and its whole would cost as much again to write.
    if isinstance(value, str) and len(value) > most:
        return repr(printable(value[: max(most - 5, 1)]))[:-1] + "...'"
    if isinstance(value, list | tuple | dict) and len(value) > most:
        value = dict(islice(value.items(), most)) if isinstance(value, dict) else value[:most]
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        # Nested too deeply, or a whole number of too many digits.
        return f"a {type(value).__name__}"
    text = printable(text)
    return text if len(text) <= most else text[: max(most - 3, 1)] + "..."


def shown_path(path: str | Path) -> str:
    """Write a path for a message: without control characters, the end of one that is too long."""
    text = printable(str(path))
    return text if len(text) <= _LONGEST_PATH else "..." + text[3 - _LONGEST_PATH :]


def nearest_found(name: str, found: Iterable[object]) -> str:
    """Phrase what a file has that is nearest to what it lacks, few names and short ones."""
    names = [printable(str(each))[:_LONGEST_VALUE] for each in islice(found, 50)]
    hint = nearest(name, names).replace("allowed", "found")
    return hint if len(hint) <= 4 * _LONGEST_VALUE else hint[: 4 * _LONGEST_VALUE] + "..."


def printable(text: str) -> str:
    """Replace what a terminal would obey rather than print."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def regular_file(path: str | Path, error: type[MoesimError]) -> Path:
    """Return a path if it is a file that may be read whole, else raise; the message names the nearest file.

    Folders, pipes and devices are refused, so that nothing waits for what never comes.
    """
    file, where = Path(path), shown_path(path)
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  # Path.stat takes no path with a NUL as an OSError either
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"{where}: no such file{_nearest_file(file)}") from None
    except OSError as fault:
        raise error(f"{where}: cannot be read ({fault.strerror})") from None
    except ValueError:
        raise error(f"{where}: cannot be read (no path has such characters)") from None
    if stat.S_ISDIR(mode):
        raise error(f"{where}: is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise error(f"{where}: is a pipe or a device, not a file")
    return file


def exists(path: str | Path) -> bool:
    """Tell whether something is there; nothing is where no path can be so long, or has such characters."""
    return os.path.exists(path)  # noqa: PTH110  # Path.exists raises for some of them


def is_file(path: str | Path) -> bool:
    """Tell whether a file is there, whatever the path."""
    return os.path.isfile(path)  # noqa: PTH113  # Path.is_file raises for some of them


def is_folder(path: str | Path) -> bool:
    """Tell whether a folder is there, whatever the path."""
    return os.path.isdir(path)  # noqa: PTH112  # Path.is_dir raises for some of them


def _nearest_file(file: Path) -> str:
    try:
        with os.scandir(file.parent) as entries:
            names = [e.name for e in islice(entries, _SIBLINGS) if not e.is_dir(follow_symlinks=False)]
    except OSError:
        return ""
    hint = nearest(file.name, names)
    return f"; {printable(hint)}" if hint.startswith("did you mean") else ""


def read_text(path: str | Path, error: type[MoesimError], most: int = MOST_JSON) -> str:
    """Read a file of UTF-8 text of at most so many bytes."""
    file, where = regular_file(path, error), shown_path(path)
    try:
        size = file.stat().st_size
        if size > most:
            raise error(f"{where}: has {size / 2**20:,.0f} MiB, expected at most {most / 2**20:,.0f} MiB")
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as fault:
        raise error(f"{where}: is no text in UTF-8: byte {fault.start} ({fault.reason})") from None
    except OSError as fault:
        raise error(f"{where}: cannot be read ({fault.strerror or fault})") from None


def read_toml(path: str | Path, error: type[MoesimError]) -> dict[str, Any]:
    """Read a TOML file."""
    return parse_toml(read_text(path, error, MOST_TOML), shown_path(path), error)


def parse_toml(text: str, where: str, error: type[MoesimError]) -> dict[str, Any]:
    """Parse TOML that stands ``where``."""
    try:
        found = tomllib.loads(text)
    except RecursionError:
        raise error(f"{where}: not valid TOML: nested too deeply") from None
    except ValueError as fault:
        # Beside those of the syntax there are those of numbers with too many digits.
        raise error(f"{where}: not valid TOML: {reason(fault)}") from None
    require_bounded(found, where, error)
    return found


def toml_value(text: str, where: str, error: type[MoesimError]) -> Any:
    """Read what stands after an equals sign ``where``, as TOML; ``None``, which it cannot say, for no TOML."""
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return None
    except RecursionError:
        raise error(f"{where}: nested too deeply") from None
    except ValueError as fault:
        raise error(f"{where}: {reason(fault)}") from None
    require_bounded(value, where, error)
    return value


def read_json(path: str | Path, error: type[MoesimError]) -> Any:
    """Read a JSON document."""
    return parse_json(read_text(path, error), shown_path(path), error)


def parse_json(text: str, where: str, error: type[MoesimError]) -> Any:
    """Parse JSON that stands ``where``; an object that says a key twice is refused, for one of the two is wrong."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as fault:
        cut = fault.pos >= len(text.rstrip()) or fault.msg.startswith("Unterminated string")
        kind = "truncated JSON" if cut else "not JSON"
        column = f"column {fault.colno}"
        at = column if fault.lineno == 1 else f"line {fault.lineno}, {column}"
        raise error(
            f"{where}: {kind} ({fault.msg.removesuffix(' at')} at {at}): {shown(text[max(fault.pos - 20, 0) :])}"
        ) from None
    except RecursionError:
        raise error(f"{where}: not JSON: nested too deeply") from None
    except ValueError as fault:
        raise error(f"{where}: not JSON: {reason(fault)}") from None
    require_bounded(found, where, error)
    # Every key has a colon after its quote: more of those than keys are a text with a colon in it, or a key said twice.
    if text.count('":') + text.count('" :') > _keys(found):
        json.loads(text, object_pairs_hook=lambda pairs: _said_once(pairs, where, error))
    return found


def _keys(value: Any) -> int:
    """Count the keys of all objects inside a value [1]; lists of numbers are passed over by their first entry."""
    if isinstance(value, dict):
        return len(value) + sum(_keys(each) for each in value.values() if isinstance(each, dict | list))
    if isinstance(value, list) and value and isinstance(value[0], dict | list):
        return sum(map(_keys, value))
    return 0


def _said_once(pairs: list[tuple[str, Any]], where: str, error: type[MoesimError]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise error(f"{where}: the key {shown(twice)} stands twice in one object")
    return found


def json_lines(path: str | Path, error: type[MoesimError]) -> Iterator[tuple[int, Any]]:
    """Yield line number, from 1, and value of every line of a JSON-lines file that is not blank."""
    file, where = regular_file(path, error), shown_path(path)
    with file.open(encoding="utf-8-sig", errors="replace") as opened:
        number = 0
        while line := opened.readline(MOST_LINE):
            number += 1
            if len(line) == MOST_LINE:
                raise error(f"{where}: row {number}: is longer than {MOST_LINE / 2**20:.0f} MiB")
            if not line.isspace():
                yield number, parse_json(line, f"{where}: row {number}", error)


@contextmanager
def understanding(where: str, error: type[MoesimError]) -> Iterator[None]:
    """Turn what a reader stumbles over, such as text where it expects a list, into an error of the file."""
    try:
        yield
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError, MemoryError) as fault:
        raise error(f"{where}: a value is of a kind or size that is not expected ({reason(fault)})") from fault


def require_bounded(value: Any, where: str, error: type[MoesimError]) -> None:
    """Refuse what is nested too deeply, and whole numbers that no float can hold, wherever they stand in a value."""
    waiting: list[tuple[Any, int, str]] = [(value, 1, "")]
    while waiting:
        each, depth, key = waiting.pop()
        kind = type(each)
        if kind is int and each.bit_length() > _MOST_BITS:
            at = f"{where}: {shown(key)[1:-1]}" if key else where
            raise error(f"{at}: a whole number of some {each.bit_length() * 0.301:.0f} digits; expected at most 1e308")
        if kind is not dict and kind is not list:
            continue
        if depth > DEEPEST:
            raise error(f"{where}: nested too deeply, more than {DEEPEST} levels")
        pairs = each.items() if kind is dict else ((key, item) for item in each)
        waiting += [
            (item, depth + 1, name)
            for name, item in pairs
            if type(item) in (dict, list) or (type(item) is int and item.bit_length() > _MOST_BITS)
        ]


def reason(fault: Exception) -> str:
    """Say what a parser found wrong: its first sentence, on one line."""
    if "integer string conversion" in str(fault):
        return "a whole number of too many digits"
    text = printable(str(fault).partition("\n")[0]) or type(fault).__name__
    return text if len(text) <= 2 * _LONGEST_VALUE else text[: 2 * _LONGEST_VALUE] + "..."
