"""Comparing exchanges on one machine: which fit, what they take in either fidelity, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from simulator.cli.app import app
from simulator.errors import ScenarioError
from simulator.hardware import load_hardware
from simulator.kernels.expert_exchange import ExchangeKernel, dispatch_time
from simulator.kernels.kernel import coefficients
from simulator.study.exchange import (
    WIRE_BYTES,
    Layer,
    available,
    compare_exchanges,
    expected_traffic,
    routed_traffic,
)

LAYER = Layer(hidden=7168, top_k=8, num_experts=256, max_nodes=4)
HARDWARE = load_hardware("h800-sxm", nodes=2)


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(app, ["exchange", *arguments, "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_the_even_comparison_is_the_cost_models_own_price() -> None:
    """What a step pays for its dispatch and what is compared here are one number."""
    table = HARDWARE.kernels["dispatch.deepep_normal"]
    own = dispatch_time(
        512,
        hidden=7168,
        top_k=8,
        ranks=16,
        element_bytes=WIRE_BYTES["fp8"],
        num_experts=256,
        max_nodes=4,
        fabric=HARDWARE.fabric,
        kernel=coefficients(ExchangeKernel, table, "h800-sxm"),
    )
    rows = compare_exchanges(
        HARDWARE,
        LAYER,
        lambda coordinated: expected_traffic(512, LAYER, ranks=16, domain=8, coordinated=coordinated),
        algorithms=("deepep_normal",),
    )
    assert [row.phase for row in rows] == ["dispatch", "combine"]
    assert rows[0].closed == pytest.approx(float(own.seconds))


@pytest.mark.parametrize("expert_shards", [1, 2])
def test_flows_agree_with_the_closed_form_where_traffic_is_even(expert_shards: int) -> None:
    rows = compare_exchanges(
        HARDWARE,
        LAYER,
        lambda c: expected_traffic(256, LAYER, ranks=16, domain=8, expert_shards=expert_shards, coordinated=c),
        expert_shards=expert_shards,
        fidelity="flow",
    )
    assert {row.algorithm for row in rows} >= {"all_to_all", "all_to_all_2d", "deepep_normal", "deepep_low_latency"}
    assert ("coordinated" in {row.algorithm for row in rows}) == (expert_shards > 1)
    for row in rows:
        assert row.flow == pytest.approx(row.closed, rel=0.12), row.algorithm


def test_a_slow_cable_shows_in_flows_only() -> None:
    def traffic(_: bool) -> Any:
        return expected_traffic(256, LAYER, ranks=16, domain=8)

    options: Any = {"algorithms": ("deepep_low_latency",), "fidelity": "flow"}
    healthy = compare_exchanges(HARDWARE, LAYER, traffic, **options)
    slow = compare_exchanges(
        HARDWARE, LAYER, traffic, change=lambda t: t.changed_link("node0/nic3 -> leaf0.3", 0.25), **options
    )
    assert [row.closed for row in slow] == [row.closed for row in healthy]
    assert all(one.flow > 2.5 * other.flow for one, other in zip(slow, healthy, strict=True) if one.flow and other.flow)


def test_fewer_bytes_per_element_take_less_time() -> None:
    times = [
        compare_exchanges(
            HARDWARE,
            LAYER,
            lambda _: expected_traffic(4096, LAYER, ranks=16, domain=8),
            algorithms=("deepep_normal",),
            dispatch_dtype=dtype,
        )[0].closed
        for dtype in ("nvfp4", "int8", "fp8", "bfloat16")
    ]
    assert times == sorted(times)


def test_only_algorithms_that_fit_the_machine_are_offered() -> None:
    assert "all_to_all_2d" not in available(HARDWARE, 8)
    assert "one_sided" in available(HARDWARE, 8)
    assert "one_sided" not in available(HARDWARE, 16)
    assert "fused" in available(load_hardware("ascend-910c-die"), 64)
    assert "fused" not in available(HARDWARE, 8)


def test_null_experts_send_nothing() -> None:
    ids = np.array([[0, 255, 256], [300, 256, 1]])
    traffic = routed_traffic(ids, num_experts=256, ranks=16, domain=8)
    assert traffic.experts.sum() == 3


def test_unknown_formats_algorithms_and_splits_are_refused() -> None:
    def traffic(_: bool) -> Any:
        return expected_traffic(1, LAYER, ranks=16, domain=8)

    with pytest.raises(ScenarioError, match=r"dispatch format 'fp7' is unknown; did you mean 'fp8'"):
        compare_exchanges(HARDWARE, LAYER, traffic, dispatch_dtype="fp7")
    with pytest.raises(ScenarioError, match=r"'all_to_al' cannot be used by 16 ranks of h800-sxm; did you mean"):
        compare_exchanges(HARDWARE, LAYER, traffic, algorithms=("all_to_al",))
    with pytest.raises(ScenarioError, match="3 shards of an expert do not divide 16 ranks"):
        expected_traffic(1, LAYER, ranks=16, domain=8, expert_shards=3)
    with pytest.raises(ScenarioError, match="256 experts do not divide over 24 groups"):
        expected_traffic(1, LAYER, ranks=24, domain=8)


def test_the_command_prints_one_row_per_way_and_phase() -> None:
    code, document = run("--device", "h800-sxm", "--ranks", "16", "--tokens", "64")
    assert code == 0
    assert document["rank_imbalance"] == 1.0
    names = [(row["algorithm"], row["phase"]) for row in document["exchanges"]]
    assert len(names) == len(set(names)) == 12
    assert all(row["flow_s"] is None for row in document["exchanges"])


def test_skewed_and_recorded_routing_are_slower_than_even() -> None:
    even, skewed = (
        run("--device", "h800-sxm", "--ranks", "16", "--algorithm", "deepep_low_latency", "--tokens", "512", *more)[1]
        for more in ((), ("--routing", "zipf", "--skew", "0.8"))
    )
    assert skewed["rank_imbalance"] > 1.5
    assert skewed["exchanges"][0]["closed_s"] > even["exchanges"][0]["closed_s"]


def test_the_same_seed_gives_the_same_answer() -> None:
    options = ("--device", "h800-sxm", "--ranks", "16", "--routing", "zipf", "--fidelity", "flow")
    options += ("--algorithm", "deepep_low_latency", "--tokens", "16")
    assert run(*options) == run(*options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ranks", "12"), "12 ranks do not tile nodes of 8 devices; 8 or 16 ranks would"),
        (("--ranks", "16", "--fidelity", "flows"), "did you mean 'flow'"),
        (("--ranks", "16", "--slow-link", "a -> b=0.5"), "add --fidelity flow"),
        (("--ranks", "16", "--fidelity", "flow", "--slow-link", "nonsense"), "expected LINK=FACTOR"),
        (("--ranks", "16", "--fidelity", "flow", "--slow-link", "spine -> leaf0.0=0"), "more than 0"),
        (("--ranks", "16", "--model", "llama-3.1-70b"), "has no experts"),
    ],
)
def test_bad_input_is_one_message(arguments: tuple[str, ...], message: str) -> None:
    code, document = run("--device", "h800-sxm", *arguments)
    assert code == 2
    assert message in document["error"]["message"]


def test_an_oversubscribed_fabric_slows_what_leaves_the_node() -> None:
    options = ("--device", "h800-sxm", "--ranks", "16", "--algorithm", "deepep_low_latency")
    wide, narrow = (run(*options, *more)[1] for more in ((), ("--oversubscription", "4")))
    assert narrow["exchanges"][0]["closed_s"] > 2 * wide["exchanges"][0]["closed_s"]


def test_the_table_says_what_bounds_each_way_and_what_to_try_next() -> None:
    result = CliRunner().invoke(app, ["exchange", "--device", "h800-sxm", "--ranks", "16"])
    assert result.exit_code == 0
    assert "fastest for both ways" in result.stdout
    assert "--fidelity flow" in result.stdout
