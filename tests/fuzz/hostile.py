"""What hostile files hold, and how good ones are damaged: in their values, their keys, their cells and their bytes."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import tomli_w
from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]

#: Marks a text of a document that is written as it stands, so that it may be no value of Python's.
_RAW = "\N{SNOWMAN}"

_TEXTS = (
    "",
    " ",
    "a",
    "\x00",
    "\x1b[31mred\x1b[0m",
    "x" * 5000,
    "../" * 60 + "etc/passwd",
    "y" * 300 + ".toml",
    "\N{SNOWMAN WITHOUT SNOW}\u202e\ud7ff",
    "5 GB",
    "1e400 s",
    "-1 s",
    "nan s",
    "5 parsecs",
    "sample:nowhere",
    "config.json",
    "nowhere.toml",
    "/dev/null",
    "none",
    "inf",
    "[[[[",
    "\n\n\n",
)

#: As TOML and JSON both write them.
_RAW_BOTH = (
    "0",
    "-1",
    "1",
    "2",
    "3",
    "0.5",
    "-0.0",
    "1e308",
    "5e-324",
    "1e18",
    "1e300",
    "1e400",
    str(2**31),
    str(2**63),
    str(2**64),
    str(2**1024),
    "9" * 5000,
    "true",
    "false",
    "[]",
    "[[]]",
    "[[[1]]]",
    "[1, 2, 3]",
    '["a", 1]',
    "{}",
    "[" * 3000 + "]" * 3000,
    "[" * 80 + "]" * 80,
    "[0.0]",
    "[-1]",
    "[1e308, 1e308]",
    '[""]',
    "4096",
    "10000000",
    "1000000000000",
)
_RAW_TOML = (
    "nan",
    "-inf",
    "1979-05-27",
    "07:32:00",
    "{ a = 1 }",
    "[{ at = '1 s' }]",
    "{ value = 1 }",
    "0x" + "f" * 300,
)
_RAW_JSON = ("NaN", "-Infinity", "null", '{"a": 1}', '{"value": null}', "1E5", '"\\ud800"')


def raw(text: str) -> str:
    """Mark a text that is written into a document as it stands."""
    return f"{_RAW}{text.encode().hex()}{_RAW}"


def values(kind: str) -> st.SearchStrategy[Any]:
    """Hostile values of a document, ``toml`` or ``json``."""
    own = _RAW_TOML if kind == "toml" else _RAW_JSON
    return st.one_of(st.sampled_from([raw(text) for text in (*_RAW_BOTH, *own)]), st.sampled_from(_TEXTS))


def dumps(document: Any, kind: str) -> bytes:
    """Write a document, marked texts as they stand."""
    text = tomli_w.dumps(document) if kind == "toml" else json.dumps(document, ensure_ascii=False)
    pieces = text.split(_RAW)
    for at in range(1, len(pieces), 2):
        pieces[at - 1] = pieces[at - 1][:-1]
        pieces[at] = bytes.fromhex(pieces[at]).decode()
        pieces[at + 1] = pieces[at + 1][1:]
    return "".join(pieces).encode("utf-8", "surrogatepass")


def _places(document: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """List every container of a document with every key or index in it."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(items)[:200]:
        found.append((document, key))
        if isinstance(value, dict | list):
            _places(value, found)
    return found


def damaged(draw: Draw, document: Any, kind: str) -> Any:
    """Replace, remove, rename, double or move one to three values of a document."""
    whole = deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = _places(whole, [])
        if not places:
            return whole
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        match draw(st.sampled_from(("value", "value", "value", "remove", "rename", "add", "wrap", "move"))):
            case "value":
                holder[key] = draw(values(kind))
            case "remove":
                del holder[key]
            case "rename" if isinstance(holder, dict):
                holder[draw(st.sampled_from(("nme", f"{key}s", "", "a.b", "\x1b[2J", "k" * 3000)))] = holder.pop(key)
            case "add" if isinstance(holder, dict):
                holder["unknown"] = draw(values(kind))
            case "wrap":
                holder[key] = [holder[key]]
            case _:
                other, name = places[draw(st.integers(0, len(places) - 1))]
                if name in other if isinstance(other, dict) else name < len(other):
                    holder[key] = deepcopy(other[name])
    return whole


def _flipped(draw: Draw, content: bytes) -> bytes:
    """Replace eight bytes of a file."""
    found = bytearray(content)
    for _ in range(8 if found else 0):
        found[draw(st.integers(0, len(found) - 1))] = draw(st.integers(0, 255))
    return bytes(found)


