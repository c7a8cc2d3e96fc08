"""Routing files that are damaged, encrypted or claim more than there is are refused before anything is allocated."""

import io
import json
import struct
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workloads.errors import TraceFormatError, WorkloadError
from workloads.routing.convert import read_recording
from workloads.routing.files import read_routing_trace

IDS = np.array([[[0, 1]], [[1, 2]]])


def header(shape, dtype="|u1"):
    """A ``.npy`` of that shape without its content."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def npz(path, members, *, flags=0, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    raw = bytearray(path.read_bytes())
    if flags:
        # The general-purpose flags stand 6 bytes into a local header and 8 into an entry of the directory.
        for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            at = raw.find(mark)
            while at >= 0:
                raw[at + offset] |= flags
                at = raw.find(mark, at + 1)
        path.write_bytes(raw)
    return path


def array(values):
    content = io.BytesIO()
    np.save(content, values)
    return content.getvalue()


START = array(np.array([0]))


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (header((2**40, 1, 1)), "its header claims 1,024.0 GiB"),
        (header((2**62, 2**62, 8)), "its header claims"),
        (header((1000, 1, 1)) + b"\0" * 10, "its header claims 1,000 bytes"),
        (header((-1, 1, 1)), "not an npz archive of plain arrays"),
        (header((1, 1, 1), "|O"), "not an npz archive of plain arrays"),
        (b"\x93NUMPY\x09\x00", "version (9, 0)"),
        (b"no array at all", "not an npz archive of plain arrays"),
        (header("(" * 3000), "not an npz archive of plain arrays"),
        (b"", "not an npz archive of plain arrays"),
    ],
)
def test_a_header_is_believed_only_as_far_as_there_is_content(tmp_path, ids, expected):
    path = npz(tmp_path / "r.npz", {"expert_ids": ids, "sequence_start": START})
    for read in (read_routing_trace, read_recording):
        with pytest.raises(TraceFormatError) as error:
            read(path)
        assert expected in str(error.value)
        assert len(str(error.value)) < 500


def test_a_megabyte_that_expands_to_hundreds_is_refused_unread(tmp_path):
    content = header((2**27, 1, 1)) + bytes(2**27)
    path = npz(tmp_path / "r.npz", {"expert_ids": content, "sequence_start": START})
    assert path.stat().st_size < 2**20
    with pytest.raises(TraceFormatError, match="expand to 134,217,728: no recording is so uniform"):
        read_routing_trace(path)


def test_an_encrypted_archive_is_refused(tmp_path):
    path = npz(tmp_path / "r.npz", {"expert_ids": array(IDS), "sequence_start": START}, flags=1)
    with pytest.raises(TraceFormatError, match="is encrypted"):
        read_routing_trace(path)


def test_a_npy_that_claims_a_terabyte_is_refused(tmp_path):
    path = tmp_path / "r.npy"
    path.write_bytes(header((2**40, 1, 1)))
    with pytest.raises(TraceFormatError, match=r"its header claims 1,024\.0 GiB"):
        read_recording(path)


def rows(**changes):
    columns = {"sequence": [0, 0], "token": [0, 1], "layer": [0, 0], "experts": [[0, 1], [1, 2]]} | changes
    return pa.table({name: values for name, values in columns.items() if values is not None})


@pytest.mark.parametrize(
    ("changes", "facts", "expected"),
    [
        ({"experts": pa.array([[], []], pa.list_(pa.int64()))}, b"{}", "experts is empty"),
        ({"experts": [[0, None], [1, 2]]}, b"{}", "experts: no value"),
        ({"layer": [2**63 - 1, 0]}, b"{}", "column layer holds 9223372036854775807"),
        ({"layer": [-1, -1]}, b"{}", "column layer holds -1"),
        ({"token": [0, None]}, b"{}", "row 2: token: no value"),
        ({"experts": None}, b"{}", "column 'experts' is missing"),
        ({}, b"[1]", "expected a JSON object"),
        ({}, b'{"num_experts": "8"}', "num_experts: got '8'"),
        ({}, b'{"num_experts": 1000000000}', "num_experts: got 1000000000"),
        ({}, b"\xff", "no text in UTF-8"),
    ],
)
def test_what_a_parquet_file_says_of_itself_is_checked(tmp_path, changes, facts, expected):
    path = tmp_path / "r.parquet"
    pq.write_table(rows(**changes).replace_schema_metadata({b"moesim": facts}), path)
    with pytest.raises(WorkloadError) as error:
        read_routing_trace(path)
    assert expected in str(error.value)


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    table = rows()
    pq.write_table(table.append_column("layer", table["layer"]), tmp_path / "r.parquet")
    with pytest.raises(TraceFormatError, match="column 'layer' is there 2 times"):
        read_routing_trace(tmp_path / "r.parquet")


@pytest.mark.parametrize("experts", [0, 10**9, True, "8"])
def test_no_layer_has_more_experts_than_ids_have_bits(tmp_path, experts):
    path = npz(tmp_path / "r.npz", {"expert_ids": array(IDS), "sequence_start": START})
    with pytest.raises(WorkloadError, match="num_experts: got"):
        read_routing_trace(path, experts)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"records": 3}, "records: got 3, expected a list"),
        ({"records": [{"topk_ids_of_layer": [[[10**30]]]}]}, "expected whole numbers"),
        ({"records": [{"topk_ids_of_layer": {"a": 1}}]}, "expected whole numbers"),
        ({"records": [{"topk_ids_of_layer": [[[0, 1]]]}], "num_experts": 10**9}, "1,000,000,000 experts in a layer"),
        ({"logical_count": [[1]]}, "'moesim place --loads' takes it"),
    ],
)
def test_a_recording_that_cannot_be_is_refused(tmp_path, document, expected):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(document))
    with pytest.raises(TraceFormatError) as error:
        read_recording(path)
    assert expected in str(error.value)
