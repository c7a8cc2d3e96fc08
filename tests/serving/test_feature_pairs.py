"""Features of serving in pairs: every pair conserves requests and tokens, or is refused by name."""

from __future__ import annotations

from functools import cache
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import Scenario, check, estimate, explain, simulate
from simulator.errors import InfeasibleScenario
from simulator.results.values import Result
from simulator.scenario.features import not_while_scaling

HASHED = ("requests.kind=trace", "requests.trace=sample:mooncake_like.jsonl", "requests.lengths={}")
FEATURES: dict[str, tuple[str, ...]] = {
    "drafts": ("speculation.draft_tokens=2", "speculation.acceptance=[0.7, 0.5]"),
    "pools": (
        "disaggregation.enabled=true",
        "disaggregation.prefill.dp=2",
        "disaggregation.prefill.ep=2",
        "disaggregation.prefill.instances=2",
    ),
    "cache": (*HASHED, "prefix_cache.kind=instance"),
    "store": (*HASHED, "prefix_cache.kind=shared", "prefix_cache.store=100 GB"),
    "priorities": ("requests.priorities=[0.3, 0.7]",),
    "overlap": ("stack.overlap=two_batch",),
    "scaling": ("elastic.mechanism=elastic", "elastic.events=[{at='0.3 s', size=8}]"),
    "failure": ("faults=[{at='0.4 s', rank=1, restart='1 s', detection='0.1 s'}]",),
    "slow_rank": ("faults=[{at='0.2 s', rank=1, slowdown=3.0, lasts='0.5 s'}]",),
    "rebalancing": ("placement.rebalance.every=0.2 s", "placement.redundant_slots=4"),
    "sessions": ("requests.sessions={turns=3, think_time='50 ms', think_kind='exponential', input=30}",),
    "swap": ("stack.preemption=swap", "stack.memory_fraction=0.25"),
}
#: Two ways of one feature.
EXCLUSIVE = ({"cache", "store"}, {"failure", "slow_rank"}, {"cache", "sessions"}, {"store", "sessions"})
PAIRS = [pair for pair in combinations(FEATURES, 2) if set(pair) not in EXCLUSIVE]


def scenario(*features: str, seed: int = 0) -> Scenario:
    base = Scenario.from_mapping(
        {
            "model": {"name": "gpt-oss-20b"},
            "hardware": {"device": "h100-sxm", "node": "hgx-h100"},
            "parallelism": {"dp": 4, "ep": 4},
            "stack": {"token_budget": 512, "max_running": 16},
            "requests": {
                "kind": "poisson",
                "rate": 30.0,
                "count": 24,
                "lengths": {"kind": "lognormal", "input": 120, "output": 16},
            },
            "routing": {"tokens": 256},
            "run": {"warmup_requests": 0, "drain": True},
        }
    )
    return base.override(*(key for name in features for key in FEATURES[name]), f"seed={seed}")


@cache
def run(*features: str, seed: int = 0) -> Result:
    return simulate(scenario(*features, seed=seed))


def refused_for(features: tuple[str, ...]) -> str | None:
    """Return the key that says what cannot be played while the deployment changes its size."""
    refused = not_while_scaling(scenario(*features)) if "scaling" in features else ()
    return refused[0] if refused else None


def assert_conserved(result: Result, features: tuple[str, ...]) -> None:
    """Every request is answered once, in order, with the tokens that it asked for, and time is accounted for."""
    requests, steps = result.requests, result.steps
    times = requests[["arrival_s", "admitted_s", "first_token_s", "finish_s"]].to_numpy()
    assert np.isfinite(times).all()
    assert (np.diff(times, axis=1) >= 0.0).all()
    assert result.whole_run.requests_completed == len(requests) == 24
    if "turn" in requests:
        later = np.flatnonzero(requests["turn"] > 1)
        assert (requests["arrival_s"].to_numpy()[later] > requests["finish_s"].to_numpy()[later - 1]).all()
    computed = int((requests["input_tokens"] - requests["cached_tokens"]).sum())
    decoded = int((requests["output_tokens"] - 1).sum())
    if not requests["retries"].sum() and not requests["preemptions"].sum():
        assert steps["prefill_tokens"].sum() == computed
        if "drafts" not in features:
            assert steps["decode_tokens"].sum() == decoded
    assert min(result.breakdown.values()) >= 0.0
    busy = sum(seconds for name, seconds in result.breakdown.items() if name != "idle")
    assert busy == pytest.approx(steps["duration_s"].sum(), rel=0.02)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_a_pair_of_features_conserves_tokens_or_is_refused(pair: tuple[str, ...]) -> None:
    key = refused_for(pair)
    if key is not None:
        with pytest.raises(InfeasibleScenario, match=f"scaling does not go with {key}"):
            run(*pair)
        assert any(finding.level == "error" and key in finding.message for finding in check(scenario(*pair)))
        return
    assert_conserved(run(*pair), pair)


