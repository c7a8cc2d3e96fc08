"""Errors of the data packages.

* MoesimError        anything the user can mend; the CLI prints it and exits with 2
  x ProfileError     a hardware profile that is missing, malformed or inconsistent
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

#: Longest name that is compared with others, list of names, word, line and message [characters, lines].
_NAME, _NAMES, _WORD, _LINE, _LINES = 100, 320, 160, 460, 40

#: What tells products apart; likeness of first words from which they are one word, a slip in it aside [1].
_NUMBERS, _FIRST_WORD, _SLIP = re.compile(r"[a-z]?\d+"), re.compile(r"[a-z]+"), 0.75


class MoesimError(Exception):
    """Base of every error that a user can mend; its message is fit for a terminal, whatever it quotes."""

    def __str__(self) -> str:
        """Return the message, what no terminal should obey replaced and what is endless cut."""
        return tidy(super().__str__())


def tidy(message: str) -> str:
    """Make a message fit for a terminal.

    Parameters
    ----------
    message : str
        What may quote a user's file: control characters, endless words, thousands of lines.

    Examples
    --------
    >>> tidy("a\\x1b[31m: got " + "9" * 5000)[:30]
    'a?[31m: got 999999999999999999'
    >>> len(tidy("x" * 5000))
    163
    """
    lines = message.split("\n")
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], f"... and {len(lines) - _LINES + 1:,} more"]
    return "\n".join(_tidy_line(line) for line in lines)


def _tidy_line(line: str) -> str:
    if len(line) > _WORD:
        # The middle of a word says least: a path begins and ends with what tells it.
        line = re.sub(rf"\S{{{_WORD},}}", lambda word: _cut(word[0], _WORD), line)
    line = _cut(line, _LINE)
    return line if line.isprintable() else "".join(c if c.isprintable() else "?" for c in line)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most * 2 // 3] + "..." + text[-(most - most * 2 // 3) :]


class ProfileError(MoesimError):
    """A hardware profile is missing, malformed or inconsistent."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Phrase the valid names nearest to ``name``, for the end of an error message.

    Examples
    --------
    >>> nearest("h100", ["h100-sxm", "a100-sxm"])
    "did you mean 'h100-sxm' or 'a100-sxm'?"
    """
    names = sorted(allowed)
    # No name is so long; what somebody pasted takes minutes to compare.
    close = difflib.get_close_matches(name[:_NAME], names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(n) for n in close) + "?"
    listed = ", ".join(names)
    if len(listed) <= _NAMES:
        return f"allowed: {listed}"
    fit = listed[:_NAMES].rpartition(", ")[0]
    return f"allowed: {fit} and {len(names) - fit.count(', ') - 1} more"


def nearest_product(name: str, products: Iterable[str]) -> str:
    """Phrase the products that ``name`` may mean; empty where none is, so that no other is taken in its place.

    Products of one maker differ by their numbers and those of several by their first word, so that names which differ
    in either mean different things, however alike they look.

    Examples
    --------
    >>> nearest_product("h100-smx", ["h100-sxm", "h200-sxm", "b100-sxm"])
    "did you mean 'h100-sxm'?"
    >>> nearest_product("mi300x", ["b300-sxm", "h100-sxm"]), nearest_product("gpt-5", ["glm-5", "gpt-oss-20b"])
    ('', '')
    """
    name = name[:_NAME].lower()
    numbers, word = _numbers(name), _FIRST_WORD.match(name)
    alike = [
        other
        for other in products
        if all(any(theirs.startswith(number) for theirs in _numbers(other)) for number in numbers)
        and _alike(word, _FIRST_WORD.match(other))
    ]
    hint = nearest(name, alike) if alike else ""
    return hint if hint.startswith("did you mean") else ""


def _numbers(name: str) -> set[str]:
    """Collect the numbers of a name, each with the letter before it: v4 is not fp4, and llama4 is llama-4."""
    return set(_NUMBERS.findall(re.sub(r"[^a-z0-9]", "", name)))


def _alike(one: re.Match[str] | None, other: re.Match[str] | None) -> bool:
    """Whether two first words are one word, slips of typing aside."""
    if one is None or other is None:
        return one is other
    return difflib.SequenceMatcher(None, one[0], other[0]).ratio() >= _SLIP
