"""Predictions beside measurements, row by row: times, intervals, regimes and evidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.loader import load_device, resolve_kernels
from simulator.arrays import FloatArray
from simulator.cost.uncertainty import interval, table_spread
from simulator.hardware import Hardware
from simulator.kernels.families import FAMILIES
from validation.kernels.collective_rows import ELEMENT, NODE
from validation.kernels.formats import FORMATS
from validation.kernels.rows import Block, predict_op

if TYPE_CHECKING:
    import pandas as pd

#: Distributions of tokens over experts that give every expert the same.
EVEN = ("balanced", "uniform")
#: Axes that tables and residuals call alike; the others follow from several columns.
_PLAIN = {axis for family in FAMILIES.values() for axis in family.axes} - {"intermediate"}


def axes_of(op: str, frame: pd.DataFrame) -> dict[str, FloatArray]:
    """Shapes of table rows by axis, under the names of :mod:`simulator.cost.uncertainty`."""

    def column(name: str) -> FloatArray:
        return frame[name].to_numpy(dtype=np.float64)

    axes = {name: column(name) for name in FORMATS[op].sizes if name in _PLAIN}
    if "prefix" in FORMATS[op].counts:
        axes["kv_length"] = column("prefix") + axes.get("context", np.ones(len(frame)))
    if "tp" in FORMATS[op].sizes:
        axes["intermediate"] = column("intermediate") / column("tp")
    if "message_elems" in FORMATS[op].sizes:
        axes["message_bytes"] = column("message_elems") * frame["dtype"].map(ELEMENT).to_numpy(dtype=np.float64)
        axes["ranks"] = column("num_gpus")
    if op.startswith("deepep"):
        axes["tokens"] = axes.pop("num_tokens")
        axes["ranks"] = NODE * column("num_nodes")
    return axes


def skewed(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Tell which rows give some experts more than others."""
    if "distribution" not in frame:
        return np.zeros(len(frame), dtype=bool)
    return ~frame["distribution"].isin(EVEN).to_numpy()


def borrowing(hardware: Hardware, lender: str, folder: Path | None = None) -> Hardware:
    """Return hardware whose own kernels are set aside for those of another device, as if it had never been measured."""
    device = hardware.device
    main = dataclasses.replace(device.main, kernels={}, kernels_from=load_device(lender, folder).id)
    kernels, evidence = resolve_kernels(main, folder)
    device = dataclasses.replace(device, processors={**device.processors, main.name: main})
    return dataclasses.replace(hardware, device=device, kernels=kernels, evidence=evidence)


def compare_op(op: str, frame: pd.DataFrame, hardware: Hardware, folder: Path | None = None) -> pd.DataFrame:
    """Predict the rows of one op and set them beside what was measured.

    Parameters
    ----------
    op : str
        The op, as its file is named.
    frame : DataFrame
        Its checked table.
    hardware : Hardware
        The device.
    folder : Path, optional
        The user's profiles.

    Returns
    -------
    DataFrame
        One row per measured figure: ``row`` (in the table), ``part``, ``table``, ``measured_us``, ``predicted_us``,
        ``low_us``, ``high_us``, ``skewed``, ``extrapolated``, ``evidence`` and, where nothing could be predicted,
        ``reason``.
    """
    import pandas as pd

    uneven, axes = skewed(frame), axes_of(op, frame)
    parts = [_compare(op, block, frame, uneven, axes, hardware, folder) for block in predict_op(op, frame, hardware)]
    return pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)


def _compare(
    op: str,
    block: Block,
    frame: pd.DataFrame,
    uneven: NDArray[np.bool_],
    axes: Mapping[str, FloatArray],
    hardware: Hardware,
    folder: Path | None,
) -> dict[str, Any]:
    rows = block.rows
    sigma, extrapolated = np.full(len(rows), np.nan), np.zeros(len(rows), dtype=bool)
    evidence = ""
    if not block.reason:
        shape = {name: values[rows] for name, values in axes.items()}
        for kind, chosen in (("", ~uneven[rows]), ("skewed", uneven[rows])):
            if chosen.any():
                part = {name: values[chosen] for name, values in shape.items()}
                spread = table_spread(
                    hardware,
                    block.table,
                    block.seconds[chosen],
                    part,
                    kind=kind,
                    substituted=block.substituted,
                    folder=folder,
                )
                sigma[chosen], extrapolated[chosen] = spread.sigma, spread.extrapolated
                evidence = spread.evidence
    low, high = interval(block.seconds, sigma)
    return {
        "op": op,
        "row": rows,
        "part": block.part,
        "table": block.table,
        "measured_us": frame[FORMATS[op].figures[block.part]].to_numpy(dtype=np.float64)[rows],
        "predicted_us": block.seconds * 1e6,
        "low_us": low * 1e6,
        "high_us": high * 1e6,
        "skewed": uneven[rows],
        "extrapolated": extrapolated,
        "evidence": evidence,
        "reason": block.reason,
    }
