"""The output folder of a run: frames as Parquet, summary, scenario and a manifest."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from simulator.export.files import encode_json
from simulator.export.folders import MANIFEST_FORMAT, MANIFEST_NAME, digest_of, output_folder
from simulator.results.columns import Columns

#: Raised when a reader of an older folder would misread a newer one.
BUNDLE_VERSION = 1

#: Rows that are made and written at once, as many as a row group of Parquet has [1].
_PIECE = 1 << 20

#: Distributions whose version can change a result.
_LIBRARIES = ("moesim", "numpy", "pandas", "pyarrow", "simpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Where a result came from.

    ``scenario_hash`` and ``seed`` name the run, ``versions`` the software by distribution name.
    """

    scenario_hash: str
    seed: int
    versions: Mapping[str, str]


def library_versions() -> dict[str, str]:
    """Return the version of Python and of each library that can change a result, by name."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def write_bundle(
    path: str | Path,
    *,
    frames: Mapping[str, Columns],
    summary: Mapping[str, Any],
    scenario_toml: str,
    manifest: Manifest,
    documents: Mapping[str, bytes] | None = None,
) -> Path:
    """Write an output folder; it appears whole or not at all.

    Parameters
    ----------
    path : str or Path
        The folder; replaced where an earlier run wrote it, refused where it holds anything else.
    frames : Mapping of str to Columns
        Written as ``<name>.parquet``, zstd-compressed.
    summary : Mapping
        Written as ``summary.json``; NaN and infinities become null.
    scenario_toml : str
        Written as ``scenario.toml``, so that the run can be repeated from its own folder.
    manifest : Manifest
        Written last, as ``manifest.json``, with the size, SHA-256 and row count of every file.
    documents : Mapping of str to bytes, optional
        Further files by name, already encoded.

    Returns
    -------
    Path
        The folder, resolved.

    Raises
    ------
    OutputError
        If the folder cannot be written or replaced.
    """
    with output_folder(path) as (folder, target):
        (folder / "scenario.toml").write_text(scenario_toml, encoding="utf-8")
        (folder / "summary.json").write_bytes(encode_json(summary))
        for name, document in (documents or {}).items():
            (folder / name).write_bytes(document)
        rows = {f"{name}.parquet": _write_frames(folder / f"{name}.parquet", each) for name, each in frames.items()}
        (folder / MANIFEST_NAME).write_bytes(encode_json(_manifest_document(manifest, folder, rows)))
    return target


def _write_frames(file: Path, columns: Columns) -> int:
    """Write a frame piece by piece, as it may be larger than what it is made of; return its rows [1]."""
    import pyarrow as pa
    import pyarrow.parquet

    rows, writer = 0, None
    try:
        for frame in columns.frames(_PIECE):
            schema = None if writer is None else writer.schema
            table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
            writer = writer or pyarrow.parquet.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table)
            rows += len(frame)
    finally:
        if writer is not None:
            writer.close()
    return rows


def _manifest_document(manifest: Manifest, folder: Path, rows: Mapping[str, int]) -> dict[str, Any]:
    files = {file.name: _file_entry(file, rows.get(file.name)) for file in sorted(folder.iterdir())}
    return {"format": MANIFEST_FORMAT, "format_version": BUNDLE_VERSION, **asdict(manifest), "files": files}


def _file_entry(file: Path, rows: int | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"bytes": file.stat().st_size, "sha256": digest_of(file)}
    return entry if rows is None else {**entry, "rows": rows}
