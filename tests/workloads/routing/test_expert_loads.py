"""Tables of expert loads are read as EPLB, SGLang and vLLM write them, and routing drawn from them has their loads."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from simulator.cli.app import app
from workloads.errors import TraceFormatError, WorkloadError
from workloads.routing.loads import read_expert_loads, routing_of_loads
from workloads.routing.stats import expert_load

TABLE = [[90, 132, 40, 61, 104, 165, 39, 4], [20, 107, 104, 64, 19, 197, 187, 157]]


def saved(tmp_path, document, name="loads.json"):
    path = tmp_path / name
    if name.endswith(".npy"):
        np.save(path, document)
    elif name.endswith(".npz"):
        np.savez(path, **document)
    else:
        path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("document", "name"),
    [
        (TABLE, "a.json"),
        ({"weight": TABLE}, "a.json"),
        ({"rank": 0, "logical_count": [TABLE, TABLE], "average_utilization_rate_over_window": None}, "a.json"),
        ({"logical_count": [[[0] * 8] * 2, TABLE]}, "a.json"),
        ({"logical_count": [TABLE[0], [0] * 8, TABLE[1]]}, "a.json"),
        (np.array(TABLE), "a.npy"),
        ({"logical_count": np.array([TABLE])}, "a.npz"),
        ({"arr_0": np.array(TABLE, np.float32)}, "a.npz"),
        ("\n".join(",".join(map(str, row)) for row in TABLE), "a.csv"),
        (
            "layer_id,expert_id,count\n"
            + "\n".join(f"{layer},{e},{count}" for layer, row in enumerate(TABLE) for e, count in enumerate(row)),
            "a.csv",
        ),
    ],
)
def test_a_table_is_read_however_it_is_kept(tmp_path, document, name):
    loads = read_expert_loads(saved(tmp_path, document, name))
    assert (loads.layers, loads.num_experts) == (2, 8)
    share = loads.counts.sum(axis=0) / loads.counts.sum(axis=(0, 2))[:, None]
    np.testing.assert_allclose(share, np.array(TABLE) / np.sum(TABLE, axis=1, keepdims=True))


def test_loads_of_replicas_are_added_up_by_their_map(tmp_path):
    document = {"expert_load_window": [[[1, 2, 3, 4]]], "physical_to_logical_map": [[0, 1, 2, 0]]}
    assert read_expert_loads(saved(tmp_path, document)).counts.tolist() == [[[5.0, 2.0, 3.0]]]
    del document["physical_to_logical_map"]
    with pytest.raises(TraceFormatError, match="counts physical experts; their map to logical ones"):
        read_expert_loads(saved(tmp_path, document))


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"records": []}, "choices of tokens"),
        ({"a": 1}, "no table of loads in it"),
        ([[1, 2], [3]], "all rows equally long"),
        ([[1, -2]], "layer 0, expert 1: got -2"),
        ([[0, 0]], "no expert was ever chosen"),
        ([1, 2], "has shape"),
        (3, "has shape"),
        ([["a"]], "expected numbers"),
        ([[10**400]], "a whole number of some 400 digits"),
        ({"expert_load_pass": [[1, 2]], "physical_to_logical_map": [[0, -1]]}, "expected expert ids"),
        ({"expert_load_pass": [[1, 2]], "physical_to_logical_map": [[0]]}, "has shape"),
    ],
)
def test_what_is_no_table_is_refused_in_short(tmp_path, document, expected):
    with pytest.raises(TraceFormatError) as error:
        read_expert_loads(saved(tmp_path, document))
    assert expected in str(error.value)
    assert len(str(error.value)) < 500


def test_drawn_routing_has_the_loads_of_the_table_and_no_expert_twice(tmp_path):
    loads = read_expert_loads(saved(tmp_path, TABLE))
    trace = routing_of_loads(loads, 3, 16_384, seed=0)
    assert (trace.tokens, trace.layers, trace.top_k, len(trace.sequence_start)) == (16_384, 2, 3, 16)
    ordered = np.sort(trace.expert_ids, axis=2)
    assert (ordered[:, :, 1:] != ordered[:, :, :-1]).all()
    expected = 3 * 16_384 * np.array(TABLE) / np.sum(TABLE, axis=1, keepdims=True)
    assert np.abs(expert_load(trace) - expected).max() <= 16


def test_windows_follow_each_other_in_drawn_routing(tmp_path):
    early, late = [[8, 8, 1, 1]], [[1, 1, 8, 8]]
    trace = routing_of_loads(read_expert_loads(saved(tmp_path, [early, late])), 1, 2000, seed=0)
    first = trace.expert_ids[:1000].ravel()
    assert len(trace.sequence_start) == 2
    assert (first < 2).mean() == pytest.approx(16 / 18, abs=0.01)


def test_an_expert_cannot_have_more_than_one_choice_of_every_token(tmp_path):
    loads = read_expert_loads(saved(tmp_path, [[90, 5, 5]]))
    with pytest.raises(WorkloadError, match=r"expert 0 has 90\.0% of the choices"):
        routing_of_loads(loads, 2, 100, seed=0)


def test_place_takes_a_table_of_loads(tmp_path):
    rng = np.random.default_rng(0)
    path = saved(tmp_path, rng.integers(1, 100, (24, 32)).tolist())
    command = [
        "place",
        "--loads",
        str(path),
        "--device",
        "h100-sxm",
        "--ep",
        "4",
        "--policies",
        "linear,eplb",
        "--json",
    ]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 0, answer.output
    scores = json.loads(answer.stdout)["studies"][0]["policies"]
    by_name = {score["policy"]: score["rank_imbalance_seen"] for score in scores}
    assert by_name["eplb"] < by_name["linear"]
    assert "says how often experts were chosen, not by which token" in answer.stderr
