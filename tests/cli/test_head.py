"""Every answer begins with what answered: GPUs, nodes, pools, price, load, objectives, and rates in all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from simulator.api import estimate, explain, simulate
from simulator.cli.console import console
from simulator.cli.head_text import devices_text, load_text, price_text, setup_rows
from simulator.cli.result_text import print_estimate, print_result
from simulator.results.setup import Setup, offer_words
from simulator.scenario import Scenario

if TYPE_CHECKING:
    from typer.testing import Result as Answer

BASE = Scenario.from_mapping(
    {
        "model": {"name": "mixtral-8x7b"},
        "hardware": {"device": "a100-sxm", "node": "hgx-a100"},
        "parallelism": {"tp": 2},
        "requests": {"concurrency": 4, "count": 12, "lengths": {"input": 64, "output": 8}},
    }
)


def setup(*overrides: str) -> Setup:
    found = explain(BASE.override(*overrides), batch=4, context=64).setup
    assert found is not None
    return found


def test_the_pools_of_a_disaggregated_run_stand_with_their_splits_and_their_own_nodes() -> None:
    found = setup(
        "disaggregation.enabled=true",
        "disaggregation.prefill.tp=4",
        "disaggregation.prefill.instances=3",
        "parallelism.instances=2",
    )
    assert (found.devices, found.nodes) == (3 * 4 + 2 * 2, 2 + 1)
    assert [(pool.role, pool.instances, pool.devices, pool.nodes) for pool in found.pools] == [
        ("prefill", 3, 12, 2),
        ("decode", 2, 4, 1),
    ]
    rows = dict(setup_rows(found))
    assert rows["GPUs"] == "16 GPUs in part of 3 nodes of 8 (hgx-a100)"
    assert rows["prefill pool"] == "12 GPUs, 3 instances of tp 4"
    assert rows["decode pool"] == "4 GPUs, 2 instances of tp 2"


def test_devices_are_called_what_their_profile_says_they_are() -> None:
    rows = dict(setup_rows(setup("hardware.device=ascend-910c", "hardware.node=cloudmatrix384")))
    assert rows["NPUs"].startswith("2 NPUs in part of one node of 384")
    assert "USD per NPU-hour" in rows["price"]
    assert not any("GPU" in text for row in rows.items() for text in row)


def test_two_pools_have_a_table_each_of_their_own_steps_and_idle_time(capsys: pytest.CaptureFixture[str]) -> None:
    result = simulate(BASE.override("disaggregation.enabled=true", "disaggregation.prefill.tp=2"))
    print_result(console(), result)
    text = capsys.readouterr().out
    assert text.index("prefill pool: where the time goes") < text.index("decode pool: where the time goes")
    assert sum(time.steps for time in result.pool_times.values()) == pytest.approx(result.summary.measured_steps)
    for component, seconds in result.breakdown.items():
        parts = [time.breakdown[component] for time in result.pool_times.values()]
        assert sum(parts) == pytest.approx(seconds)
    assert result.document()["pool_times"]["decode"]["steps"] == result.pool_times["decode"].steps
    assert simulate(BASE).pool_times == {}


def test_instances_share_nodes_only_where_they_fit_whole() -> None:
    assert setup("parallelism.instances=4").nodes == 1
    assert setup("parallelism.tp=4", "parallelism.instances=3").nodes == 2
    assert setup("parallelism.tp=4", "parallelism.dp=4", "parallelism.ep=4").nodes == 2
    assert devices_text(setup("parallelism.instances=4")) == "8 GPUs in one node of 8 (hgx-a100)"


@pytest.mark.parametrize(("limit", "verdict"), [("10 s", "met"), ("1 us", "missed")])
def test_an_estimate_judges_the_slo_by_its_means_and_names_no_rate_within(
    limit: str, verdict: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_estimate(console(), estimate(BASE.override(f"slo.tpot={limit}")))
    text = " ".join(capsys.readouterr().out.split())
    assert f"SLO by means {verdict} by the mean TPOT" in text
    assert "within" not in text


def test_the_price_names_the_offer_that_it_is_of() -> None:
    found = setup("hardware.device=h200-sxm", "hardware.node=hgx-h200", "hardware.price=on_demand")
    assert price_text(found) == "4.00 USD per GPU-hour (on demand)"
    assert setup("hardware.device=h200-sxm", "hardware.node=hgx-h200").price_offer == "rental_3yr"
    assert offer_words("purchase_4yr") == "4-year purchase"


def test_the_load_is_said_in_a_line() -> None:
    assert load_text(setup().load) == "closed loop of 4; 12 requests of 64 + 8 tokens"
    poisson = setup("requests.kind=poisson", "requests.rate=2.5", "requests.lengths.kind=uniform")
    assert load_text(poisson.load).startswith("poisson, 2.5 requests/s; 12 requests of ")
    trace = setup("requests.kind=trace", "requests.trace=sample:azure_like.csv")
    assert load_text(trace.load).startswith("trace sample:azure_like.csv, 4.35 requests/s; ")


def test_objectives_stand_in_the_head_or_that_there_are_none() -> None:
    assert dict(setup_rows(setup("slo.ttft=2 s", "slo.tpot=50 ms")))["SLO"] == "TTFT 2 s, TPOT 50 ms"
    assert dict(setup_rows(setup()))["SLO"] == "none set"


def test_rates_in_all_are_those_per_device_times_the_devices() -> None:
    answer = estimate(BASE.override("parallelism.instances=2"))
    summary = answer.document()["summary"]
    assert summary["devices_mean"] == 4.0
    assert summary["output_tokens_per_s"] == pytest.approx(4.0 * summary["output_tokens_per_s_per_gpu"])
    assert summary["output_tokens_per_s_per_user"] == pytest.approx(1.0 / summary["tpot_s"]["mean"])


@pytest.mark.parametrize("command", ["simulate", "estimate", "explain"])
def test_every_answer_has_the_same_head_as_text_and_as_json(
    command: str, scenario_file: Path, moesim: Callable[..., Answer]
) -> None:
    text = moesim(command, scenario_file).stdout
    assert "2 GPUs in part of one node of 8 (hgx-a100), 1 instance of tp 2" in text
    assert "USD per GPU-hour" in text
    assert "closed loop of 4; 12 requests of 64 + 8 tokens" in text
    document = json.loads(moesim(command, scenario_file, "--json").stdout)
    assert document["setup"]["devices"] == 2
    assert document["setup"]["pools"][0]["tp"] == 2


def test_the_imbalance_of_ranks_is_not_said_where_no_ranks_share_experts(
    scenario_file: Path, moesim: Callable[..., Answer]
) -> None:
    assert "rank imbalance" not in moesim("estimate", scenario_file).stdout
    shared = ("--set", "parallelism.ep=2")
    assert "rank imbalance" in moesim("estimate", scenario_file, *shared).stdout


def test_an_explanation_concludes_what_bounds_the_step_and_says_what_to_ask_next(
    scenario_file: Path, moesim: Callable[..., Answer]
) -> None:
    text = moesim("explain", scenario_file, "--batch", "4").stdout
    assert "of the step is bound by memory, most of it routed_experts" in text
    assert "it rests on: fitted" in text
    assert f"next: moesim timeline {scenario_file} --batch 4" in text
    document = json.loads(moesim("explain", scenario_file, "--batch", "4", "--json").stdout)
    assert "bound by memory" in document["conclusion"][0]


def test_a_check_that_passes_says_what_to_ask_next(scenario_file: Path, moesim: Callable[..., Answer]) -> None:
    assert f"next: moesim simulate {scenario_file}" in moesim("check", scenario_file).stdout
    assert "next:" not in moesim("check", scenario_file, "--set", "parallelism.tp=3").stdout


def test_placements_end_with_a_verdict_and_begin_with_what_they_assume(moesim: Callable[..., Answer]) -> None:
    command = (
        "place",
        "--routing",
        "sample:routing_24x32_top4.npz",
        "--device",
        "h100-sxm",
        "--ep",
        "8",
        "--windows",
        "2",
    )
    text = moesim(*command, "--policies", "linear,refined").stdout
    assert "decode steps of 64 tokens on each rank (--batch), 512 in all, sequences of 1,024 tokens (--context)" in (
        " ".join(text.split())
    )
    assert "verdict: refined makes a step" in text
    alone = moesim(*command, "--policies", "linear", "--json").stdout
    assert json.loads(alone)["studies"][0]["verdict"].startswith("verdict: linear will do")


def test_exchanges_say_why_the_fastest_is_so_and_where_stacks_do_not_use_it(moesim: Callable[..., Answer]) -> None:
    text = moesim("exchange", "--device", "h800-sxm", "--ranks", "32", "--tokens", "128").stdout
    assert "fastest for both ways: deepep_normal" in text
    assert "next is deepep_low_latency" in text
    assert "more for scale_out" in text
    assert "in decode steps deepep runs deepep_low_latency instead" in text
    document = moesim("exchange", "--device", "h800-sxm", "--ranks", "32", "--algorithm", "all_to_all", "--json").stdout
    assert json.loads(document)["caveats"] == []
