"""What a serving stack asks of a deployment before it serves, as data of its file: each condition with its source.

A condition names a rule of :mod:`simulator.feasibility` and gives its numbers and names. A stack without conditions,
such as one of your own, refuses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from hardware_profiles.edge import shown
from hardware_profiles.parse import check_keys, parse_choice, parse_text
from hardware_profiles.schema import Status
from simulator.catalogue import Catalogue
from simulator.errors import ProfileError, nearest
from simulator.scenario.sections import Exchange
from workloads.models.dtypes import DTYPE_BYTES
from workloads.models.mixers import MIXERS
from workloads.models.sizes import PARTS

Rule = Literal[
    "shard_multiple",
    "scale_blocks",
    "quant_methods",
    "weights_dtype",
    "cache_dtypes",
    "cache_dtype_on",
    "sparse_attention",
    "expert_degree",
    "attention_degree",
    "linear_heads",
    "redundant_slots",
    "pipeline_drafts",
    "draft_layers",
    "two_batch",
    "exchange_hidden",
    "exchange_choices",
    "exchange_ranks",
    "exchange_degree",
    "exchange_tokens",
    "recurrent_prefix",
    "context",
    "graphs",
]
Effect = Literal["refuses", "warns"]

_EFFECTS: tuple[Effect, ...] = get_args(Effect)
_STATUSES: tuple[Status, ...] = get_args(Status)
#: What each rule must have.
_READS: Mapping[Rule, tuple[str, ...]] = {
    "shard_multiple": ("dtypes", "parts"),
    "scale_blocks": ("dtypes", "output", "input"),
    "quant_methods": ("methods",),
    "weights_dtype": ("dtypes",),
    "cache_dtypes": ("dtypes",),
    "cache_dtype_on": ("dtypes", "mixers"),
    "exchange_hidden": ("exchanges", "sizes"),
    "exchange_choices": ("exchanges", "most"),
    "exchange_ranks": ("exchanges", "most", "domain"),
    "exchange_degree": ("exchanges",),
    "exchange_tokens": ("exchanges", "most"),
    "two_batch": ("exchanges",),
    "pipeline_drafts": ("drafts",),
}
#: What it may have besides.
_MAY_READ: Mapping[Rule, tuple[str, ...]] = {
    "shard_multiple": ("output", "input", "grouped"),
    "weights_dtype": ("parts", "priced_as"),
    "graphs": ("most",),
}
#: Names that lists may hold; generations of devices are whatever device files call them.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "dtypes": tuple(DTYPE_BYTES),
    "parts": PARTS,
    "mixers": tuple(MIXERS),
    "exchanges": get_args(Exchange),
    "drafts": ("mtp", "none"),
}
_LISTS = ("dtypes", "parts", "architectures", "mixers", "exchanges", "drafts", "methods")
_COUNTS = ("output", "input", "most", "domain")
_ABOUT = ("rule", "effect", "source", "status")
_MAY_SAY = ("architectures", "versions", "note", "remedy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One thing that a server asks of a deployment.

    Attributes
    ----------
    rule : str
        Which function judges it.
    effect : {"refuses", "warns"}
        Whether the server does not start (or ends), or runs something else than was asked.
    source, status : str
        Where the condition was read, and what kind of source it is.
    versions : str
        Releases that it holds for, where they are known.
    note : str
        What the server does instead, or why; the end of the message.
    remedy : str
        What would mend it, where the rule has nothing better to say.
    architectures : tuple of str
        Generations of devices that it holds for; all where absent.
    dtypes, parts, mixers, exchanges, drafts, methods : tuple of str
        Names that the rule reads; methods are those of ``quant_method``, in lower case and with dashes.
    sizes : tuple of int
        Sizes that a kernel was compiled for [elements].
    priced_as : str
        Format of the same size whose kernels the server runs instead; weights are priced in it.
    output, input : int
        Multiple that a shard's outputs and inputs must be, or block of a scale [elements]; 0 asks nothing.
    grouped : bool
        Shards must hold whole groups or blocks of a scale, whatever their size: those of the weights go before
        ``output`` and ``input``.
    most, domain : int
        Largest number that is allowed, and devices that a kernel takes for one node [1].
    """

    rule: Rule
    effect: Effect
    source: str
    status: Status
    versions: str = ""
    note: str = ""
    remedy: str = ""
    dtypes: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    mixers: tuple[str, ...] = ()
    exchanges: tuple[str, ...] = ()
    drafts: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    priced_as: str = ""
    output: int = 0
    input: int = 0
    grouped: bool = False
    most: int = 0
    domain: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StackConditions:
    """The conditions of one stack."""

    id: str
    name: str
    conditions: tuple[Condition, ...]
    aliases: tuple[str, ...] = ()


