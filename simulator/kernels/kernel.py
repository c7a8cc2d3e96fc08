"""What every kernel model shares: the silicon it runs on, the fabric it talks over, and the time it returns.

A kernel model is a pure function of arrays. It takes shapes (numbers or arrays that broadcast), a
:class:`Silicon` or a :class:`Fabric` (what belongs to the hardware) and a small frozen dataclass of coefficients
(what belongs to the kernel), and returns a :class:`KernelTime`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from hardware_profiles.errors import ProfileError, nearest
from hardware_profiles.schema import Quantity, Status
from simulator.arrays import FloatArray
from workloads.models.dtypes import DTYPE_BYTES as DTYPE_BYTES

#: How much faster the last-level cache delivers than memory [1]: about 6 TB/s against 3.35 on H100. Only benchmarks
#: that repeat a call feel it; in serving the other layers evict what a layer left there.
CACHE_SPEED = 1.8
#: Working set, in cache sizes, below which data that was just used is found again, and above which none of it
#: is: the cache is two partitions, and a scan that does not fit evicts what it will need next.
CACHE_HOLDS = (0.67, 0.85)
#: Sharpness of the blend with a time below which the host cannot issue a kernel [1]: the two run beside each other, so
#: that the longer counts almost alone.
HOST_SHARPNESS = 8.0
#: Sharpness of the blend of two kinds of link that work at once [1]: they share little but the memory.
LINK_SHARPNESS = 4.0
#: Time after which a busy chip lowers its clock to stay within its power limit [s].
THROTTLE_TIME = 5e-4
#: Arithmetic in which a storage dtype is multiplied where it is not of the same name: block scales change no
#: arithmetic, and weight-only formats are widened to 16 bits first.
ARITHMETIC: Mapping[str, str] = {"fp8_block": "fp8", "nvfp4": "fp4", "mxfp4": "bfloat16", "int4": "bfloat16"}


#: Metadata of a coefficient that is true or false.
FLAG: Mapping[str, Any] = {"unit": "flag"}


def choice_of(words: tuple[str, ...]) -> Mapping[str, Any]:
    """Return the metadata of a coefficient that is one of a few words."""
    return {"unit": "choice", "choices": words}


@dataclass(frozen=True, slots=True, kw_only=True)
class Silicon:
    """What belongs to a processor and its memory, in SI floats.

    ``units`` are SMs or AI cores [1]; ``clock`` [Hz]; ``peak`` dense FLOP/s by arithmetic dtype (``bfloat16``,
    ``fp8``, ``int8``, ``fp4``, ``float32``); ``memory_bandwidth`` [bytes/s]; ``cache`` [bytes]; ``sustained`` the rate
    of long matrix kernels over that of the chips on which their loss of clock was fitted [1]. ``name`` is what messages
    call it.
    """

    units: float
    clock: float
    peak: Mapping[str, float]
    memory_bandwidth: float
    cache: float
    sustained: float = 1.0
    name: str = "the processor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """What belongs to the links between ranks, in SI floats, per direction and per rank.

    ``scale_up_*`` within a scale-up domain of ``domain`` ranks (NVLink, HCCS, Unified Bus), ``scale_out_*`` between
    domains (InfiniBand, RoCE). ``switched`` is false where ranks are joined pairwise (full mesh), so that one pair
    sees only its own link. ``switch_reduction`` is the share of the links' bandwidth at which the switch adds, over
    that of the switches on which kernels were fitted [1]; 0 where it cannot add. ``clock`` [Hz], 0 where unknown, and
    ``memory_bandwidth`` [bytes/s] are those of a rank's processor, which runs the collectives.
    """

    domain: int
    scale_up_bandwidth: float
    scale_up_latency: float
    scale_out_bandwidth: float
    scale_out_latency: float
    switched: bool = True
    switch_reduction: float = 1.0
    clock: float = 0.0
    memory_bandwidth: float = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a kernel has under it: the processor that runs it, and the links over which its rank reaches others."""

    silicon: Silicon
    fabric: Fabric


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTime:
    """Predicted time of a kernel [s] and the terms that it was made of [s], by name.

    Terms are what each bound alone would take (``compute``, ``memory``, ``launch``, ``link``, ``latency``); they
    explain the time and need not add up to it. ``imbalance_wait`` is what the slowest rank adds where ``seconds`` is
    the time of the mean rank [s].
    """

    seconds: FloatArray
    terms: Mapping[str, FloatArray]
    imbalance_wait: FloatArray | float = 0.0


T = TypeVar("T")


