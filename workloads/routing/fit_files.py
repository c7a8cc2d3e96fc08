"""Reading and writing a fitted routing model as TOML. docs/formats/routing-traces.md describes the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.edge import is_folder, read_toml, shown, shown_path
from hardware_profiles.errors import nearest
from hardware_profiles.outputs import check_output_file, replacing
from workloads.errors import TraceFormatError, WorkloadError
from workloads.parameters import count, number
from workloads.routing.latent import PARTS, LatentRouting
from workloads.trace_paths import existing_file

KIND = "latent"
_KEYS = (
    "kind",
    "source",
    "top_k",
    "factors",
    "layer_memory",
    "domains",
    "domain_run",
    "sequence_tokens",
    "variance",
    "probability",
    "error",
)


def read_routing_fit(path: str | Path) -> LatentRouting:
    """Read a fitted routing model.

    Parameters
    ----------
    path : str or Path
        The TOML file that :func:`save_routing_fit` wrote.

    Raises
    ------
    WorkloadError
        No such file, or not a ``.toml``.
    TraceFormatError
        A key is missing, unknown or out of range; the message names it.
    """
    if Path(path).suffix != ".toml":
        msg = f"{path}: a routing fit is .toml, not {Path(path).suffix or 'without an extension'}"
        raise WorkloadError(msg)
    file = existing_file(path)
    table = read_toml(file, TraceFormatError)
    for key in table:
        if key not in _KEYS:
            _fail(file, f"{shown(key)[1:-1]}: unknown key; {nearest(key[:60], _KEYS)}")
    for key in _KEYS[:-1]:
        if key not in table:
            _fail(file, f"{key}: is missing; 'moesim routing fit' writes it")
    if table["kind"] != KIND:
        _fail(file, f"kind: got {shown(table['kind'])}, expected {KIND!r}")
    try:
        return _model(table)
    except WorkloadError as error:
        _fail(file, str(error))


def save_routing_fit(model: LatentRouting, path: str | Path, error: dict[str, float] | None = None) -> None:
    """Write a fitted routing model.

    Parameters
    ----------
    model : LatentRouting
        The fit.
    path : str or Path
        Where to; ends in ``.toml``.
    error : dict, optional
        How far the moments of the fit are from those of the trace, to be kept with it [-].
    """
    check_fit_path(path)
    lines = [
        "# A routing model fitted to a recorded trace; 'moesim routing generate --from' makes traces from it.",
        f'kind = "{KIND}"',
        f"source = {_text(model.source)}",
        f"top_k = {model.top_k}",
        f"factors = {model.factors}",
        f"layer_memory = {model.layer_memory:.6g}",
        f"domains = {model.domains}",
        f"domain_run = {model.domain_run:.6g}  # sequences",
        f"sequence_tokens = [{', '.join(str(int(value)) for value in model.sequence_tokens)}]  # quantiles",
        "",
        "# Share of the tokens that choose each expert, a row per layer.",
        "probability = [",
        *(f"  [{', '.join(f'{value:.5g}' for value in row)}]," for row in model.probability),
        "]",
        "",
        "# Variance of the logits, a value per layer.",
        "[variance]",
        *(
            f'"{part}" = [{", ".join(f"{v:.4g}" for v in column)}]'
            for part, column in zip(PARTS, model.variance.T, strict=True)
        ),
    ]
    if error:
        lines += ["", "# Relative distance of the fit from the trace.", "[error]"]
        lines += [f"{key} = {value:.4g}" for key, value in error.items()]
    with replacing(path, WorkloadError, parents=False) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def check_fit_path(path: str | Path) -> None:
    """Refuse a path that a fit cannot be saved at, before anybody waits for the fit."""
    if Path(path).suffix != ".toml":
        raise WorkloadError(f"{path}: a routing fit is saved as .toml, not {Path(path).suffix or 'without extension'}")
    if not is_folder(Path(path).parent):
        raise WorkloadError(f"{path}: the folder {Path(path).parent} does not exist")
    check_output_file(path, WorkloadError)


def _model(table: dict[str, Any]) -> LatentRouting:
    probability = _numbers("probability", table["probability"], 2)
    layers, experts = probability.shape
    top_k = count("top_k", table["top_k"], most=experts)
    if probability.max() > 1 or np.abs(probability.sum(axis=1) - top_k).max() > 0.01 * top_k:
        raise WorkloadError(f"probability: every layer must sum to top_k = {top_k}, no expert above 1")
    variance = table["variance"]
    if not isinstance(variance, dict) or set(variance) != set(PARTS):
        raise WorkloadError(f"variance: got {shown(variance)}, expected {', '.join(PARTS)}")
    columns = [_numbers(f"variance.{part}", variance[part], 1) for part in PARTS]
    if any(len(column) != layers for column in columns):
        raise WorkloadError(f"variance: expected a value for each of the {layers} layers in every part")
    lengths = _numbers("sequence_tokens", table["sequence_tokens"], 1)
    if len(lengths) < 2 or lengths.min() < 1 or (np.diff(lengths) < 0).any():
        raise WorkloadError("sequence_tokens: expected at least two quantiles of at least 1, ascending")
    return LatentRouting(
        probability=probability,
        variance=np.stack(columns, axis=1),
        factors=count("factors", table["factors"]),
        layer_memory=number("layer_memory", table["layer_memory"], most=1),
        top_k=top_k,
        domains=count("domains", table["domains"]),
        domain_run=number("domain_run", table["domain_run"], least=1),
        sequence_tokens=lengths.astype(np.int64),
        source=str(table["source"]),
    )


def _numbers(key: str, value: Any, axes: int) -> NDArray[np.float64]:
    """Read a list, or a list of equally long lists, of numbers of at least 0."""
    try:
        found = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        found = np.empty(0)
    if found.ndim != axes or not found.size or not np.isfinite(found).all() or found.min() < 0:
        rows = "a row of numbers per layer, all equally long" if axes == 2 else "a list of numbers"
        raise WorkloadError(f"{key}: expected {rows}, none below 0")
    return found


def _text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _fail(file: Path, what: str) -> NoReturn:
    msg = f"{shown_path(file)}: {what}"
    raise TraceFormatError(msg)
