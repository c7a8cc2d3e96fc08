"""Every number of the catalogues in one table, with its unit, its source and how far to trust it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from simulator.export.catalogues import CATALOGUES, Row, quantities
from simulator.startup import load_startup, startup_names

#: Kinds of entries, in the order in which they are listed, by what one of them is called in the catalogues.
_KINDS = {"device": "devices", "node": "nodes", "cluster": "clusters", "stack": "stacks", "model": "models"}
KINDS = (*_KINDS, "start-up")
#: What of a model follows from its shape, with its unit.
_DERIVED = {
    "parameters": "1",
    "active_parameters": "1",
    "weight_bytes": "B",
    "kv_bytes_per_token": "B",
    "state_bytes_per_sequence": "B",
}
_SHAPE = "its layers, counted as docs/theory/model-sizes.md says"
#: Keys of a quantity by the columns of the table.
_COLUMNS = {
    "Kind": "kind",
    "Name": "name",
    "Number": "key",
    "Value": "stated",
    "Unit": "unit",
    "Status": "status",
    "Error": "error",
    "Source": "source",
    "Note": "note",
}


def catalogue_numbers() -> pd.DataFrame:
    """List every number of the devices, nodes, clusters, stacks, models and start-up profiles.

    Returns
    -------
    DataFrame
        A row per number; values are in the unit that their file states, errors are relative, 1 sigma.
    """
    frame = pd.DataFrame(_rows())[list(_COLUMNS.values())].set_axis(list(_COLUMNS), axis=1)
    return frame.assign(
        Unit=frame["Unit"].replace("1", ""),
        Error=["" if pd.isna(error) else f"±{100 * error:.0f} %" for error in frame["Error"]],
    )


def _rows() -> Iterator[Row]:
    for kind, plural in _KINDS.items():
        catalogue = CATALOGUES[plural]
        for name in catalogue.names(None):
            document = catalogue.show(name, None)
            rows = _model(document) if kind == "model" else document["quantities"]
            yield from ({"kind": kind, "name": name, **row} for row in rows)
    for name in startup_names():
        yield from ({"kind": "start-up", "name": name, **row} for row in quantities(load_startup(name)))


def _model(document: Row) -> Iterator[Row]:
    """List the numbers of a model: what its publisher states, its layers, and what follows from them."""
    source = document["facts"]["source"]
    for key, value in document["facts"].items():
        yield from _number(key, value, "published", source)
    for alike in document["layers"]:
        first, count = alike["layers"][0], len(alike["layers"])
        for part in ("attention", "ffn"):
            for key, value in (alike[part] or {}).items():
                note = f"of {count} layer{'s' * (count > 1)} alike"
                yield from _number(f"layers.{first}.{part}.{key}", value, "published", source, note=note)
    for key, unit in _DERIVED.items():
        yield from _number(key, document[key], "computed", _SHAPE, unit=unit)


def _number(key: str, value: Any, status: str, source: str, *, unit: str = "1", note: str = "") -> Iterator[Row]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield {
            "key": key,
            "stated": float(value),
            "unit": unit,
            "status": status,
            "source": source,
            "error": None,
            "note": note,
        }


def found(frame: pd.DataFrame, words: str, kinds: list[str], statuses: list[str]) -> pd.DataFrame:
    """Keep the rows that hold all of some words in any column, and are of any of some kinds and statuses.

    Parameters
    ----------
    frame : DataFrame
        As :func:`catalogue_numbers` returns it.
    words : str
        Separated by spaces, in any case; none keeps all.
    kinds, statuses : list of str
        None of them keeps all.
    """
    kept = pd.Series(True, index=frame.index)
    for column, allowed in (("Kind", kinds), ("Status", statuses)):
        if allowed:
            kept &= frame[column].isin(allowed)
    text = frame[["Kind", "Name", "Number", "Unit", "Status", "Source", "Note"]].agg(" ".join, axis=1).str.lower()
    for word in words.lower().split():
        kept &= text.str.contains(word, regex=False)
    return frame[kept]
