"""Recordings of serving stacks become traces, and what cannot be read says why."""

import json
import os

import numpy as np
import pytest

from workloads.errors import TraceFormatError, WorkloadError
from workloads.routing.convert import read_recording, read_token_ids, write_recording
from workloads.routing.generators import generate_routing
from workloads.routing.routers import drop_trace


def made(**changes):
    sizes = {"tokens": 60, "layers": 3, "num_experts": 8, "top_k": 2, "seed": 1, "sequence_tokens": 15}
    return generate_routing("uniform", **(sizes | changes))


@pytest.mark.parametrize("name", ["t.npz", "t.parquet", "t.json"])
def test_every_format_gives_back_what_was_written(tmp_path, name):
    trace = made()
    write_recording(trace, tmp_path / name)
    again = read_recording(tmp_path / name)
    np.testing.assert_array_equal(again.expert_ids, trace.expert_ids)
    np.testing.assert_array_equal(again.sequence_start, trace.sequence_start)
    assert again.num_experts == 8


def test_one_sequence_goes_through_npy_with_its_empty_slots(tmp_path):
    trace = drop_trace(made(sequence_tokens=10**9), 0.5, 60)
    write_recording(trace, tmp_path / "t.npy")
    assert np.load(tmp_path / "t.npy").min() == -1
    again = read_recording(tmp_path / "t.npy", 8)
    assert again.padded
    np.testing.assert_array_equal(again.expert_ids, trace.expert_ids)


def test_routed_experts_of_several_requests_become_sequences(tmp_path):
    parts = {"a": made().expert_ids[:10], "b": made().expert_ids[10:17]}
    np.savez(tmp_path / "r.npz", **parts)
    read = read_recording(tmp_path / "r.npz", 8)
    assert read.sequence_start.tolist() == [0, 10]
    np.testing.assert_array_equal(read.expert_ids, made().expert_ids[:17])


def record(tmp_path, **changes):
    ids = made().expert_ids[:5].transpose(1, 0, 2).astype(int)
    document = {"records": [{"topk_ids_of_layer": ids.tolist(), "extend_seq_lens": [2, 3]}], **changes}
    (tmp_path / "r.json").write_text(json.dumps(document))
    return tmp_path / "r.json"


def test_a_prefill_record_is_cut_into_its_sequences_and_a_decode_record_into_tokens(tmp_path):
    assert read_recording(record(tmp_path)).sequence_start.tolist() == [0, 2]
    ids = made().expert_ids[:5].transpose(1, 0, 2).astype(int).tolist()
    path = record(tmp_path, records=[{"topk_ids_of_layer": ids}])
    assert read_recording(path).sequence_start.tolist() == [0, 1, 2, 3, 4]


def test_physical_experts_become_logical_ones(tmp_path):
    plain = read_recording(record(tmp_path), 8).expert_ids
    turned = [[7 - expert for expert in range(8)]] * 3
    np.testing.assert_array_equal(
        read_recording(record(tmp_path, last_physical_to_logical_map=turned)).expert_ids, 7 - plain
    )


def test_dense_layers_are_left_out(tmp_path):
    ids = made().expert_ids[:5].transpose(1, 0, 2).astype(int)
    with_dense = np.concatenate([np.zeros((1, 5, 2), int), ids])
    path = record(tmp_path, records=[{"topk_ids_of_layer": with_dense.tolist()}])
    assert read_recording(path).layers == 3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"records": [{}]}, "record 0: 'topk_ids_of_layer' is missing; record again with --expert-distribution"),
        ({"records": []}, "no record holds a token"),
        ({"records": [{"topk_ids_of_layer": [[0, 1]]}]}, "topk_ids_of_layer has shape (1, 2), expected (layers"),
        ({"records": [{"topk_ids_of_layer": [[[0.5]]]}]}, "expected whole numbers"),
        (
            {"records": [{"topk_ids_of_layer": [[[0, 1], [1, 2]]], "extend_seq_lens": [3]}]},
            "extend_seq_lens sum to 3, topk_ids_of_layer holds 2 tokens",
        ),
        ({"last_physical_to_logical_map": [[0, 1]]}, "last_physical_to_logical_map has shape (1, 2)"),
        ({"records": [{"topk_ids_of_layer": [[[0, 1], [1, -2]]]}]}, "only -1 marks an empty slot"),
    ],
)
def test_malformed_records_are_explained(tmp_path, changes, expected):
    with pytest.raises(TraceFormatError) as error:
        read_recording(record(tmp_path, **changes))
    assert expected in str(error.value)


def test_counts_are_not_choices(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"logical_count": [[1, 2]]}))
    with pytest.raises(TraceFormatError, match="holds counts"):
        read_recording(tmp_path / "c.json")
    (tmp_path / "c.csv").write_text("layer_id,expert_id,count\n0,0,3\n")
    with pytest.raises(TraceFormatError, match="not by which token"):
        read_recording(tmp_path / "c.csv")


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((4, 2), int), "holds int64 of shape (4, 2), expected whole numbers of (tokens, layers, top_k)"),
        (np.zeros((4, 2, 1)), "holds float64"),
        (np.full((4, 2, 1), 9), "expert 9 does not exist, expected 0 to 7"),
        (np.zeros((4, 2, 2), int), "the same expert twice"),
    ],
)
def test_wrong_arrays_are_explained(tmp_path, array, expected):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(TraceFormatError) as error:
        read_recording(tmp_path / "a.npy", 8)
    assert expected in str(error.value)


def test_a_pt_is_read_without_running_what_is_pickled_in_it(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is optional")
    ids = torch.tensor(made().expert_ids[:5].transpose(1, 0, 2).astype(np.int32))
    torch.save({"records": [{"topk_ids_of_layer": ids, "extend_seq_lens": [5]}]}, tmp_path / "r.pt")
    np.testing.assert_array_equal(read_recording(tmp_path / "r.pt", 8).expert_ids, made().expert_ids[:5])

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made-by-a-pickle"),)

    torch.save({"records": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(TraceFormatError, match=r"not a \.pt of tensors and plain values"):
        read_recording(tmp_path / "evil.pt")
    assert not (tmp_path / "made-by-a-pickle").exists()


def test_other_extensions_and_paths_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "r.bin").write_bytes(b"x")
    with pytest.raises(WorkloadError, match=r"is \.npz, \.parquet, \.npy, \.pt, \.json, not \.bin"):
        read_recording(tmp_path / "r.bin")
    with pytest.raises(WorkloadError, match=r"\.pt is read, not written"):
        write_recording(made(), tmp_path / "r.pt")
    with pytest.raises(WorkloadError, match="does not exist"):
        write_recording(made(), tmp_path / "nowhere" / "r.npz")
    with pytest.raises(WorkloadError, match="holds one sequence, the trace has"):
        write_recording(made(), tmp_path / "r.npy")


def test_token_ids_are_one_whole_number_per_token(tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(4))
    assert read_token_ids(tmp_path / "ids.npy").tolist() == [0, 1, 2, 3]
    np.save(tmp_path / "ids.npy", np.zeros((2, 2)))
    with pytest.raises(TraceFormatError, match="one whole number per token"):
        read_token_ids(tmp_path / "ids.npy")
