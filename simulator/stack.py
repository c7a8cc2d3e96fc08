"""Serving stacks as data: scheduling defaults, host overheads, and the kernels that they run.

A stack names a backend per kernel family; which coefficients that means on a device is looked up in the device's
profile, falling back to another backend or dtype of the same family where the device has none, and saying so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

from hardware_profiles.edge import shown, shown_path
from hardware_profiles.loader import kernel_backends
from hardware_profiles.parse import check_keys, parse_choice, parse_quantity
from hardware_profiles.schema import Quantity
from simulator.catalogue import Catalogue
from simulator.conditions import read_conditions
from simulator.errors import ProfileError, nearest
from simulator.exchange import EXCHANGES, Exchange
from simulator.scenario.sections import Exchange as ExchangeName
from simulator.scenario.sections import Overlap, Scheduler, StackScheduler
from simulator.scenario.sections import Stack as StackChoice
from workloads.models.spec import Phase

SCHEDULERS: tuple[StackScheduler, ...] = get_args(StackScheduler)
EXCHANGE_NAMES: tuple[ExchangeName, ...] = get_args(ExchangeName)
OVERLAPS: tuple[Overlap, ...] = get_args(Overlap)

#: Dimension of each number of a stack file.
_DIMENSIONS: Mapping[str, str] = {
    "token_budget": "one",
    "max_running": "one",
    "memory_fraction": "one",
    "reserved_output": "one",
    "step_spread": "one",
    "delivery_steps": "one",
    "graph_max_batch": "one",
    "graph_pad": "one",
    "cpu_gap": "time",
    "cpu_gap_per_request": "time",
    "prefill_gap": "time",
    "launch_eager": "time",
    "frontend": "time",
    "activation_reserve": "bytes",
}
#: Numbers that a stack may leave out.
_OPTIONAL: Mapping[str, str] = {"two_batch_prefill_tokens": "one", "two_batch_decode_tokens": "one"}

#: Numbers that are whole, and the least of each.
_COUNTS: Mapping[str, int] = {
    "token_budget": 1,
    "max_running": 1,
    "delivery_steps": 0,
    "graph_max_batch": 0,
    "graph_pad": 1,
    "two_batch_prefill_tokens": 0,
    "two_batch_decode_tokens": 0,
}
#: The most that any of them may be: tables are made for so many rows of a step.
_MOST = 2**20
#: Small ops that a stack may fuse into their neighbours.
FUSIONS = ("qk_norm_rope", "all_reduce_norm")

#: All numbers of a stack file.
STACK_NUMBERS: tuple[str, ...] = (*_DIMENSIONS, *_OPTIONAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class StackProfile:
    """What a serving stack does between and inside the kernels.

    Attributes
    ----------
    scheduler : {"mixed", "prefill_first"}
        ``mixed`` puts decode tokens and prefill chunks into one step; ``prefill_first`` runs waiting prompts alone.
    chunked : bool
        Whether a prompt longer than the budget may be split.
    exchange : str
        How tokens travel to experts under data-parallel attention, a key of :data:`simulator.exchange.EXCHANGES`.
    overlap : {"none", "shared_expert", "two_batch", "auto"}
        What runs beside the exchange of tokens; ``auto`` is whichever ends a step first.
    backends : Mapping of str to tuple of str
        Kernel backends by family, preferred first.
    fused : frozenset of str
        Small ops that the stack fuses into their neighbours.
    numbers : Mapping of str to Quantity
        Everything with a provenance; also readable as attributes below.
    """

    id: str
    name: str
    scheduler: Scheduler
    chunked: bool
    exchange: ExchangeName
    backends: Mapping[str, tuple[str, ...]]
    fused: frozenset[str]
    numbers: Mapping[str, Quantity]
    aliases: tuple[str, ...] = ()
    overlap: Overlap = "none"

    def number(self, name: str) -> float:
        """Return one number of the stack in SI."""
        return self.numbers[name].value

    def exchange_for(self, phase: Phase) -> Exchange:
        """Return how tokens travel to their experts in a phase."""
        return EXCHANGES[self.exchange].in_phase(phase)

    def expert_backends(self, phase: Phase, *, exchanged: bool) -> tuple[str, ...]:
        """Return the kernels of routed experts, preferred first; an exchange that sorts tokens has kernels by phase."""
        plain = self.backends.get("moe", ())
        return (*self.backends.get(f"moe_{phase}", ()), *plain) if exchanged else plain

    def two_batch_tokens(self, phase: Phase) -> int:
        """Return the fewest tokens of a rank whose step is cut in two; 2 where the stack has no threshold."""
        threshold = self.numbers.get(f"two_batch_{phase}_tokens")
        return max(int(threshold.value), 2) if threshold else 2


def stack_names() -> tuple[str, ...]:
    """List the built-in serving stacks."""
    return _STACKS.names()


def load_stack(name: str) -> StackProfile:
    """Return a serving stack by id, alias, or the path of a TOML file of one's own.

    Raises
    ------
    ProfileError
        No such stack, in which case the message names the nearest, or a malformed file.
    """
    return _STACKS.load(name)


def customised(choice: StackChoice, profiles: str | Path | None = None) -> StackProfile:
    """Load the stack that a scenario names and apply the scenario's changes, marked as such.

    Parameters
    ----------
    choice : Stack
        What the scenario says of its stack.
    profiles : str or Path, optional
        The user's profiles, whose devices may have kernels that no built-in one has.

    Raises
    ------
    ProfileError
        As for :func:`load_stack`; or the file names kernels that no device has.
    """
    profile = load_stack(choice.name)
    if choice.name.endswith(".toml"):
        _require_kernels(profile, shown_path(choice.name), kernel_backends(Path(profiles) if profiles else None))
    numbers = dict(profile.numbers)
    for key in ("token_budget", "max_running", "memory_fraction", "cpu_gap"):
        value = getattr(choice, key)
        if value is not None:
            unit = numbers[key].unit if _DIMENSIONS[key] == "one" else "s"
            numbers[key] = Quantity(
                value=float(value), unit=unit, stated=float(value), source="scenario", status="assumption"
            )
    return replace(
        profile,
        numbers=numbers,
        scheduler=choice.scheduler or profile.scheduler,
        exchange=choice.exchange or profile.exchange,
        overlap=choice.overlap or profile.overlap,
    )


def _require_kernels(profile: StackProfile, file: str, known: Mapping[str, Collection[str]]) -> None:
    """Refuse families and backends of kernels, by the names of their tables, that no device has."""
    for family, backends in profile.backends.items():
        # Experts may have kernels by phase, whose tables have one name.
        table = "moe" if family in ("moe_prefill", "moe_decode") else family
        if table not in known:
            raise ProfileError(f"{file}: backends: unknown kernel family {shown(family)}; {nearest(family, known)}")
        for backend in backends:
            if backend not in known[table]:
                hint = nearest(backend, known[table])
                raise ProfileError(f"{file}: backends.{family}: no device has a kernel {shown(backend)}; {hint}")


def kernel_table(
    kernels: Mapping[str, Mapping[str, Quantity]],
    family: str,
    backends: tuple[str, ...],
    dtype: str | None,
    where: str,
    *,
    substitutes: bool = True,
) -> tuple[str, Mapping[str, Quantity]]:
    """Find the coefficients of a kernel: preferred backends first, then any, the exact dtype before its relatives.

    Parameters
    ----------
    kernels : Mapping
        All kernel tables of a device, named ``family.backend`` or ``family.backend.dtype``.
    family, backends, dtype : str, tuple of str, str or None
        What is wanted.
    where : str
        The device, for the error message.
    substitutes : bool
        Whether a backend that is not among the preferred ones will do.

    Returns
    -------
    tuple
        Name of the table and its coefficients.

    Raises
    ------
    ProfileError
        The device has no kernel of that family, or none of these backends where no other will do.
    """
    found = dict.fromkeys(name.split(".")[1] for name in kernels if name.split(".")[0] == family)
    others = tuple(found) if substitutes else ()
    for wanted in _dtype_relatives(dtype):
        for backend in (*backends, *others):
            name = f"{family}.{backend}.{wanted}" if wanted else f"{family}.{backend}"
            if name in kernels:
                return name, kernels[name]
    if not substitutes:
        name = f"{family}.{backends[0]}"
        raise ProfileError(f"{where}: no coefficients of kernel {name!r}; {nearest(name, kernels)}")
    msg = f"{where}: no coefficients of any {family} kernel" + (f" for {dtype}" if dtype else "")
    raise ProfileError(msg)


def _dtype_relatives(dtype: str | None) -> tuple[str | None, ...]:
    """Order dtypes by how alike their kernels are; the last resort is a table without dtype."""
    relatives: Mapping[str, tuple[str, ...]] = {
        "fp8_block": ("fp8_block", "fp8", "int8", "bfloat16"),
        "fp8": ("fp8", "fp8_block", "int8", "bfloat16"),
        "int8": ("int8", "fp8", "fp8_block", "bfloat16"),
        # Multiplied as they are, like FP8 and unlike MXFP4, which kernels widen to 16 bits first.
        "nvfp4": ("nvfp4", "fp8", "fp8_block", "mxfp4", "bfloat16"),
        "mxfp4": ("mxfp4", "int4", "nvfp4", "bfloat16"),
        "int4": ("int4", "mxfp4", "bfloat16"),
        "float32": ("float32", "bfloat16"),
    }
    return (*relatives.get(dtype or "", (dtype,) if dtype else ()), None)


def _read(data: Mapping[str, Any], file: str) -> StackProfile:
    allowed = {"id", "name", "aliases", "scheduler", "chunked", "exchange", "fused", "backends", "numbers", "overlap"}
    check_keys(data, allowed - {"aliases", "fused", "overlap"}, {*allowed, "conditions"}, file)
    # Nothing is priced by conditions, so that they are kept apart; a malformed one must not end a run that is done.
    read_conditions(data, file)
    numbers, backends = (_table(data[key], f"{file}: {key}") for key in ("numbers", "backends"))
    check_keys(numbers, _DIMENSIONS, {**_DIMENSIONS, **_OPTIONAL}, f"{file}: numbers")
    return StackProfile(
        id=_text(data["id"], f"{file}: id"),
        name=_text(data["name"], f"{file}: name"),
        aliases=_texts(data.get("aliases", []), f"{file}: aliases"),
        scheduler=parse_choice(data, "scheduler", SCHEDULERS, file),
        chunked=_flag(data["chunked"], f"{file}: chunked"),
        exchange=parse_choice(data, "exchange", EXCHANGE_NAMES, file),
        backends={family: _texts(names, f"{file}: backends.{family}") for family, names in backends.items()},
        fused=_fused(data.get("fused", []), f"{file}: fused"),
        overlap=parse_choice(data, "overlap", OVERLAPS, file) if "overlap" in data else "none",
        numbers={key: _quantity(value, key, file) for key, value in numbers.items()},
    )


def _quantity(table: object, key: str, file: str) -> Quantity:
    where = f"{file}: numbers.{key}"
    found = parse_quantity(table, cast("Any", {**_DIMENSIONS, **_OPTIONAL}[key]), where, zero_allowed=True)
    if key == "memory_fraction" and not 0 < found.value <= 1:
        raise ProfileError(f"{where}: got {found.value:g}, expected a share above 0 and at most 1")
    if key in _COUNTS and (found.value != round(found.value) or not _COUNTS[key] <= found.value <= _MOST):
        raise ProfileError(f"{where}: got {found.value:g}, expected a whole number from {_COUNTS[key]} to {_MOST:,}")
    return found


def _fused(value: object, where: str) -> frozenset[str]:
    names = _texts(value, where)
    for name in names:
        if name not in FUSIONS:
            raise ProfileError(f"{where}: unknown {shown(name)}; {nearest(name, FUSIONS)}")
    return frozenset(names)


def _table(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ProfileError(f"{where}: got {shown(value)}, expected a table")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise ProfileError(f"{where}: got {shown(value)}, expected text")
    return value


def _texts(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ProfileError(f"{where}: got {shown(value)}, expected a list of names")
    return tuple(value)


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise ProfileError(f"{where}: got {shown(value)}, expected true or false")
    return value


_STACKS = Catalogue(
    folder=Path(__file__).parent / "stacks", what="stack", read=_read, unknown="stack.name: unknown serving stack"
)