def load_conditions(stack: str) -> StackConditions:
    """Return the conditions of a stack by its id, alias, or the path of its file.

    Raises
    ------
    ProfileError
        No such stack, or a malformed condition.
    """
    return _STACKS.load(stack)


def read_conditions(data: Mapping[str, Any], file: str) -> tuple[Condition, ...]:
    """Read the conditions of a stack file.

    Raises
    ------
    ProfileError
        One of them is malformed.
    """
    listed = data.get("conditions", [])
    if not isinstance(listed, list):
        raise ProfileError(f"{file}: conditions: got {shown(listed)}, expected tables, each begun by [[conditions]]")
    return tuple(_condition(table, f"{file}: conditions.{index}") for index, table in enumerate(listed))


def _read(data: Mapping[str, Any], file: str) -> StackConditions:
    return StackConditions(
        id=parse_text(data, "id", file),
        name=parse_text(data, "name", file),
        aliases=_names(data["aliases"], f"{file}: aliases") if data.get("aliases") else (),
        conditions=read_conditions(data, file),
    )


def _condition(table: object, where: str) -> Condition:
    if not isinstance(table, dict):
        raise ProfileError(f"{where}: got {shown(table)}, expected a table")
    rule: Rule = parse_choice(table, "rule", get_args(Rule), where)
    required = (*_ABOUT, *_READS.get(rule, ()))
    check_keys(table, required, (*required, *_MAY_READ.get(rule, ()), *_MAY_SAY), where)
    found: dict[str, Any] = {
        "rule": rule,
        "effect": parse_choice(table, "effect", _EFFECTS, where),
        "source": parse_text(table, "source", where),
        "status": parse_choice(table, "status", _STATUSES, where),
        **{key: parse_text(table, key, where, default="") for key in ("versions", "note", "remedy", "priced_as")},
        **{key: _names(table[key], f"{where}.{key}") for key in _LISTS if key in table},
        **{key: _count(table[key], f"{where}.{key}") for key in _COUNTS if key in table},
    }
    if "sizes" in table:
        found["sizes"] = tuple(_count(size, f"{where}.sizes") for size in _list(table["sizes"], f"{where}.sizes"))
    if "grouped" in table:
        if not isinstance(table["grouped"], bool):
            raise ProfileError(f"{where}.grouped: got {shown(table['grouped'])}, expected true or false")
        found["grouped"] = table["grouped"]
    if found["priced_as"]:
        _same_size(found["priced_as"], found["dtypes"], f"{where}.priced_as")
    for key, known in _NAMES.items():
        _known(found.get(key, ()), known, f"{where}.{key}")
    return Condition(**found)


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ProfileError(f"{where}: got {shown(value)}, expected a list")
    return value


def _names(value: object, where: str) -> tuple[str, ...]:
    names = _list(value, where)
    if not all(isinstance(name, str) for name in names):
        raise ProfileError(f"{where}: got {shown(value)}, expected a list of names")
    return tuple(cast("list[str]", names))


def _same_size(name: str, dtypes: tuple[str, ...], where: str) -> None:
    """Refuse another format that would weigh another amount: weights stay as they are stored."""
    _known((name,), tuple(DTYPE_BYTES), where)
    if wrong := [dtype for dtype in dtypes if DTYPE_BYTES.get(dtype) != DTYPE_BYTES[name]]:
        raise ProfileError(f"{where}: {name} has another size than {wrong[0]}")


def _known(names: tuple[str, ...], allowed: tuple[str, ...], where: str) -> None:
    for name in names:
        if name not in allowed:
            raise ProfileError(f"{where}: unknown name {shown(name)}; {nearest(name[:80], allowed)}")


def _count(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ProfileError(f"{where}: got {shown(value)}, expected a whole number above 0")
    return value


_STACKS = Catalogue(
    folder=Path(__file__).parent / "stacks", what="stack", read=_read, unknown="stack.name: unknown serving stack"
)
