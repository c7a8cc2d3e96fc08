"""Reading what serving stacks record of their routing, and writing what they read. See docs/formats/routing-traces.md.

SGLang's expert-distribution recorder writes ``.pt`` (mode ``per_token``) or tables of counts; vLLM and SGLang return
*routed experts* of a request as an array (tokens, layers, top_k), which is kept as ``.npy``, or many in one ``.npz``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.edge import is_folder, read_json, shown, shown_path
from hardware_profiles.outputs import check_output_file, replacing
from workloads.errors import TraceFormatError, WorkloadError
from workloads.npy import npz_names, read_npy, read_npz
from workloads.routing.files import read_routing_trace, save_routing_trace
from workloads.routing.torch_files import torch_load
from workloads.routing.trace import MOST_EXPERTS, RoutingTrace, routing_fault
from workloads.trace_paths import existing_file

IntArray = NDArray[np.integer[Any]]

SUFFIXES = (".npz", ".parquet", ".npy", ".pt", ".json")
#: What a recorder that counts instead of listing should be told, and what takes its counts.
_REMEDY = "record again with --expert-distribution-recorder-mode per_token"
_COUNTS = f"'moesim place --loads' takes it, or {_REMEDY}"


def read_recording(path: str | Path, num_experts: int | None = None) -> RoutingTrace:
    """Read a routing trace, or a serving stack's recording of its routing.

    Parameters
    ----------
    path : str or Path
        ``.npz`` or ``.parquet`` of ours; ``.npz`` or ``.npy`` of routed experts; ``.pt`` or ``.json`` of SGLang.
    num_experts : int, optional
        Experts per layer. By default what the file states, else the largest id plus one.

    Raises
    ------
    WorkloadError
        The format is unknown, or reading it needs torch and there is none.
    TraceFormatError
        The content is malformed, or holds counts instead of choices.
    """
    file = existing_file(path)
    match file.suffix:
        case ".npz" if "expert_ids" not in npz_names(file):
            return _from_arrays(file, read_npz(file), num_experts)
        case ".npz" | ".parquet":
            return read_routing_trace(file, num_experts)
        case ".npy":
            return _from_arrays(file, {"": read_npy(file)}, num_experts)
        case ".pt":
            return _from_recorder(file, torch_load(file), num_experts)
        case ".json":
            return _from_recorder(file, read_json(file, TraceFormatError), num_experts)
        case ".csv":
            _fail(file, f"a table of counts says how often experts were chosen, not by which token; {_COUNTS}")
    given = file.suffix or "a file without an extension"
    raise WorkloadError(f"{file}: a recording of routing is {', '.join(SUFFIXES)}, not {given}")


def write_recording(trace: RoutingTrace, path: str | Path) -> None:
    """Write a trace as ours (``.npz``, ``.parquet``), as routed experts (``.npy``) or as SGLang's records (``.json``).

    Parameters
    ----------
    trace : RoutingTrace
        The trace. Empty slots become -1 in ``.npy`` and ``.json``.
    path : str or Path
        Where to; the extension chooses. ``.npy`` takes one sequence.
    """
    check_writable(path)
    suffix = Path(path).suffix
    if suffix in {".npz", ".parquet"}:
        save_routing_trace(trace, path)
        return
    ids = trace.expert_ids.astype(np.int32)
    ids[ids == trace.num_experts] = -1
    if suffix == ".npy":
        if len(trace.sequence_start) > 1:
            sequences = len(trace.sequence_start)
            raise WorkloadError(f"{path}: .npy holds one sequence, the trace has {sequences}; write .npz")
        with replacing(path, WorkloadError, parents=False) as temporary:
            np.save(temporary, ids)
        return
    lengths = np.diff(trace.sequence_start, append=trace.tokens)
    record = {
        "forward_pass_id": 0,
        "forward_mode": 1,
        "extend_seq_lens": lengths.tolist(),
        "topk_ids_of_layer": ids.transpose(1, 0, 2).tolist(),
    }
    with replacing(path, WorkloadError, parents=False) as temporary:
        temporary.write_text(json.dumps({"num_experts": trace.num_experts, "records": [record]}), encoding="utf-8")


def check_writable(path: str | Path) -> None:
    """Refuse a path that :func:`write_recording` cannot write, before anybody waits for the trace."""
    suffix = Path(path).suffix
    if suffix == ".pt":
        raise WorkloadError(f"{path}: .pt is read, not written; write .json, .npy, .npz or .parquet")
    if suffix not in {".npz", ".parquet", ".npy", ".json"}:
        given = suffix or "a file without an extension"
        raise WorkloadError(f"{path}: a routing trace is written as .npz, .parquet, .npy or .json, not {given}")
    if not is_folder(Path(path).parent):
        raise WorkloadError(f"{path}: the folder {Path(path).parent} does not exist")
    check_output_file(path, WorkloadError)


def read_token_ids(path: str | Path) -> NDArray[np.int64]:
    """Read the vocabulary id of every token from a ``.npy`` of whole numbers, shape (tokens,)."""
    file = existing_file(path)
    if file.suffix != ".npy":
        raise WorkloadError(f"{file}: token ids are .npy, not {file.suffix or 'a file without an extension'}")
    found = read_npy(file)
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
        _fail(file, f"holds {found.dtype} of shape {found.shape}, expected one whole number per token")
    return found.astype(np.int64)


def _from_arrays(file: Path, arrays: Mapping[str, IntArray], num_experts: int | None) -> RoutingTrace:
    """Join routed experts of requests, each an array (tokens, layers, top_k), into a trace."""
    for name, array in arrays.items():
        label = f"array {name!r}: " if name else ""
        if array.ndim != 3 or not np.issubdtype(array.dtype, np.integer) or not array.size:
            given = f"{array.dtype} of shape {array.shape}"
            _fail(file, f"{label}holds {given}, expected whole numbers of (tokens, layers, top_k)")
        first = next(iter(arrays.values()))
        if array.shape[1:] != first.shape[1:]:
            _fail(file, f"{label}has (layers, top_k) = {array.shape[1:]}, the one before {first.shape[1:]}")
    if not arrays:
        _fail(file, "holds no arrays")
    lengths = [len(array) for array in arrays.values()]
    return _trace(file, np.concatenate(list(arrays.values())), lengths, num_experts)


def _from_recorder(file: Path, document: Any, num_experts: int | None) -> RoutingTrace:
    """Join the records of SGLang's recorder; physical ids become logical by the map that it keeps."""
    if not isinstance(document, Mapping):
        _fail(file, "is not a dump of an expert-distribution recorder: expected a mapping with 'records'")
    if "records" not in document:
        if "logical_count" in document:
            _fail(file, f"holds counts (logical_count), not the choices of tokens; {_COUNTS}")
        found = shown(", ".join(map(str, document)) or "nothing")
        _fail(file, f"'records' is missing, as SGLang's recorder writes them; found: {found}")
    if not isinstance(document["records"], list | tuple):
        _fail(file, f"records: got {shown(document['records'])}, expected a list")
    chunks, lengths = [], []
    for at, record in enumerate(document["records"]):
        if not isinstance(record, Mapping) or "topk_ids_of_layer" not in record:
            _fail(file, f"record {at}: 'topk_ids_of_layer' is missing; {_REMEDY}")
        ids = _whole(file, f"record {at}: topk_ids_of_layer", record["topk_ids_of_layer"])
        if ids.ndim != 3:
            _fail(file, f"record {at}: topk_ids_of_layer has shape {ids.shape}, expected (layers, tokens, top_k)")
        if ids.shape[1]:
            chunks.append(ids)
            lengths += _record_lengths(file, at, record, ids.shape[1])
    if not chunks:
        _fail(file, "no record holds a token")
    if len({chunk.shape[::2] for chunk in chunks}) > 1:
        _fail(file, "the records have different numbers of layers or of experts per token")
    ids = np.concatenate(chunks, axis=1)
    physical = document.get("last_physical_to_logical_map")
    if physical is not None:
        mapped = _whole(file, "last_physical_to_logical_map", physical)
        ids = _logical(file, ids, mapped)
        num_experts = num_experts or int(mapped.max()) + 1
    # Dense layers keep the place of a MoE layer, with all tokens alike.
    routed = (ids != ids[:, :1, :1]).any(axis=(1, 2))
    stated = document.get("num_experts")
    known = num_experts or (stated if isinstance(stated, int) else None)
    return _trace(file, ids[routed].transpose(1, 0, 2), lengths, known)


