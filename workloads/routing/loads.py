"""Expert loads: how often experts were chosen, without the tokens that chose them, as load balancers record it.

EPLB takes a table (layers, experts); SGLang's recorder in mode ``stat`` and vLLM's balancer keep one for each window of
time. Routing with the same loads is drawn from them where tokens are needed.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.edge import read_json, read_text, reason, shown, shown_path, understanding
from workloads.errors import TraceFormatError, WorkloadError
from workloads.npy import read_npy, read_npz
from workloads.routing.torch_files import torch_load
from workloads.routing.trace import MOST_EXPERTS, RoutingTrace
from workloads.trace_paths import existing_file

#: Where tools keep the counts of logical experts, and those of physical ones, which a map then names.
_LOGICAL = ("logical_count", "expert_load", "expert_loads", "load", "loads", "weight", "weights", "counts")
_PHYSICAL = ("expert_load_window", "global_expert_load_window", "expert_load_pass", "physical_count")
_MAPS = ("physical_to_logical_map", "last_physical_to_logical_map")
#: Columns of a CSV with a row for every expert.
_COLUMNS = (
    ("layer_id", "layer", "layer_idx"),
    ("expert_id", "expert", "logical_expert_id", "expert_idx"),
    ("count", "load", "tokens", "token_count"),
)
#: Parts of a recording that are told apart, and tokens of one round of draws [1].
_PARTS, _ROUND = 16, 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertLoads:
    """How often every expert was chosen.

    Attributes
    ----------
    counts : float64 array, shape (windows, layers, experts)
        Tokens that chose each logical expert in successive windows [tokens], or anything in proportion to it.
    source : str
        Where it came from.
    """

    counts: NDArray[np.float64]
    source: str

    @property
    def layers(self) -> int:
        """MoE layers [1]."""
        return int(self.counts.shape[1])

    @property
    def num_experts(self) -> int:
        """Experts of a layer [1]."""
        return int(self.counts.shape[2])


def read_expert_loads(path: str | Path) -> ExpertLoads:
    """Read a table of expert loads.

    Parameters
    ----------
    path : str or Path
        ``.json``, ``.npy``, ``.npz``, ``.pt`` or ``.csv``: a table (layers, experts), or several (windows, layers,
        experts), by itself or under a name that EPLB, SGLang or vLLM gives it. Loads of physical experts need the map
        to logical ones beside them. Windows and layers in which nothing was chosen are left out.

    Raises
    ------
    TraceFormatError
        It holds no such table, or loads that cannot be.
    """
    file = existing_file(path)
    with understanding(shown_path(file), TraceFormatError):
        match file.suffix:
            case ".json":
                held = read_json(file, TraceFormatError)
            case ".npy":
                held = read_npy(file)
            case ".npz":
                held = read_npz(file)
                held = next(iter(held.values())) if len(held) == 1 else held
            case ".pt":
                held = torch_load(file)
            case ".csv":
                held = _csv(file)
            case suffix:
                raise WorkloadError(
                    f"{shown_path(file)}: expert loads are .json, .npy, .npz, .pt or .csv, not {suffix}"
                )
        return _loads(file, held)


def _loads(file: Path, held: Any) -> ExpertLoads:
    if not isinstance(held, Mapping):
        return _checked(file, "the table", held, None)
    for names in (_LOGICAL, _PHYSICAL):
        name = next((name for name in names if name in held), None)
        if name is not None:
            break
    else:
        _fail_unknown(file, held)
    if name in _LOGICAL:
        return _checked(file, name, held[name], None)
    key = next((key for key in _MAPS if key in held), None)
    if key is None:
        _fail(file, f"{name} counts physical experts; their map to logical ones ({_MAPS[0]}) is missing")
    return _checked(file, name, held[name], held[key])


def _fail_unknown(file: Path, held: Mapping[Any, Any]) -> NoReturn:
    if "records" in held:
        _fail(file, "holds the choices of tokens; 'moesim routing convert' makes a trace of them, for --routing")
    found = shown(", ".join(map(str, held)) or "nothing")
    _fail(
        file, f"no table of loads in it, expected one of {', '.join((*_LOGICAL[:2], *_PHYSICAL[:3]))}; found: {found}"
    )


def _checked(file: Path, name: str, table: Any, physical: Any) -> ExpertLoads:
    counts = _numbers(file, name, table)
    if counts.ndim == 2:
        counts = counts[None]
    if counts.ndim != 3 or not counts.size:
        given = f"has shape {counts.shape}"
        _fail(file, f"{name}: {given}, expected (layers, experts) or (windows, layers, experts)")
    bad = ~(np.isfinite(counts) & (counts >= 0) & (counts < 1e15))
    if bad.any():
        window, layer, expert = np.argwhere(bad)[0]
        _fail(
            file, f"{name}: layer {layer}, expert {expert}: got {counts[window, layer, expert]:g}, expected 0 or more"
        )
    if physical is not None:
        counts = _logical(file, counts, _numbers(file, _MAPS[0], physical))
    if counts.shape[2] > MOST_EXPERTS:
        _fail(file, f"{name}: has {counts.shape[2]:,} experts in a layer, expected at most {MOST_EXPERTS:,}")
    counts = counts[counts.any(axis=(1, 2))]
    if not len(counts):
        _fail(file, f"{name}: no expert was ever chosen")
    return ExpertLoads(counts=counts[:, counts.any(axis=(0, 2))], source=str(file))


def _logical(file: Path, counts: NDArray[np.float64], physical: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add the loads of the replicas of each expert."""
    if physical.shape != counts.shape[1:]:
        _fail(file, f"{_MAPS[0]} has shape {physical.shape}, expected {counts.shape[1:]} (layers, physical experts)")
    ids = physical.astype(np.int64)
    if (ids != physical).any() or ids.min() < 0 or ids.max() >= MOST_EXPERTS:
        _fail(file, f"{_MAPS[0]}: expected expert ids from 0")
    found = np.zeros((*counts.shape[:2], int(ids.max()) + 1))
    for layer in range(counts.shape[1]):
        np.add.at(found[:, layer].T, ids[layer], counts[:, layer].T)
    return found


