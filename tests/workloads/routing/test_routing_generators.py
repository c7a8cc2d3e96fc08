"""Generated routing has the shape, the popularity and the memory that each kind promises."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.errors import WorkloadError
from workloads.routing.files import read_routing_trace
from workloads.routing.generators import ROUTING_KINDS, generate_routing
from workloads.routing.stats import active_experts, expert_load, imbalance, imbalance_by_batch, repeat_fraction
from workloads.routing.trace import routing_fault

SHARED = Path(__file__).parents[3].parent / "shared"
NEEDED = {"zipf": {"exponent": 1.0}, "dirichlet": {"alpha": 0.5}}


def make(kind="uniform", **changes):
    sizes = {"tokens": 4000, "layers": 3, "num_experts": 32, "top_k": 4, "seed": 2, "sequence_tokens": 100}
    return generate_routing(kind, **(sizes | NEEDED.get(kind, {}) | changes))


@given(
    kind=st.sampled_from(sorted(ROUTING_KINDS)),
    tokens=st.integers(1, 60),
    layers=st.integers(1, 3),
    num_experts=st.integers(1, 300),
    top_k=st.integers(1, 10),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60)
def test_every_kind_makes_a_sound_trace_of_any_shape(kind, tokens, layers, num_experts, top_k, seed):
    top_k = min(top_k, num_experts)
    trace = make(kind, tokens=tokens, layers=layers, num_experts=num_experts, top_k=top_k, seed=seed, sequence_tokens=9)
    assert trace.expert_ids.shape == (tokens, layers, top_k)
    assert routing_fault(trace.expert_ids, trace.sequence_start, num_experts) is None
    assert trace.expert_ids.dtype == (np.uint8 if num_experts <= 256 else np.uint16)


@pytest.mark.parametrize("kind", sorted(ROUTING_KINDS))
def test_a_seed_fixes_the_trace(kind):
    first, second, other = make(kind), make(kind), make(kind, seed=3)
    np.testing.assert_array_equal(first.expert_ids, second.expert_ids)
    np.testing.assert_array_equal(first.sequence_start, second.sequence_start)
    assert not np.array_equal(first.expert_ids, other.expert_ids)


#: What each kind drew on 28 November 2026, of few experts and of many.
DRAWN = {
    "dirichlet": ("357367889f98e693", "769cf42947a917e5"),
    "domain": ("0f836c2e5c784312", "d25e67506267aafd"),
    "drifting": ("f8a55582236fe3a5", "ce9628225e1fd4dc"),
    "layer_skew": ("80159af1d3d84c5f", "4146cc18ac8f1aa1"),
    "sticky": ("88c53b0f2a7fd999", "cbe1f1aea98b9608"),
    "uniform": ("b939a11b89feba6b", "881237d54fc84197"),
    "zipf": ("f4e262a72e41c3bb", "0585bc72056a151d"),
}


@pytest.mark.parametrize("kind", sorted(ROUTING_KINDS))
def test_a_seed_draws_what_it_drew_in_earlier_releases(kind):
    drawn = (make(kind), make(kind, tokens=400, num_experts=300, top_k=8))
    assert tuple(hashlib.sha256(trace.expert_ids.tobytes()).hexdigest()[:16] for trace in drawn) == DRAWN[kind]


def test_groups_draw_what_they_drew_in_earlier_releases():
    drawn = make("zipf", num_groups=8, top_k_groups=2).expert_ids
    assert hashlib.sha256(drawn.tobytes()).hexdigest()[:16] == "49726a498c2df0a1"


@pytest.mark.parametrize("kind", ["zipf", "dirichlet"])
def test_all_experts_are_used_when_top_k_is_all_of_them(kind):
    trace = make(kind, num_experts=8, top_k=8, tokens=200)
    assert (np.sort(trace.expert_ids, axis=2) == np.arange(8)).all()


def test_uniform_routing_is_balanced():
    assert imbalance(expert_load(make(tokens=40_000))).max() < 1.06


def test_the_load_of_a_zipf_layer_falls_with_its_exponent():
    steeper = [imbalance(expert_load(make("zipf", exponent=e))).mean() for e in (0.0, 0.5, 1.0, 1.5)]
    assert steeper == sorted(steeper)
    load = np.sort(expert_load(make("zipf", tokens=50_000, top_k=1))[0])[::-1]
    assert load[0] / load[3] == pytest.approx(4.0, rel=0.1)


def test_layers_have_their_own_popular_experts():
    hottest = expert_load(make("zipf", layers=24)).argmax(axis=1)
    assert len(set(hottest)) > 12


def test_a_small_alpha_is_more_skewed_than_a_large_one():
    skewed, even = (imbalance(expert_load(make("dirichlet", alpha=a))).mean() for a in (0.1, 50.0))
    assert skewed > 3 > 1.5 > even


def test_layer_skew_varies_from_layer_to_layer_within_its_bounds():
    ratios = imbalance(expert_load(make("layer_skew", layers=30, lowest=0.0, highest=1.5)))
    assert ratios.min() < 1.6
    assert ratios.max() > 4


def test_domains_that_share_everything_are_one():
    trace = make("domain", tokens=40_000, shared=1.0, stickiness=0.0)
    first, second = trace.expert_ids[:20_000, 0].ravel(), trace.expert_ids[20_000:, 0].ravel()
    loads = [np.bincount(half, minlength=32) for half in (first, second)]
    assert np.corrcoef(loads)[0, 1] > 0.99


def test_a_sequence_keeps_to_the_experts_of_its_domain():
    trace = make("domain", tokens=20_000, domains=16, spread=1.5, shared=0.0, stickiness=0.0, sequence_tokens=500)
    whole = imbalance(expert_load(trace)).mean()
    start, stop = trace.sequence_start[:2]
    ids = trace.expert_ids[start:stop, 0].ravel()
    within = imbalance(np.bincount(ids, minlength=32))
    assert within > 1.5 * whole


@pytest.mark.parametrize("stickiness", [0.0, 0.4, 0.9])
def test_a_sticky_token_keeps_as_many_experts_as_asked(stickiness):
    trace = make("sticky", stickiness=stickiness, exponent=0.0, tokens=20_000, sequence_tokens=500)
    by_chance = 4 / 32
    # Drawn experts are distinct from the kept ones but may still be ones that the token before had.
    assert repeat_fraction(trace).mean() == pytest.approx(stickiness + (1 - stickiness) * by_chance, abs=0.04)
    assert imbalance(expert_load(trace)).max() < 1.4


def test_full_stickiness_repeats_the_first_token_of_each_sequence():
    trace = make("sticky", stickiness=1.0, tokens=500)
    assert repeat_fraction(trace).tolist() == [1.0] * 3
    first = trace.expert_ids[trace.sequence_start[1]]
    assert not np.array_equal(np.sort(first), np.sort(trace.expert_ids[0]))


def test_popularity_drifts_gradually_and_comes_back():
    trace = make("drifting", tokens=40_000, period=20_000, exponent=1.0, layers=1)
    quarters = trace.expert_ids.reshape(8, -1)
    loads = np.stack([np.bincount(part, minlength=32) for part in quarters]).astype(float)
    alike = np.corrcoef(loads)
    assert alike[0, 4] > 0.95
    assert alike[0, 1] > alike[0, 2]
    assert alike[0, 2] < 0.3


def test_groups_limit_the_experts_of_a_token():
    trace = make("zipf", num_experts=64, top_k=6, num_groups=8, top_k_groups=3)
    groups = np.sort(trace.expert_ids // 8, axis=2)
    assert (1 + (np.diff(groups, axis=2) > 0).sum(axis=2)).max() == 3
    assert routing_fault(trace.expert_ids, trace.sequence_start, 64) is None


def test_sequences_have_the_mean_length_asked_for():
    trace = make(tokens=100_000, layers=1, num_experts=2, top_k=1, sequence_tokens=50)
    assert trace.tokens / len(trace.sequence_start) == pytest.approx(50, rel=0.06)


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("zipff", {}, "did you mean 'zipf'"),
        ("zipf", {"exponents": 1}, "routing.exponents: zipf has no such parameter; did you mean 'exponent'"),
        ("zipf", {"exponent": -1}, "routing.exponent: got -1"),
        ("dirichlet", {"alpha": 0}, "routing.alpha: got 0"),
        ("sticky", {"stickiness": 1.2}, "routing.stickiness: got 1.2"),
        ("domain", {"domains": 0}, "routing.domains: got 0"),
        ("domain", {"spread": -1}, "routing.spread: got -1"),
        ("domain", {"shared": float("nan")}, "routing.shared: got nan"),
        ("drifting", {"period": 0}, "routing.period: got 0"),
        ("layer_skew", {"lowest": 1.0, "highest": 0.5}, "routing.highest: got 0.5"),
        ("uniform", {"tokens": 0}, "routing.tokens: got 0"),
        ("uniform", {"top_k": 33}, "routing.top_k: got 33, expected a whole number of at least 1 and at most 32"),
        ("uniform", {"num_groups": 5}, "5 do not divide the 32 experts"),
        ("uniform", {"num_groups": 16, "top_k_groups": 1}, "1 of 16 groups hold 2 experts, fewer than top_k 4"),
        ("sticky", {"num_groups": 4, "top_k_groups": 2}, "not together with stickiness"),
    ],
)
def test_bad_parameters_name_their_key(kind, changes, expected):
    with pytest.raises(WorkloadError) as error:
        make(kind, **changes)
    assert expected in str(error.value)


def test_a_parameter_that_is_needed_is_named():
    with pytest.raises(WorkloadError, match=r"routing\.exponent: missing"):
        generate_routing("zipf", tokens=1, layers=1, num_experts=2, top_k=1, seed=0)


def test_default_domains_are_as_close_to_the_recorded_routing_as_the_documentation_says():
    path = SHARED / "traces/routing/gpt_oss_20b_top4.npz"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    recorded = read_routing_trace(path)
    made = make("domain", tokens=12_000, layers=24, sequence_tokens=306)
    for measure, tolerance in (
        (lambda trace: imbalance(expert_load(trace)), 0.1),
        (repeat_fraction, 0.1),
        (lambda trace: imbalance_by_batch(trace, 8, 64), 0.1),
        (lambda trace: active_experts(trace, 8), 0.1),
        (lambda trace: active_experts(trace, 64), 0.3),
    ):
        assert measure(made).mean() == pytest.approx(measure(recorded).mean(), rel=tolerance)