def _record_lengths(file: Path, at: int, record: Mapping[str, Any], tokens: int) -> list[int]:
    """Return the tokens of each sequence in a record: a prefill's as stated, one each in a decode step."""
    stated = record.get("extend_seq_lens")
    if stated is None:
        return [1] * tokens
    lengths = [int(value) for value in _whole(file, f"record {at}: extend_seq_lens", stated).ravel() if value > 0]
    if sum(lengths) != tokens:
        _fail(file, f"record {at}: extend_seq_lens sum to {sum(lengths)}, topk_ids_of_layer holds {tokens} tokens")
    return lengths


def _logical(file: Path, ids: IntArray, physical_to_logical: IntArray) -> IntArray:
    if physical_to_logical.ndim != 2 or len(physical_to_logical) != len(ids) or not physical_to_logical.size:
        shape = physical_to_logical.shape
        _fail(file, f"last_physical_to_logical_map has shape {shape}, expected ({len(ids)} layers, physical experts)")
    if ids.max() >= physical_to_logical.shape[1]:
        _fail(file, f"physical expert {ids.max()} is not among the {physical_to_logical.shape[1]} that are mapped")
    layer = np.arange(len(ids))[:, None, None]
    return np.where(ids < 0, -1, physical_to_logical[layer, np.maximum(ids, 0)])