@pytest.mark.parametrize("feature", sorted(set(FEATURES) - {"priorities", "scaling", "swap"}))
def test_every_feature_changes_what_happens(feature: str) -> None:
    before = simulate(scenario().override(*HASHED)) if feature in {"cache", "store"} else run()
    columns = ["admitted_s", "first_token_s", "finish_s"]
    assert not before.requests[columns].equals(run(feature).requests[columns])


def test_urgent_requests_overtake_where_there_is_a_queue() -> None:
    crowded = ("requests.rate=500.0", "stack.max_running=1")
    alike = simulate(scenario().override(*crowded)).requests["first_token_s"]
    ranked = simulate(scenario("priorities").override(*crowded)).requests["first_token_s"]
    assert not alike.equals(ranked)


@settings(max_examples=6, deadline=None)
@given(
    features=st.sets(st.sampled_from(sorted(set(FEATURES) - {"store", "slow_rank"})), max_size=6),
    seed=st.integers(0, 1),
)
def test_any_set_of_features_is_conserved_and_deterministic(features: set[str], seed: int) -> None:
    asked = tuple(sorted(features))
    if (key := refused_for(asked)) is not None:
        with pytest.raises(InfeasibleScenario, match=key):
            simulate(scenario(*asked, seed=seed))
        return
    first, second = simulate(scenario(*asked, seed=seed)), simulate(scenario(*asked, seed=seed))
    assert_conserved(first, asked)
    pd.testing.assert_frame_equal(first.requests, second.requests)
    pd.testing.assert_frame_equal(first.steps, second.steps)
    assert first.warnings == second.warnings


@pytest.mark.parametrize("feature", sorted(set(FEATURES) - {"cache", "store"}))
def test_another_seed_gives_another_run(feature: str) -> None:
    assert not run(feature).requests["finish_s"].equals(run(feature, seed=1).requests["finish_s"])


@pytest.mark.parametrize("feature", ["drafts", "pools", "cache", "store", "scaling", "failure", "rebalancing"])
def test_an_estimate_refuses_what_it_does_not_know(feature: str) -> None:
    with pytest.raises(InfeasibleScenario, match="use simulate"):
        estimate(scenario(feature))


@pytest.mark.parametrize("feature", ["pools", "cache", "scaling", "failure", "rebalancing"])
def test_an_explanation_says_what_it_leaves_out(feature: str) -> None:
    assert any(text.startswith("this step leaves out ") for text in explain(scenario(feature)).warnings)
    assert not [text for text in explain(scenario("overlap")).warnings if "leaves out" in text]


@pytest.mark.parametrize("mechanism", ["cold_restart", "horizontal", "vertical_new", "colocated", "elastic", "ideal"])
@pytest.mark.parametrize("beside", ["drafts", "cache", "store", "priorities", "overlap", "swap"])
def test_every_mechanism_plays_what_goes_with_scaling(mechanism: str, beside: str) -> None:
    """Growing, and shrinking again, while requests are in flight."""
    events = "[{at='0.2 s', size=8}, {at='0.5 s', size=4}]"
    asked = scenario(beside).override(
        f"elastic.mechanism={mechanism}", f"elastic.events={events}", "hardware.cluster=hgx-h100-ib"
    )
    assert [finding for finding in check(asked) if finding.level == "error"] == []
    result = simulate(asked)
    assert_conserved(result, (beside,))
    assert result.scaling is not None
    assert len(result.scaling.changes) >= 1
