"""The samples ship, are read without a fault, and come out of their recipe unchanged."""

import numpy as np
import pytest

from workloads.errors import WorkloadError
from workloads.requests.files import read_request_trace
from workloads.routing.files import read_routing_trace
from workloads.samples import SAMPLES, sample_path
from workloads.samples.recipe import write_samples

REQUESTS = {
    "agents_like.jsonl": 80,
    "azure_like.csv": 200,
    "burstgpt_like.csv": 58,
    "mooncake_like.jsonl": 100,
    "requests.csv": 50,
    "vllm_bench_like.json": 40,
}
ROUTING = {"routing_24x32_top4.npz": (600, 24, 4, 32), "routing_4x8_top2.parquet": (64, 4, 2, 8)}


def test_every_sample_is_covered_here():
    assert sorted(SAMPLES) == sorted([*REQUESTS, *ROUTING])


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_sample_reads_in_full(name):
    assert len(read_request_trace(sample_path(name))) == REQUESTS[name]


@pytest.mark.parametrize("name", ROUTING)
def test_a_routing_sample_reads_in_full(name):
    trace = read_routing_trace(sample_path(name))
    assert (trace.tokens, trace.layers, trace.top_k, trace.num_experts) == ROUTING[name]


def test_conversations_of_the_sample_share_their_first_block():
    trace = read_request_trace(sample_path("mooncake_like.jsonl"))
    assert {blocks[0] for blocks in trace.block_hashes} == {0}
    assert [len(blocks) for blocks in trace.block_hashes] == (-(-trace.input_tokens // 512)).tolist()


def test_turns_of_the_sample_come_a_while_after_the_answer_before_them():
    trace = read_request_trace(sample_path("agents_like.jsonl"))
    later = trace.after >= 0
    assert 40 < later.sum() < 70
    assert (trace.input_tokens[later] > (trace.input_tokens + trace.output_tokens)[trace.after[later]]).all()
    assert trace.delay[later].mean() == pytest.approx(2.5, rel=0.3)


def test_the_recipe_makes_the_samples_that_ship(tmp_path):
    write_samples(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(SAMPLES)
    for name in REQUESTS:
        assert (tmp_path / name).read_bytes() == sample_path(name).read_bytes(), name
    for name in ROUTING:
        made, shipped = read_routing_trace(tmp_path / name), read_routing_trace(sample_path(name))
        np.testing.assert_array_equal(made.expert_ids, shipped.expert_ids)
        np.testing.assert_array_equal(made.sequence_start, shipped.sequence_start)


def test_an_unknown_sample_names_the_nearest_one():
    with pytest.raises(WorkloadError, match=r"did you mean 'azure_like\.csv'"):
        sample_path("azure.csv")