def _trace(file: Path, ids: IntArray, lengths: Sequence[int], num_experts: int | None) -> RoutingTrace:
    """Make a trace of ids whose empty slots are -1."""
    if not ids.size:
        _fail(file, "no layer has a choice")
    if ids.min() < -1:
        token, layer, _ = np.argwhere(ids < -1)[0]
        _fail(file, f"token {token}, layer {layer}: expert {ids.min()} does not exist; only -1 marks an empty slot")
    experts = num_experts or max(int(ids.max()) + 1, 1)
    if not 0 < experts <= MOST_EXPERTS:
        _fail(file, f"has {experts:,} experts in a layer, expected 1 to {MOST_EXPERTS:,}")
    padded = bool((ids < 0).any())
    compact: IntArray = np.where(ids < 0, experts, ids).astype(np.uint8 if experts < 256 else np.uint16)
    starts = np.cumsum([0, *lengths[:-1]]).astype(np.int64)
    if ids.max() >= experts:
        token, layer, slot = np.argwhere(ids >= experts)[0]
        _fail(
            file,
            f"token {token}, layer {layer}: expert {ids[token, layer, slot]} does not exist, "
            f"expected 0 to {experts - 1}",
        )
    fault = routing_fault(compact, starts, experts, padded=padded)
    if fault:
        _fail(file, fault)
    return RoutingTrace(expert_ids=compact, sequence_start=starts, num_experts=experts, source=str(file), padded=padded)


def _whole(file: Path, what: str, value: Any) -> IntArray:
    """Read a tensor, array or nested list of whole numbers."""
    try:
        found = np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        found = np.empty(1, object)
    if found.size and not np.issubdtype(found.dtype, np.integer):
        _fail(file, f"{what}: expected whole numbers, all rows equally long")
    return found.astype(np.int64)


def _fail(file: Path, what: str) -> NoReturn:
    msg = f"{shown_path(file)}: {what}"
    raise TraceFormatError(msg)