#: What disks, editors and downloads do to a file: from its content and a place in it.
_DAMAGES: tuple[Callable[[bytes, int], bytes], ...] = (
    lambda content, at: content[:at],
    lambda content, at: content[at:],
    lambda content, at: content[:at] + b"\x00" * 16 + content[at:],
    lambda content, at: content[:at] + content[: at // 2] + content[at:],
    lambda content, _: b"\xef\xbb\xbf" + content,
    lambda content, _: content.decode("utf-8", "replace").encode("utf-16"),
    lambda content, _: content.replace(b"\n", b"\r\n"),
    lambda content, _: gzip.compress(content),
    lambda *_: b"",
    lambda content, _: content.replace(b"\n", b" ") + b"x" * 3_000_000,
    lambda content, at: content.replace(b",", b",,", 1 + at % 3),
    lambda content, _: content + b"\x1b]0;title\x07" + content,
    lambda content, _: b"\n".join(content.split(b"\n")[::-1]),
    lambda content, at: content.replace(b"1", b"NaN", 1 + at % 4),
)


def damaged_bytes(draw: Draw, content: bytes) -> bytes:
    """Damage a file as disks, editors and downloads do."""
    way = draw(st.integers(0, len(_DAMAGES) + 1))
    if way >= len(_DAMAGES):
        return _flipped(draw, content)
    return _DAMAGES[way](content, draw(st.integers(0, max(len(content) - 1, 0))))


_CELLS = (
    "",
    "nan",
    "inf",
    "-1",
    "0",
    "0.5",
    "1e308",
    "1e18",
    str(2**63),
    "9" * 400,
    "text",
    '"',
    '""',
    "\x00",
    "\x1b[31m",
    "2024-13-45",
    "1e-320",
    "x" * 3000,
    " 1 ",
    "1,2",
    "true",
)


def damaged_table(draw: Draw, rows: list[list[str]]) -> bytes:
    """Damage the cells, rows and columns of a table, the first row its header, and write it as CSV."""
    table = [list(row) for row in rows]
    for _ in range(draw(st.integers(1, 2))):
        row = draw(st.integers(0, len(table) - 1))
        column = draw(st.integers(0, max(len(table[row]) - 1, 0)))
        match draw(st.integers(0, 7)):
            case 0 | 1 | 2 if table[row]:
                table[row][column] = draw(st.sampled_from(_CELLS))
            case 3:
                table[row] = table[row][:column]
            case 4:
                table[row] = [*table[row], draw(st.sampled_from(_CELLS))]
            case 5:
                table = [[*line[column : column + 1], *line] for line in table]
            case 6:
                table = [line[::-1] if at else line for at, line in enumerate(table)]
            case _:
                table = [table[0], *table[:0:-1]]
    return "\n".join(",".join(row) for row in table).encode() + b"\n"


_COLUMNS: tuple[Any, ...] = (
    [None, None, None],
    [],
    [1, 2],
    [1.5, float("nan"), float("inf")],
    ["a", "b", "c"],
    [[1], [2], [3]],
    [[], [], []],
    [[1, 1], [1, 1], [2]],
    [[[1]], [[2]], [[3]]],
    [["a"], ["b"], None],
    [-1, -1, -1],
    [2**62, 2**63 - 1, 0],
    [b"\xff", b"", b"x"],
    [True, False, True],
    [{"a": 1}, {"a": 2}, {"a": 3}],
    [0, 0, 0],
    [1e308, 1e308, -1e308],
)
_METADATA = (
    b"",
    b"5",
    b"[]",
    b"\xff\xfe",
    b"{",
    b'{"block_tokens": 0}',
    b'{"block_tokens": "a"}',
    b'{"concurrency": 0}',
)
_METADATA_MORE = (
    b'{"num_experts": 1e400}',
    b'{"num_experts": -1, "padded": 3}',
    b'{"a":' * 900,
    b'{"block_tokens": 1e300}',
)


def damaged_parquet(draw: Draw, columns: dict[str, list[Any]]) -> bytes:
    """Give columns of a Parquet file other values, types or names, and the file other metadata."""
    import pyarrow as pa
    import pyarrow.parquet

    held: dict[str, Any] = dict(columns)
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(sorted(held)))
        match draw(st.integers(0, 5)):
            case 0:
                del held[name]
            case 1:
                held[name.upper()] = held.pop(name)
            case _:
                held[name] = draw(st.sampled_from(_COLUMNS))
        if not held:
            break
    rows = min((len(column) for column in held.values()), default=0)
    arrays = {name: pa.array(column[:rows]) for name, column in held.items()}
    table = pa.table(arrays)
    if draw(st.booleans()):
        table = table.replace_schema_metadata({b"moesim": draw(st.sampled_from((*_METADATA, *_METADATA_MORE)))})
    sink = io.BytesIO()
    try:
        pyarrow.parquet.write_table(table, sink)
    except pa.ArrowException:
        return b"PAR1"
    return sink.getvalue()
