"""Kinds of routing traces, recordings and expert loads, damaged, with a command that reads each."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.fuzz.documents import asked
from tests.fuzz.harness import Case
from tests.fuzz.hostile import (
    Draw,
    damaged,
    damaged_bytes,
    damaged_parquet,
    damaged_table,
    dumps,
)


def _member(draw: Draw, array: np.ndarray[Any, Any]) -> bytes:
    """Write an array as ``.npy``, sometimes with a header that lies."""
    sink = io.BytesIO()
    np.lib.format.write_array(sink, array)
    content = sink.getvalue()
    lies = (
        None,
        "{'descr': '<i8', 'fortran_order': False, 'shape': (137438953472,), }",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (-1, 3), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
        "{'descr': [('a', '<i8')], 'fortran_order': False, 'shape': (3,), }",
        "{'descr': '<U99999999', 'fortran_order': True, 'shape': (3,), }",
        "{'descr': 'nonsense', 'fortran_order': False, 'shape': (3,), }",
        "{'shape': " + "(" * 200 + ")" * 200 + "}",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",), }",
        "not a header",
    )
    lie = draw(st.sampled_from(lies))
    if lie is None:
        return content
    text = lie.encode() + b" " * ((64 - (10 + len(lie) + 1) % 64) % 64) + b"\n"
    version = draw(st.sampled_from((b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x09")))
    size = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + size + text + content[-64:]


_ARRAYS: tuple[Any, ...] = (
    np.zeros(0),
    np.array(-1),
    np.array(3.5),
    np.full((2, 2), np.nan),
    np.array(["a", "b"]),
    np.array([2**63 - 1, 0, -(2**63)]),
    np.array([True, False]),
    np.zeros((3, 2, 2), np.int64),
    np.full((3, 2, 2), 2**16, np.int64),
    np.arange(12).reshape(3, 2, 2) - 3,
    np.zeros((1, 1, 0), np.int8),
    np.array(1 + 2j),
    np.array([0, 2, 1]),
    np.array(np.datetime64("2024-01-01")),
)


def _archive(draw: Draw, arrays: Mapping[str, Any]) -> bytes:
    """Write an ``.npz`` some of whose members are not what they should be."""
    held: dict[str, bytes] = {}
    for name, array in arrays.items():
        match draw(st.integers(0, 7)):
            case 0:
                held[name] = _member(draw, array)
            case 1:
                sink = io.BytesIO()
                np.lib.format.write_array(sink, draw(st.sampled_from(_ARRAYS)))
                held[name] = sink.getvalue()
            case 2:
                continue
            case _:
                sink = io.BytesIO()
                np.lib.format.write_array(sink, np.asarray(array))
                held[name] = sink.getvalue()
    way = draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)))
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", way) as archive:
        for name, content in held.items():
            archive.writestr(f"{name}.npy", content)
        if draw(st.integers(0, 5)) == 0:
            archive.writestr("../../x.npy", b"\x93NUMPY")
    content = sink.getvalue()
    match draw(st.integers(0, 9)):
        case 0:
            return content.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")
        case 1:
            return content.replace(
                b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x08\x00", b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x63\x00"
            )
        case 2:
            return damaged_bytes(draw, content)
        case _:
            return content


def _routing_words(draw: Draw, name: str) -> tuple[str, ...]:
    convert = draw(st.sampled_from(("npz", "parquet", "npy", "json")))
    choices: tuple[tuple[str, ...], ...] = (
        ("routing", "stats", "{}/" + name),
        ("routing", "stats", "{}/" + name, "--experts", draw(st.sampled_from(("4", "1", "70000", "1000000000")))),
        ("routing", "fit", "{}/" + name, "--out", "{}/o.toml"),
        ("routing", "convert", "{}/" + name, "{}/o." + convert),
        ("place", "--routing", "{}/" + name, "--device", "h100-sxm", "--ep", "2"),
        ("exchange", "--device", "h100-sxm", "--ranks", "4", "--routing", "{}/" + name),
        ("place", "--loads", "{}/" + name, "--device", "h100-sxm", "--ep", "2"),
        ("check", "{}/s.toml"),
    )
    return draw(st.sampled_from(choices))


def routing_archives(draw: Draw) -> Case:
    """Damage a routing trace or expert loads as ``.npz`` or ``.npy``."""
    ids = np.array([[[0, 1], [1, 2]], [[3, 1], [0, 2]], [[2, 1], [1, 3]]], np.int64)
    if draw(st.integers(0, 3)) == 0:
        name, content = "t.npy", _member(draw, draw(st.sampled_from((ids, *_ARRAYS))))
    else:
        arrays = {
            "expert_ids": ids,
            "sequence_start": np.array([0, 2]),
            "num_experts": np.array(4),
            "padded": np.array(False),
        }
        if draw(st.booleans()):
            arrays["sequence_length"] = np.array([2, 1])
        name, content = "t.npz", _archive(draw, arrays)
    files = {name: content, **asked(routing={"kind": "trace", "trace": name})}
    return Case(files=files, words=_routing_words(draw, name))


def routing_parquet(draw: Draw) -> Case:
    """Damage a routing trace in Parquet."""
    columns = {
        "sequence": [0, 0, 1, 1],
        "token": [0, 0, 1, 1],
        "layer": [0, 1, 0, 1],
        "experts": [[0, 1], [1, 2], [3, 1], [0, 2]],
    }
    content = damaged_parquet(draw, columns)
    if draw(st.integers(0, 4)) == 0:
        content = damaged_bytes(draw, content)
    files = {"t.parquet": content, **asked(routing={"kind": "trace", "trace": "t.parquet"})}
    return Case(files=files, words=_routing_words(draw, "t.parquet"))


_LOADS: tuple[dict[str, Any], ...] = (
    {"logical_count": [[[1, 2, 3, 4], [4, 3, 2, 1]]]},
    {"expert_load": [[1, 2, 3, 4], [4, 3, 2, 1]]},
    {"physical_count": [[1, 2, 3], [3, 2, 1]], "physical_to_logical_map": [[0, 1, 0], [1, 0, 0]]},
    {"records": [{"rid": "a", "routed_experts": [[[0, 1], [1, 2]]]}]},
)


def expert_loads(draw: Draw) -> Case:
    """Damage a table of expert loads or a recording, as JSON, CSV or what claims to be a ``.pt``."""
    document = draw(st.sampled_from(_LOADS))
    match draw(st.integers(0, 3)):
        case 0:
            rows = [["layer_id", "expert_id", "count"], *([str(at // 4), str(at % 4), str(at)] for at in range(8))]
            name, content = "t.csv", damaged_table(draw, rows)
        case 1:
            name, content = "t.pt", damaged_bytes(draw, b"PK\x03\x04" + dumps(document, "json"))
        case 2:
            name, content = "t.json", damaged_bytes(draw, dumps(document, "json"))
        case _:
            name, content = "t.json", dumps(damaged(draw, document, "json"), "json")
    files = {name: content, **asked()}
    loads = ("place", "--loads", "{}/" + name, "--device", "h100-sxm", "--ep", "2", "--model", "mixtral-8x7b")
    return Case(files=files, words=draw(st.sampled_from((loads, _routing_words(draw, name)))))
