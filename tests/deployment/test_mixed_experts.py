"""Models whose MoE layers differ in experts, experts per token and width are simulated layer by layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulator import Scenario, check, estimate, explain, simulate
from simulator.deployment.deployment import deploy
from simulator.deployment.inputs import scenario_model, scenario_routing
from workloads.errors import WorkloadError
from workloads.routing.files import save_routing_trace
from workloads.routing.mixed import Router, apart, by_kind, side_by_side
from workloads.routing.trace import RoutingTrace, routing_fault

SMALL = {"num_experts": 8, "top_k": 2, "intermediate": 1024}
LARGE = {"num_experts": 16, "top_k": 4, "intermediate": 256}


def model(folder: Path, *kinds: dict[str, int]) -> Path:
    blocks = "\n".join(
        f'[ffn.kind{i}]\nkind = "moe"\n' + "\n".join(f"{key} = {value}" for key, value in kind.items())
        for i, kind in enumerate(kinds)
    )
    layers = "\n".join(f'[[layers]]\nattention = "a"\nffn = "kind{i}"\ncount = 2' for i in range(len(kinds)))
    path = folder / f"model{len(list(folder.glob('*.toml')))}.toml"
    path.write_text(
        'hidden = 2048\nvocab = 1000\nname = "mixed"\n'
        '[attention.a]\nkind = "grouped_query"\nnum_heads = 8\nnum_kv_heads = 4\nhead_dim = 64\n'
        f"{blocks}\n{layers}\n",
        encoding="utf-8",
    )
    return path


def scenario(path: Path, *overrides: str) -> Scenario:
    base = Scenario.from_mapping(
        {
            "model": {"name": str(path)},
            "hardware": {"device": "h100-sxm"},
            "parallelism": {"dp": 4, "ep": 4},
            "requests": {"concurrency": 32, "count": 96, "lengths": {"input": 64, "output": 16}},
            "routing": {"kind": "balanced", "tokens": 512},
            "run": {"warmup_requests": 0, "drain": True},
        }
    )
    return base.override(*overrides)


@pytest.mark.parametrize("kind", ["balanced", "zipf", "dirichlet"])
def test_experts_of_two_kinds_take_the_time_of_each_kind_in_its_layers(tmp_path: Path, kind: str) -> None:
    mixed, small, large = (
        simulate(scenario(model(tmp_path, *kinds), f"routing.kind={kind}")).breakdown
        for kinds in ((SMALL, LARGE), (SMALL, SMALL), (LARGE, LARGE))
    )
    assert mixed["experts"] == pytest.approx((small["experts"] + large["experts"]) / 2, rel=0.02)
    assert mixed["dispatch"] == pytest.approx((small["dispatch"] + large["dispatch"]) / 2, rel=0.05)


def test_the_order_of_layers_with_wide_and_narrow_experts_changes_nothing(tmp_path: Path) -> None:
    narrow = SMALL | {"intermediate": 256}
    one, other = (
        simulate(scenario(model(tmp_path, *kinds))).summary.tpot_s.mean for kinds in ((SMALL, narrow), (narrow, SMALL))
    )
    assert one == pytest.approx(other, rel=1e-9)
    assert simulate(scenario(model(tmp_path, narrow, narrow))).summary.tpot_s.mean < one


@pytest.mark.parametrize(
    "overrides",
    [
        ["stack.overlap=two_batch"],
        ["stack.overlap=auto", "placement.policy=eplb", "placement.redundant_slots=4"],
        ["placement.policy=affinity", "routing.kind=zipf"],
        ["routing.kind=zipf", "routing.capacity_factor=1.2"],
        ["parallelism.tp=2", "parallelism.dp=2"],
        ["disaggregation.enabled=true", "disaggregation.prefill.dp=2", "disaggregation.prefill.ep=2"],
    ],
)
def test_what_acts_on_experts_acts_on_all_kinds(tmp_path: Path, overrides: list[str]) -> None:
    asked = scenario(model(tmp_path, SMALL, LARGE), *overrides)
    assert all(finding.level != "error" for finding in check(asked))
    result = simulate(asked)
    assert result.requests.output_tokens.sum() == 96 * 16
    assert 0 < result.summary.mbu <= 1


def test_estimate_and_one_step_know_all_kinds(tmp_path: Path) -> None:
    asked = scenario(model(tmp_path, SMALL, LARGE))
    assert estimate(asked).summary.tpot_s.mean == pytest.approx(simulate(asked).summary.tpot_s.mean, rel=0.05)
    ops = explain(asked).ops
    assert sorted(ops[ops["name"] == "routed_experts"]["repeat"]) == [2, 2]


def test_smaller_layers_spread_over_the_ranks_as_they_would_alone(tmp_path: Path) -> None:
    asked = scenario(model(tmp_path, SMALL, LARGE))
    found = scenario_routing(asked.routing, scenario_model(asked.model), asked.seed)
    assert (found.num_experts, found.top_k, found.padded) == (16, 4, True)
    loads = deploy(asked).routing.prefill.load(0, found.tokens)
    np.testing.assert_allclose(loads, np.broadcast_to(loads.mean(axis=0), loads.shape), rtol=0.01)
    assert found.expert_ids[:, :2, 2:].min() == 16


def trace_of(routers: list[Router], tokens: int = 40) -> dict[Router, RoutingTrace]:
    rng = np.random.default_rng(3)
    return {
        router: RoutingTrace(
            expert_ids=rng.permuted(np.tile(np.arange(router.choices), (tokens, len(layers), 1)), axis=2)[
                ..., : router.top_k
            ].astype(np.uint8),
            sequence_start=np.array([0, 7]),
            num_experts=router.choices,
            source="drawn",
        )
        for router, layers in by_kind(routers).items()
    }


ROUTERS = [
    Router(num_experts=6, null_experts=0, top_k=2),
    Router(num_experts=16, null_experts=2, top_k=1),
    Router(num_experts=6, null_experts=0, top_k=2),
    Router(num_experts=5, null_experts=1, top_k=3),
]


def test_layers_side_by_side_keep_every_assignment() -> None:
    traces = trace_of(ROUTERS)
    whole = side_by_side(traces, ROUTERS)
    assert (whole.num_experts, whole.top_k, whole.padded) == (18, 3, True)
    assert routing_fault(whole.expert_ids, whole.sequence_start, 18, padded=True) is None
    for layer, router in enumerate(ROUTERS):
        own = traces[router].expert_ids[:, by_kind(ROUTERS)[router].tolist().index(layer)]
        chosen, real = (
            np.bincount(ids[ids < most].ravel())
            for ids, most in (
                (whole.expert_ids[:, layer], 16),
                (own, router.num_experts),
            )
        )
        np.testing.assert_array_equal(chosen[chosen > 0], real[real > 0])
        null = (whole.expert_ids[:, layer] >= 16) & (whole.expert_ids[:, layer] < 18)
        assert null.sum() == (own >= router.num_experts).sum()


def test_a_recorded_trace_of_different_layers_comes_back_as_it_was_drawn(tmp_path: Path) -> None:
    path = model(tmp_path, SMALL, LARGE)
    rng = np.random.default_rng(1)
    ids = np.full((64, 4, 4), 16, dtype=np.uint8)
    ids[:, :2, :2] = rng.permuted(np.tile(np.arange(8), (64, 2, 1)), axis=2)[..., :2]
    ids[:, 2:] = rng.permuted(np.tile(np.arange(16), (64, 2, 1)), axis=2)[..., :4]
    recorded = RoutingTrace(
        expert_ids=ids, sequence_start=np.array([0]), num_experts=16, source="recorded", padded=True
    )
    save_routing_trace(recorded, tmp_path / "trace.npz")
    asked = scenario(path, "routing.kind=trace", f"routing.trace={tmp_path / 'trace.npz'}")
    found = scenario_routing(asked.routing, scenario_model(asked.model), 0)
    np.testing.assert_array_equal(found.expert_ids[:, :2, :2], ids[:, :2, :2] * 2)
    np.testing.assert_array_equal(found.expert_ids[:, 2:], ids[:, 2:])


def test_a_recorded_expert_that_a_layer_lacks_is_an_error() -> None:
    wrong = RoutingTrace(
        expert_ids=np.full((4, 4, 3), 7, dtype=np.uint8) + np.arange(3, dtype=np.uint8),
        sequence_start=np.array([0]),
        num_experts=18,
        source="wrong",
        padded=True,
    )
    with pytest.raises(WorkloadError, match="MoE layers 0, 2: token 0, layer 0: expert 7 does not exist"):
        apart(wrong, ROUTERS)


def test_ranks_that_do_not_divide_the_experts_of_a_layer_are_refused(tmp_path: Path) -> None:
    asked = scenario(model(tmp_path, SMALL | {"num_experts": 6}, LARGE))
    assert any("must divide the 6 experts" in finding.message for finding in check(asked))
