"""A fit keeps the statistics of its trace, at any size, and a file of it reads back equal."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulator.placement import place
from simulator.placement.replay import replay
from workloads.errors import TraceFormatError, WorkloadError
from workloads.routing.dependence import (
    layer_information,
    overlap_by_chance,
    overlap_by_lag,
    token_identity_share,
)
from workloads.routing.files import read_routing_trace
from workloads.routing.fit import fit_routing, measure, moment_distance
from workloads.routing.fit_files import read_routing_fit, save_routing_fit
from workloads.routing.generators import generate_routing
from workloads.routing.latent import LatentRouting, balance, generate_fitted
from workloads.routing.report import decode_lanes, routing_report
from workloads.routing.stats import expert_load, imbalance, imbalance_by_batch
from workloads.routing.trace import RoutingTrace, routing_fault
from workloads.samples import sample_path

REAL = Path(__file__).parents[3].parent / "shared" / "traces" / "routing" / "gpt_oss_20b_top4.npz"
needs_real = pytest.mark.skipif(not REAL.exists(), reason=f"no recorded trace at {REAL}")


def model(layers=3, experts=16, variance=(0.5, 2.0, 0.5, 0.3, 2.0, 3.0), **changes):
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.full(experts, 2.0), layers) * 2
    given = {
        "probability": np.minimum(share, 0.9) / np.minimum(share, 0.9).sum(axis=1, keepdims=True) * 2,
        "variance": np.tile(variance, (layers, 1)),
        "factors": 6,
        "layer_memory": 0.95,
        "top_k": 2,
        "domains": 4,
        "domain_run": 3.0,
        "sequence_tokens": np.array([20, 100, 200]),
        "source": "by hand",
    }
    return LatentRouting(**(given | changes))


def test_a_generated_trace_has_the_load_of_its_fit_whatever_the_seed():
    for seed in (1, 2):
        load = expert_load(generate_fitted(model(), tokens=20_000, seed=seed)) / 20_000
        assert np.abs(load - model().probability).max() < 0.02


def test_a_seed_fixes_the_trace():
    first, second, other = (generate_fitted(model(), tokens=500, seed=seed).expert_ids for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("layers", "experts", "top_k", "tokens"), [(1, 4, 4, 7), (5, 64, 8, 900), (2, 16, 1, 1)])
def test_a_fit_makes_sound_traces_of_any_size(layers, experts, top_k, tokens):
    made = generate_fitted(model(), tokens=tokens, seed=1, layers=layers, num_experts=experts, top_k=top_k)
    assert made.expert_ids.shape == (tokens, layers, top_k)
    assert routing_fault(made.expert_ids, made.sequence_start, experts) is None


def test_more_experts_keep_the_skew_of_their_load():
    narrow = imbalance(model().probability).mean()
    wide = generate_fitted(model(), tokens=20_000, seed=1, num_experts=64, top_k=8)
    assert imbalance(expert_load(wide)).mean() == pytest.approx(narrow, rel=0.15)


def test_variance_of_a_part_gives_memory_of_its_length():
    rng = np.random.default_rng(0)

    def excess(*variance):
        made = generate_fitted(model(variance=variance), tokens=8000, seed=3)
        return overlap_by_lag(made, (1, 64), rng).mean(axis=1) - overlap_by_chance(made).mean()

    nothing, phrase, sequence = excess(0, 0, 0, 0, 0, 0), excess(0, 0, 0, 0, 4, 0), excess(0, 4, 0, 0, 0, 0)
    assert np.abs(nothing).max() < 0.02
    assert phrase[0] > 0.05 > 0.02 > abs(phrase[1])
    assert sequence.min() > 0.05


def test_kinds_of_token_tie_layers_together():
    def between(*variance):
        return layer_information(generate_fitted(model(variance=variance), tokens=8000, seed=3)).mean()

    assert between(0, 0, 0, 0, 0, 8) > 0.05 > 0.01 > abs(between(0, 0, 0, 0, 0, 0))


def test_balancing_gives_every_expert_its_share():
    rng = np.random.default_rng(0)
    logits, wanted = rng.normal(size=(4000, 8)).astype(np.float32) * 3, np.linspace(0.1, 0.4, 8)
    shifted = logits + balance(logits, wanted, 2)
    chosen = np.argsort(-shifted, axis=1)[:, :2]
    found = np.bincount(chosen.ravel(), minlength=8) / 4000
    np.testing.assert_allclose(found, wanted, atol=0.01)


def test_a_router_chooses_from_the_logits_of_a_fit():
    plain = generate_fitted(model(), tokens=300, seed=1)
    same = generate_fitted(model(), tokens=300, seed=1, router="softmax_top_k")
    np.testing.assert_array_equal(plain.expert_ids, same.expert_ids)
    varying = generate_fitted(model(), tokens=300, seed=1, router="top_p", router_parameters={"p": 0.6})
    assert varying.padded
    assert routing_fault(varying.expert_ids, varying.sequence_start, 16, padded=True) is None
    with pytest.raises(WorkloadError, match="unknown kind 'top_q'; did you mean 'top_p'"):
        generate_fitted(model(), tokens=300, seed=1, router="top_q")


def test_a_file_of_a_fit_reads_back(tmp_path):
    save_routing_fit(model(), tmp_path / "f.toml", {"load": 0.02})
    again = read_routing_fit(tmp_path / "f.toml")
    np.testing.assert_allclose(again.probability, model().probability, rtol=1e-4)
    np.testing.assert_allclose(again.variance, model().variance)
    assert replace(again, probability=0, variance=0, sequence_tokens=0) == replace(
        model(), probability=0, variance=0, sequence_tokens=0
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("factors = 6", "factor = 6", "factor: unknown key; did you mean 'factors'"),
        ("factors = 6\n", "", "factors: is missing"),
        ("top_k = 2", "top_k = 3", "probability: every layer must sum to top_k = 3"),
        ("domain_run = 3", "domain_run = 0.5", "domain_run: got 0.5, expected a number of at least 1"),
        ('kind = "latent"', 'kind = "zipf"', "kind: got 'zipf', expected 'latent'"),
        ("[20, 100, 200]", "[200, 100]", "sequence_tokens: expected at least two quantiles"),
        ('"token" = [3, 3, 3]', '"token" = [3, 3]', "variance: expected a value for each of the 3 layers"),
        ("top_k = 2", "top_k = ", "not valid TOML"),
    ],
)
def test_malformed_fits_are_explained(tmp_path, old, new, expected):
    save_routing_fit(model(), tmp_path / "f.toml")
    text = (tmp_path / "f.toml").read_text()
    assert old in text
    (tmp_path / "f.toml").write_text(text.replace(old, new))
    with pytest.raises(TraceFormatError) as error:
        read_routing_fit(tmp_path / "f.toml")
    assert expected in str(error.value)


def test_a_fit_from_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "f.pt").write_bytes(b"x")
    with pytest.raises(WorkloadError, match=r"a routing fit is \.toml, not \.pt"):
        read_routing_fit(tmp_path / "f.pt")


def test_a_short_or_padded_trace_is_not_fitted():
    short = generate_routing("uniform", tokens=100, layers=1, num_experts=4, top_k=1, seed=1)
    with pytest.raises(WorkloadError, match="got 100 tokens, a fit needs at least 2000"):
        fit_routing(short)
    with pytest.raises(WorkloadError, match="equally many experts"):
        fit_routing(replace(short, padded=True))


def test_a_fit_to_a_generated_trace_comes_closer_than_a_plain_one():
    trace = generate_fitted(model(layers=2), tokens=6000, seed=4)
    target = measure(trace)
    plain = generate_routing("uniform", tokens=6000, layers=2, num_experts=16, top_k=2, seed=1, sequence_tokens=100)
    fitted = generate_fitted(fit_routing(trace), tokens=6000, seed=9)
    assert moment_distance(target, measure(fitted)) < 0.35 * moment_distance(target, measure(plain))
    for batch in (16, 256):
        wanted, found, flat = (imbalance_by_batch(t, 4, batch).mean() for t in (trace, fitted, plain))
        assert abs(found - wanted) < 0.4 * abs(flat - wanted)


def test_identity_decides_all_where_the_token_alone_chooses():
    rng = np.random.default_rng(0)
    words = rng.integers(30, size=3000)
    ids = np.stack([rng.permuted(np.tile(np.arange(16), (30, 1)), axis=1)[:, :2] for _ in range(2)], axis=1)[words]
    trace = RoutingTrace(expert_ids=ids, sequence_start=np.arange(0, 3000, 100), num_experts=16, source="by hand")
    np.testing.assert_allclose(token_identity_share(trace, words, rng), 1.0)
    assert np.abs(token_identity_share(trace, rng.permutation(words), rng)).max() < 0.05


def test_a_report_separates_chance_from_skew():
    even = generate_routing("uniform", tokens=8000, layers=2, num_experts=16, top_k=2, seed=1)
    row = routing_report(even, ranks=(8,), batches=(32,)).batches[0]
    assert row.prefill == pytest.approx(row.chance, rel=0.03)
    assert row.skew < 1.06 < 1.3 < row.chance
    skewed = generate_routing("zipf", tokens=8000, layers=2, num_experts=16, top_k=2, seed=1, exponent=1.0)
    row = routing_report(skewed, ranks=(8,), batches=(1024,)).batches[0]
    assert row.prefill == pytest.approx(row.skew, rel=0.05)
    assert row.chance < 1.2 < row.skew


def test_decode_lanes_take_every_token_once_and_put_sequences_side_by_side():
    trace = generate_routing("uniform", tokens=500, layers=1, num_experts=4, top_k=1, seed=1, sequence_tokens=50)
    order = decode_lanes(trace, 4)
    assert sorted(order.tolist()) == list(range(500))
    first = np.searchsorted(trace.sequence_start, order[:4], side="right")
    assert len(set(first.tolist())) == 4


def test_a_sample_fit_ships_and_reads():
    assert read_routing_fit(sample_path("fit_gpt_oss_20b.toml")).num_experts == 32


@pytest.mark.parametrize("ranks", [4, 8, 16, 32])
def test_replayed_imbalance_equals_a_direct_count(ranks):
    fitted = read_routing_fit(sample_path("fit_gpt_oss_20b.toml"))
    fitted = replace(fitted, probability=fitted.probability[::4], variance=fitted.variance[::4])
    trace = generate_fitted(fitted, tokens=20_000, seed=1)
    served = replay(trace, place("linear", expert_load(trace).astype(float), ranks), concurrency=64)
    for batch in (8, 64, 512, 4096):
        starts = np.arange(0, trace.tokens - batch + 1, batch)
        loads = np.stack([served.prefill.load(int(start), batch) for start in starts])
        replayed = loads.max(axis=1) / loads.mean(axis=1)
        np.testing.assert_allclose(replayed, imbalance_by_batch(trace, ranks, batch))


@needs_real
def test_the_shipped_fit_reproduces_the_imbalance_of_the_recorded_trace():
    trace = read_routing_trace(REAL)
    trace = replace(trace, expert_ids=trace.expert_ids[:, ::3])
    fitted = read_routing_fit(sample_path("fit_gpt_oss_20b.toml"))
    fitted = replace(fitted, probability=fitted.probability[::3], variance=fitted.variance[::3])
    made = generate_fitted(fitted, tokens=trace.tokens, seed=1)
    assert np.abs(expert_load(made) - expert_load(trace)).mean() < 0.05 * expert_load(trace).mean()
    off = [
        imbalance_by_batch(made, ranks, batch).mean() / imbalance_by_batch(trace, ranks, batch).mean() - 1
        for ranks in (4, 8, 16, 32)
        for batch in (8, 64, 512, 4096)
    ]
    # What one seed shows on a third of the layers is noisier than the table in docs/theory/routing.md.
    assert np.median(np.abs(off)) < 0.05
    assert np.abs(off).max() < 0.09
