"""The record of a kernel family: what prices its ops, and what is said of it wherever families are listed.

A record stands beside the function that it names, and :mod:`simulator.kernels.families` collects all of them. The cost
model, the explanation of a step, the intervals and the validation read the records, so that a new family is one module
and one record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from simulator.kernels.kernel import KernelTime, Machine

Shape = TypeVar("Shape")
Kernel = TypeVar("Kernel")
#: Which dtype of a shape names its kernel table: that of the arithmetic, that of the KV cache, or none.
TableDtype = Literal["dtype", "kv_dtype", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family(Generic[Shape, Kernel]):
    """Kernels that one function prices with one set of coefficients.

    Attributes
    ----------
    kinds : tuple of str
        Kinds of op that it prices (``gemm``); tables are named after them, ``kind.backend`` or ``kind.backend.dtype``.
    shape : type
        Typed shape of such an op, a dataclass of numbers and arrays that broadcast.
    coefficients : type
        Dataclass of the coefficients in a kernel table; ``NoneType`` where the links alone set the time.
    time : callable
        Prices a shape on a machine with a kernel's coefficients.
    axes : tuple of str
        Attributes of the shape under which measured tables and residuals keep their ranges.
    equation : str
        How the time comes about, in the names that the function uses.
    validity : str
        What was measured, and where the equation is wrong.
    references : tuple of str
        Where the parts of the equation come from.
    theory : str
        Page under ``docs/theory`` that derives it.
    table_dtype : {"dtype", "kv_dtype", "none"}
        Which dtype of the shape names its table.
    off_together : str
        Families whose tables come from one library, and whose errors therefore add up, share this name; the first
        word of the table's name where empty.
    fastest : bool
        Whether the fastest of the stack's backends runs, size by size, and not the first that the device has.
    substitutes : bool
        Whether the table of another backend may stand in for one that the device lacks.
    backends : frozenset of str
        Its backends, where its tables share their first word with those of another family.
    """

    kinds: tuple[str, ...]
    shape: type[Shape]
    coefficients: type[Kernel]
    time: Callable[[Shape, Machine, Kernel], KernelTime]
    axes: tuple[str, ...]
    equation: str
    validity: str
    references: tuple[str, ...]
    theory: str
    table_dtype: TableDtype = "none"
    off_together: str = ""
    fastest: bool = False
    substitutes: bool = True
    backends: frozenset[str] = frozenset()


def arguments(shape: Any, *at_least_one: str) -> dict[str, Any]:
    """Unpack a shape whose fields are the arguments of its kernel's function, some of which are never below one."""
    given = {each.name: getattr(shape, each.name) for each in fields(shape)}
    return given | {name: np.maximum(given[name], 1.0) for name in at_least_one}
