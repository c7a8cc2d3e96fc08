"""Routing files are read right, and every malformed one is refused with the token and layer."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workloads.errors import TraceFormatError, WorkloadError
from workloads.routing.files import read_routing_trace, save_routing_trace
from workloads.routing.generators import generate_routing
from workloads.routing.trace import RoutingTrace, check_routing

SHARED = Path(__file__).parents[3].parent / "shared"


def trace(**sizes):
    given = {"tokens": 40, "layers": 3, "num_experts": 8, "top_k": 2, "seed": 1, "sequence_tokens": 10}
    return generate_routing("uniform", **(given | sizes))


def arrays(**changes):
    made = trace()
    start = made.sequence_start
    plain = {
        "expert_ids": made.expert_ids.copy(),
        "sequence_start": start.copy(),
        "sequence_length": np.diff(start, append=made.tokens),
    }
    return {name: value for name, value in (plain | changes).items() if value is not None}


def write(tmp_path, **changes):
    path = tmp_path / "r.npz"
    np.savez(path, **arrays(**changes))
    return path


def ids_with(value, token=7, layer=1, slot=1):
    ids = arrays()["expert_ids"].astype(np.int16)
    ids[token, layer, slot] = value
    return ids


@pytest.mark.parametrize("name", ["r.npz", "r.parquet"])
def test_both_formats_give_back_what_was_saved(tmp_path, name):
    made = trace(num_experts=300)
    save_routing_trace(made, tmp_path / name)
    again = read_routing_trace(tmp_path / name)
    np.testing.assert_array_equal(again.expert_ids, made.expert_ids)
    np.testing.assert_array_equal(again.sequence_start, made.sequence_start)
    assert again.expert_ids.dtype == np.uint16
    assert again.num_experts == 300
    assert again.source.endswith(name)


def test_a_file_that_does_not_state_its_experts_has_as_many_as_it_names(tmp_path):
    path = write(tmp_path, expert_ids=ids_with(11))
    assert read_routing_trace(path).num_experts == 12
    assert read_routing_trace(path, num_experts=16).num_experts == 16


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"expert_ids": ids_with(-1)}, "token 7, layer 1: expert -1 does not exist, expected 0 to 7"),
        ({"expert_ids": ids_with(8)}, "token 7, layer 1: expert 8 does not exist"),
        ({"expert_ids": np.zeros((40, 3, 2), np.uint8)}, "token 0, layer 0: the same expert twice in [0, 0]"),
        ({"expert_ids": np.zeros((40, 3), np.uint8)}, "expert_ids has shape (40, 3), expected 3 axes"),
        ({"expert_ids": np.zeros((40, 3, 2))}, "expert_ids holds float64, expected integers"),
        ({"expert_ids": np.zeros((0, 3, 2), int), "sequence_length": None}, "expert_ids is empty"),
        ({"expert_ids": None}, "array 'expert_ids' is missing"),
        (
            {"sequence_start": np.array([0, 20, 20]), "sequence_length": None},
            "sequence 2 starts at token 20, not",
        ),
        ({"sequence_start": np.array([3, 20]), "sequence_length": None}, "sequence 0 starts at token 3, expected 0"),
        ({"sequence_start": np.array([0, 40]), "sequence_length": None}, "starts at token 40 of only 40 tokens"),
        ({"sequence_start": np.array([0.0]), "sequence_length": None}, "sequence_start holds float64"),
        (
            {"sequence_start": np.array([0, 20]), "sequence_length": np.array([19, 20])},
            "sequence 0 covers tokens 0 to 18, but the next starts at 20",
        ),
        (
            {"sequence_start": np.array([0, 20]), "sequence_length": np.array([20, 10])},
            "sequence 1 covers tokens 20 to 29, but the trace has 40 tokens",
        ),
        ({"num_experts": np.array([8, 8])}, "num_experts: got [8, 8]"),
        ({"num_experts": np.int64(4)}, "does not exist, expected 0 to 3"),
    ],
)
def test_malformed_archives_are_explained(tmp_path, changes, expected):
    path = write(tmp_path, **changes)
    with pytest.raises(TraceFormatError) as error:
        read_routing_trace(path, num_experts=None if "num_experts" in changes else 8)
    assert expected in str(error.value)
    assert "r.npz" in str(error.value)


def test_a_misspelt_array_names_the_nearest_one(tmp_path):
    np.savez(tmp_path / "r.npz", experts_ids=arrays()["expert_ids"], sequence_start=np.array([0]))
    with pytest.raises(TraceFormatError, match="did you mean 'experts_ids'"):
        read_routing_trace(tmp_path / "r.npz")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("name", ["r.npz", "r.parquet"])
def test_truncated_files_are_refused(tmp_path, name, share):
    save_routing_trace(trace(), tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(TraceFormatError, match="truncated"):
        read_routing_trace(tmp_path / name)


def test_pickled_objects_are_not_loaded(tmp_path):
    np.savez(tmp_path / "r.npz", expert_ids=np.array([{"a": 1}], dtype=object), sequence_start=np.array([0]))
    with pytest.raises(TraceFormatError, match="not an npz archive"):
        read_routing_trace(tmp_path / "r.npz")


def test_a_lone_array_is_not_an_archive(tmp_path):
    with (tmp_path / "r.npz").open("wb") as opened:
        np.save(opened, np.zeros((4, 3, 2), np.uint8))
    with pytest.raises(TraceFormatError, match="not an npz archive"):
        read_routing_trace(tmp_path / "r.npz")


def test_an_empty_file_says_so(tmp_path):
    (tmp_path / "r.npz").touch()
    with pytest.raises(TraceFormatError, match="the file is empty"):
        read_routing_trace(tmp_path / "r.npz")


def test_other_extensions_are_refused(tmp_path):
    (tmp_path / "r.pt").write_bytes(b"x")
    with pytest.raises(WorkloadError, match=r"\.npz or \.parquet, not \.pt"):
        read_routing_trace(tmp_path / "r.pt")
    with pytest.raises(WorkloadError, match=r"saved as \.npz or \.parquet"):
        save_routing_trace(trace(), tmp_path / "r.csv")


def table(**changes):
    columns = {
        "sequence": [0, 0, 0, 0, 1, 1],
        "token": [0, 0, 1, 1, 2, 2],
        "layer": [0, 1, 0, 1, 0, 1],
        "experts": [[0, 1], [2, 3], [0, 2], [1, 3], [0, 3], [1, 2]],
    }
    return pa.table({name: value for name, value in (columns | changes).items() if value is not None})


def test_a_table_of_rows_becomes_tokens_layers_and_sequences(tmp_path):
    pq.write_table(table(), tmp_path / "r.parquet")
    read = read_routing_trace(tmp_path / "r.parquet")
    assert read.expert_ids.tolist() == [[[0, 1], [2, 3]], [[0, 2], [1, 3]], [[0, 3], [1, 2]]]
    assert read.sequence_start.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"experts": None}, "column 'experts' is missing"),
        ({"layer": [0, 1, 0, 1, 1, 0]}, "row 5: layer is 1, expected 0; rows go token by token"),
        ({"token": [0, 0, 2, 2, 3, 3]}, "row 3: token is 2, expected 1"),
        ({"token": [0, 0, 1, None, 2, 2]}, "row 4: token: no value"),
        ({"token": [0.5] * 6}, "column token holds double"),
        ({"sequence": [0, 0, 0, 1, 1, 1]}, "token 1: its layers name two sequences"),
        ({"sequence": [0, 0, 1, 1, 0, 0]}, "comes back after another one"),
        ({"experts": [[0, 1], [2, 3], [0], [1, 3], [0, 3], [1, 2]]}, "row 3: experts has 1 entries"),
        ({"experts": [[0, 1], [2, 3], [0, None], [1, 3], [0, 3], [1, 2]]}, "row 3: experts: no value"),
        ({"experts": [[0, 1], [2, 3], [0, 2], [1, 1], [0, 3], [1, 2]]}, "token 1, layer 1: the same expert twice"),
        ({"experts": ["a"] * 6}, "column experts holds string"),
        ({"experts": [[0.5, 1.0]] * 6}, "lists of double"),
    ],
)
def test_malformed_tables_are_explained(tmp_path, changes, expected):
    pq.write_table(table(**changes), tmp_path / "r.parquet")
    with pytest.raises(TraceFormatError) as error:
        read_routing_trace(tmp_path / "r.parquet")
    assert expected in str(error.value)


def test_a_table_that_ends_within_a_token_looks_truncated(tmp_path):
    pq.write_table(table().slice(0, 5), tmp_path / "r.parquet")
    with pytest.raises(TraceFormatError, match="the last token has 1 of 2 layers"):
        read_routing_trace(tmp_path / "r.parquet")


def test_a_table_without_rows_says_so(tmp_path):
    pq.write_table(table().slice(0, 0), tmp_path / "r.parquet")
    with pytest.raises(TraceFormatError, match="no rows"):
        read_routing_trace(tmp_path / "r.parquet")


def test_a_broken_trace_is_not_saved(tmp_path):
    broken = RoutingTrace(
        expert_ids=np.zeros((4, 1, 2), np.uint8), sequence_start=np.array([0]), num_experts=8, source="by hand"
    )
    with pytest.raises(WorkloadError, match="by hand: token 0, layer 0: the same expert twice"):
        save_routing_trace(broken, tmp_path / "r.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_trace_must_fit_the_model():
    check_routing(trace(), num_experts=8, layers=3, top_k=2)
    with pytest.raises(WorkloadError) as error:
        check_routing(trace(), num_experts=128, layers=36, top_k=4)
    assert "it has 3 MoE layers of 8 experts, top-2" in str(error.value)
    assert "the model has 36 MoE layers of 128 experts, top-4" in str(error.value)


def test_experts_that_a_trace_never_chose_are_no_misfit():
    check_routing(trace(), num_experts=16, layers=3, top_k=2)
    with pytest.raises(WorkloadError, match="of 8 experts"):
        check_routing(trace(), num_experts=4, layers=3, top_k=2)


def test_the_recorded_gpt_oss_routing_reads_in_full():
    path = SHARED / "traces/routing/gpt_oss_20b_top4.npz"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    read = read_routing_trace(path)
    assert (read.tokens, read.layers, read.top_k, read.num_experts) == (129429, 24, 4, 32)
    assert len(read.sequence_start) == 423
    assert read.sequence_start.dtype == np.int64
