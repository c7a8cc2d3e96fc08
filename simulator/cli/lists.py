"""Options that take several values: written alike in every command, whatever they hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from typer.core import TyperCommand

from simulator.errors import ScenarioError

#: What may follow the first value of a list as a word of its own, by what the list holds.
_ASSIGNMENT, _NUMBER, _NAME, _NOTHING = r"[A-Za-z_][\w.]*=", r"[\d,]+$", r"[^-]", r"(?!)"


class ListCommand(TyperCommand):
    """A command whose lists take commas, further words and repeats alike: ``--ep 4,8``, ``--ep 4 8``.

    An option is a list where it may be repeated; its metavar says what it holds: ``KEY=VALUE``, ``N,...``, or names.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Spread the lists, then read the options as every command does."""
        lists = {
            option: (_further(param, named=self._has_argument), str(param.metavar).endswith(",..."))
            for param in self.params
            if getattr(param, "multiple", False)
            for option in param.opts
        }
        return super().parse_args(ctx, spread_lists(args, lists))

    @property
    def _has_argument(self) -> bool:
        """Whether a word that belongs to no option means something."""
        return any(param.param_type_name == "argument" for param in self.params)


def _further(param: Any, *, named: bool) -> str:
    """Pattern of further words of a list; names beside an argument have none, as nobody could tell them apart."""
    holds = str(param.metavar)
    if "=" in holds:
        return _ASSIGNMENT
    return _NUMBER if holds == "N,..." else _NOTHING if named else _NAME


def spread_lists(args: list[str], lists: Mapping[str, tuple[str, bool]]) -> list[str]:
    """Repeat the options of ``lists`` before each of their values.

    Parameters
    ----------
    args : list of str
        What was typed.
    lists : mapping of str to (str, bool)
        By option: the pattern of further words that are its values, and whether commas part values.

    Examples
    --------
    >>> lists = {"--set": (r"\\w.*=", False), "--ep": (r"\\d", True)}
    >>> spread_lists(["a.toml", "--set", "seed=1", "p.tp=2", "--ep", "4,8", "16", "--json"], lists)
    ['a.toml', '--set', 'seed=1', '--set', 'p.tp=2', '--ep', '4', '--ep', '8', '--ep', '16', '--json']
    """
    spread: list[str] = []
    option, first = "", False
    for arg in args:
        if first or (option and re.match(lists[option][0], arg)):
            values = [part.strip() for part in arg.split(",")] if lists[option][1] else [arg]
            # The option itself stands there already for the first of its values.
            spread += [word for value in values for word in (option, value)][1 if first else 0 :]
            first = False
            continue
        option = arg if arg in lists else ""
        first = bool(option)
        spread.append(arg)
    return spread


def whole_numbers(option: str, texts: list[str], least: int) -> list[int]:
    """Read the numbers of a list.

    Examples
    --------
    >>> whole_numbers("--ep", ["4", "8"], 2)
    [4, 8]

    Raises
    ------
    ScenarioError
        A part is no whole number, or less than ``least``.
    """
    try:
        found = [int(text) for text in texts]
    except ValueError:
        found = []
    if not found or min(found) < least:
        raise ScenarioError(
            f"{option}: got {','.join(texts)!r}, expected whole numbers of at least {least}, as in {option} 8,16"
        )
    return found