def coefficients(kind: type[T], table: Mapping[str, Quantity], where: str) -> T:
    """Fill a coefficient dataclass from a profile's table of quantities.

    Parameters
    ----------
    kind : type
        A dataclass of floats, flags (metadata :data:`FLAG`) and choices (:func:`choice_of`).
    table : Mapping of str to Quantity
        The profile's coefficients of this kernel.
    where : str
        Device and kernel, for the error message.

    Raises
    ------
    ProfileError
        A coefficient is missing or unknown, or is not of its field's kind.
    """
    fields: dict[str, Any] = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    required = {n for n, f in fields.items() if f.default is dataclasses.MISSING}
    if missing := sorted(required - table.keys()):
        raise ProfileError(f"{where}: missing coefficient {', '.join(missing)}")
    if unknown := sorted(table.keys() - fields.keys()):
        raise ProfileError(f"{where}: unknown coefficient {', '.join(unknown)}; allowed: {', '.join(sorted(fields))}")
    return kind(**{name: _value(fields[name], quantity, f"{where}: {name}") for name, quantity in table.items()})


def quantities(kernel: Any, *, source: str, status: Status) -> dict[str, Quantity]:
    """Turn a coefficient dataclass back into a profile's table; the inverse of :func:`coefficients`."""
    found = {}
    for field in dataclasses.fields(kernel):
        value, unit = getattr(kernel, field.name), field.metadata.get("unit", "1")
        number, text = (0.0, value) if unit == "choice" else (float(value), "")
        found[field.name] = Quantity(value=number, unit=unit, stated=number, source=source, status=status, text=text)
    return found


def _value(field: dataclasses.Field[Any], quantity: Quantity, where: str) -> float | bool | str:
    """Take a coefficient as its field wants it."""
    wanted = field.metadata.get("unit", "1")
    found = quantity.unit if quantity.unit in {"flag", "choice"} else "number"
    expected = wanted if wanted in {"flag", "choice"} else "number"
    if found != expected:
        example = {"flag": 'value = true, unit = "flag"', "choice": 'value = "word", unit = "choice"'}
        raise ProfileError(f"{where} is a {expected}, not a {found}; write {{ {example.get(expected, 'a quantity')} }}")
    if expected == "choice":
        choices = field.metadata["choices"]
        if quantity.text not in choices:
            raise ProfileError(f"{where}: unknown choice {quantity.text!r}; {nearest(quantity.text, choices)}")
        return quantity.text
    return bool(quantity.value) if expected == "flag" else quantity.value


def smooth_max(a: ArrayLike, b: ArrayLike, sharpness: ArrayLike) -> FloatArray:
    """Blend two bounds [s]: the p-norm, above either and near the larger when they differ.

    ``sharpness`` p is 1 for a plain sum (no overlap) and grows towards a hard maximum (perfect overlap).
    """
    x, y, sharpness = (np.asarray(value, dtype=np.float64) for value in (a, b, sharpness))
    high, low = np.maximum(x, y), np.minimum(x, y)
    ratio = np.divide(low, high, out=np.zeros_like(high + low), where=high > 0)
    return np.asarray(high * (1.0 + ratio**sharpness) ** (1.0 / sharpness), dtype=np.float64)


def found_in_cache(size: FloatArray, silicon: Silicon) -> FloatArray:
    """Share [1] of a working set of ``size`` [bytes] that stays in the cache from one call to the next."""
    low, high = (share * silicon.cache for share in CACHE_HOLDS)
    return np.clip((high - size) / max(high - low, 1.0), 0.0, 1.0)


def dtype_bytes(dtype: str) -> float:
    """Bytes per element of a storage dtype [bytes]; unknown names are refused with the nearest one."""
    if dtype not in DTYPE_BYTES:
        raise ProfileError(f"unknown dtype {dtype!r}; {nearest(dtype, DTYPE_BYTES)}")
    return DTYPE_BYTES[dtype]


def matrix_peak(dtype: str, silicon: Silicon) -> float:
    """Dense peak [FLOP/s] of the arithmetic that operands stored as ``dtype`` are multiplied in.

    Raises
    ------
    ProfileError
        The dtype is unknown, or the processor has no such arithmetic.

    Examples
    --------
    >>> chip = Silicon(units=132, clock=1.8e9, peak={"bfloat16": 1e15, "fp8": 2e15}, memory_bandwidth=3e12, cache=5e7)
    >>> matrix_peak("fp8_block", chip), matrix_peak("mxfp4", chip)
    (2000000000000000.0, 1000000000000000.0)
    """
    dtype_bytes(dtype)
    arithmetic = ARITHMETIC.get(dtype, dtype)
    if silicon.peak.get(arithmetic, 0.0) <= 0.0:
        have = ", ".join(sorted(name for name, rate in silicon.peak.items() if rate > 0))
        raise ProfileError(
            f"dtype {dtype!r} needs {arithmetic} arithmetic, which {silicon.name} lacks; it has {have}: "
            "give model.weights a dtype of these, or take another device"
        )
    return silicon.peak[arithmetic]


def throttled(compute: FloatArray, throttle: float, silicon: Silicon) -> FloatArray:
    """Stretch compute time [s] where it is long enough for the clock to fall."""
    loss = (1.0 + throttle) / silicon.sustained - 1.0
    return compute * (1.0 + loss * compute / (compute + THROTTLE_TIME))
