"""``moesim routing``: what it prints, what it writes, and how it refuses."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from simulator import Scenario
from simulator.cli.app import app
from simulator.deployment.inputs import scenario_model, scenario_routing
from workloads.routing.files import read_routing_trace

SAMPLE = "sample:routing_4x8_top2.parquet"
FIT = "sample:fit_gpt_oss_20b.toml"


def run(*args):
    return CliRunner().invoke(app, ["routing", *map(str, args)])


def test_stats_show_load_batches_and_what_is_not_known():
    done = run("stats", SAMPLE)
    assert done.exit_code == 0
    for part in ("Rank imbalance", "Experts touched, of 8", "not known: the trace has no token ids", "next: "):
        assert part in done.stdout


def test_stats_as_json_are_one_document(tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(64) % 5)
    done = run("stats", SAMPLE, "--json", "--ep", "2,4", "--batch", 16, "--token-ids", tmp_path / "ids.npy")
    document = json.loads(done.stdout)
    assert sorted((row["ranks"], row["batch"]) for row in document["batches"]) == [(2, 16), (4, 16)]
    assert document["tokens"] == 64
    assert isinstance(document["token_identity"], float)


def test_the_picture_is_an_svg_with_a_cell_per_layer_and_expert(tmp_path):
    assert run("stats", SAMPLE, "--picture", tmp_path / "load.svg").exit_code == 0
    text = (tmp_path / "load.svg").read_text()
    assert text.startswith("<svg")
    assert text.count("<rect") == 4 * 8


def test_generate_takes_a_fit_or_a_kind(tmp_path):
    made = tmp_path / "a.npz"
    sizes = ("--tokens", 200, "--layers", 2, "--experts", 16, "--top-k", 2)
    done = run("generate", "--from", FIT, *sizes, "--out", made, "--json")
    assert json.loads(done.stdout)["tokens"] == 200
    assert read_routing_trace(made).expert_ids.shape == (200, 2, 2)
    done = run("generate", "--kind", "zipf", "--set", "exponent=0.8", *sizes, "--out", made)
    assert done.exit_code == 0
    assert "exponent" not in done.stdout
    assert run("generate", "--kind", "zipf", "--from", FIT, "--out", made).exit_code == 2


def test_generate_drops_and_varies_if_asked(tmp_path):
    made = tmp_path / "a.npz"
    sizes = ("--tokens", 200, "--layers", 2)
    done = run("generate", "--from", FIT, *sizes, "--router", "top_p", "--router-set", "p=0.6", "--out", made)
    assert done.exit_code == 0
    assert read_routing_trace(made).padded
    assert run("generate", "--from", FIT, *sizes, "--capacity-factor", 1, "--batch", 50, "--out", made).exit_code == 0
    assert read_routing_trace(made).padded


def test_convert_goes_both_ways(tmp_path):
    assert run("convert", SAMPLE, tmp_path / "a.json").exit_code == 0
    assert run("convert", tmp_path / "a.json", tmp_path / "a.npz").exit_code == 0
    first, again = (
        json.loads(run("stats", SAMPLE, "--json").stdout),
        json.loads(run("stats", tmp_path / "a.npz", "--json").stdout),
    )
    assert first["load"] == again["load"]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("stats", "nowhere.npz"), "no such file"),
        (("stats", SAMPLE, "--ep", "3"), "ranks: 3 do not divide the 8 experts"),
        (("stats", SAMPLE, "--ep", "2 4"), "--ep: got '2 4', expected whole numbers of at least 2"),
        (("stats", SAMPLE, "--batch", "65"), "batch: got 65 tokens"),
        (("fit", SAMPLE, "--out", "{}/f.toml"), "got 64 tokens, a fit needs at least 2000"),
        (("fit", SAMPLE, "--out", "{}/f.json"), "a routing fit is saved as .toml"),
        (("generate", "--from", "{}/f.toml", "--out", "{}/a.npz"), "no such file"),
        (("generate", "--from", FIT, "--router", "topk", "--out", "{}/a.npz"), "unknown kind 'topk'; "),
        (("generate", "--from", FIT, "--out", "{}/a.pt"), ".pt is read, not written"),
        (
            ("generate", "--kind", "zipff", "--layers", "1", "--experts", "4", "--top-k", "1", "--out", "{}/a.npz"),
            "did",
        ),
        (("convert", SAMPLE, "{}/a.csv"), "is written as .npz, .parquet, .npy or .json, not .csv"),
        (("capture", "{}", "{}/t.txt", "--out", "{}/a.npz"), "no such file"),
    ],
)
def test_what_cannot_be_done_is_one_message_and_nothing_is_written(tmp_path, args, expected):
    done = run(*(arg.replace("{}", str(tmp_path)) for arg in args))
    assert done.exit_code == 2
    assert expected in done.stderr
    assert "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []


def scenario(**routing):
    return Scenario.from_mapping(
        {
            "model": {"name": "gpt-oss-20b"},
            "hardware": {"device": "h100-sxm"},
            "requests": {"concurrency": 4, "count": 8},
            "routing": {"tokens": 256, **routing},
        }
    )


def routed(**keys):
    made = scenario(**keys)
    return scenario_routing(made.routing, scenario_model(made.model), made.seed)


def test_a_scenario_reads_a_fit_and_drops_by_capacity():
    assert routed(kind="fitted", fit=FIT).expert_ids.shape == (256, 24, 4)
    assert routed(kind="fitted", fit=FIT, router="top_p", top_p=0.3).padded
    assert routed(kind="zipf", capacity_factor=1.0, capacity_batch=64).padded


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"kind": "fitted"}, "routing.fit: is required where routing.kind = 'fitted'"),
        ({"kind": "trace"}, "routing.trace: is required"),
    ],
)
def test_a_kind_of_routing_asks_for_the_file_that_it_reads(keys, expected):
    with pytest.raises(Exception, match=expected):
        routed(**keys)