def _numbers(file: Path, name: str, table: Any) -> NDArray[np.float64]:
    try:
        found = np.asarray(table, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        _fail(file, f"{name}: expected numbers, all rows equally long ({reason(error)})")
    return found


def _csv(file: Path) -> NDArray[np.float64]:
    """Read a row for every expert, or a row of numbers for every layer."""
    text = read_text(file, TraceFormatError)
    try:
        rows = [row for row in csv.reader(text.splitlines()) if row]
    except csv.Error as error:
        _fail(file, f"not a CSV file ({reason(error)})")
    header = [name.strip().lower() for name in rows[0]] if rows else []
    chosen = [next((header.index(name) for name in names if name in header), None) for names in _COLUMNS]
    if None in chosen:
        if header and not _number(header[0]):
            expected = "layer_id, expert_id and count, or a row of numbers for every layer"
            _fail(file, f"its columns are {shown(', '.join(header))}; expected {expected}")
        return _numbers(file, "the table", rows)
    layer, expert, load = (
        _numbers(file, header[at or 0], [row[at or 0] if at is not None and at < len(row) else "" for row in rows[1:]])
        for at in chosen
    )
    for name, ids, most in (("layer", layer, 10_000), ("expert", expert, MOST_EXPERTS)):
        bad = ~((ids >= 0) & (ids < most) & (ids == np.floor(ids)))
        if bad.any() or not len(ids):
            row = int(bad.argmax()) + 1
            _fail(file, f"row {row}: {name}: got {shown(rows[row] if row < len(rows) else [])}, expected ids from 0")
    found = np.zeros((int(layer.max()) + 1, int(expert.max()) + 1))
    np.add.at(found, (layer.astype(np.int64), expert.astype(np.int64)), load)
    return found


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def routing_of_loads(loads: ExpertLoads, top_k: int, tokens: int, seed: int) -> RoutingTrace:
    """Draw routing whose experts are loaded as recorded.

    Parameters
    ----------
    loads : ExpertLoads
        The loads.
    top_k : int
        Experts of a token [1].
    tokens : int
        Tokens to draw, shared evenly among successive parts of the recording [tokens].
    seed : int
        Seed of the draws.

    Returns
    -------
    RoutingTrace
        A sequence for each part: the windows of the recording in up to 16 groups, or 16 alike where it has one window.

    Raises
    ------
    WorkloadError
        An expert has more load than one choice of every token.

    Notes
    -----
    Systematic sampling: the chances ``top_k * load / total`` of all experts, laid end to end in a random order, are met
    at distances of 1 from a random start. A token then has ``top_k`` different experts, each with its chance exactly,
    and starts spread evenly over a round of tokens keep the load of a round within one token of the recorded one.
    Tokens and layers choose independently of each other, which a recording of choices need not.
    """
    parts = np.array_split(loads.counts, min(len(loads.counts), _PARTS))
    tables = [part.sum(axis=0) for part in parts] if len(parts) > 1 else [parts[0].sum(axis=0)] * _PARTS
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    length = max(tokens // len(tables), 1)
    drawn = [_draw(rng, _chances(loads, table, top_k), top_k, length) for table in tables]
    return RoutingTrace(
        expert_ids=np.concatenate(drawn),
        sequence_start=np.arange(len(tables), dtype=np.int64) * length,
        num_experts=loads.num_experts,
        source=f"drawn from the loads of {loads.source}",
    )


def _chances(loads: ExpertLoads, table: NDArray[np.float64], top_k: int) -> NDArray[np.float64]:
    """Chance that a token chooses each expert, shape (layers, experts); a layer without load in a part is even."""
    total = table.sum(axis=1, keepdims=True)
    even = np.full_like(table, 1.0 / table.shape[1])
    chances = top_k * np.where(total > 0, table / np.maximum(total, 1e-300), even)
    if top_k > table.shape[1] or chances.max() > 1.0 + 1e-9:
        layer, expert = np.unravel_index(int(chances.argmax()), chances.shape)
        share = f"{chances[layer, expert] / top_k:.1%}"
        raise WorkloadError(
            f"{shown_path(loads.source)}: layer {layer}, expert {expert} has {share} of the choices of its layer; with "
            f"top-{top_k} of {table.shape[1]} experts none can have more than {1 / top_k:.1%}"
        )
    return chances


def _draw(
    rng: np.random.Generator, chances: NDArray[np.float64], top_k: int, tokens: int
) -> NDArray[np.unsignedinteger]:
    """Draw experts of so many tokens, shape (tokens, layers, top_k)."""
    layers, experts = chances.shape
    found = np.empty((tokens, layers, top_k), np.uint8 if experts < 256 else np.uint16)
    for first in range(0, tokens, _ROUND):
        size = min(_ROUND, tokens - first)
        for layer in range(layers):
            order = rng.permutation(experts)
            ends = np.cumsum(chances[layer, order])
            ends *= top_k / ends[-1]
            start = (rng.permutation(size) + rng.random(size)) / size
            points = start[:, None] + np.arange(top_k)
            at = np.minimum(np.searchsorted(ends, points, side="right"), experts - 1)
            found[first : first + size, layer] = order[at]
    return found


def _fail(file: Path, what: str) -> NoReturn:
    raise TraceFormatError(f"{shown_path(file)}: {what}")
