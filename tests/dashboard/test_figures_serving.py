"""Charts of pools, caches, drafts, faults, scaling, steps and placements, drawn from made-up frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.figures.scaling import instances_chart, phases_chart, scaling_chart
from dashboard.figures.serving import cache_chart, drafts_chart, faults_chart, pools_chart
from dashboard.figures.step import placement_chart, rebalance_table, step_chart, study_policies
from simulator.explanation.explanation import timeline
from simulator.explanation.timeline import StepTimeline
from simulator.placement.policies import POLICIES
from simulator.results.values import Scaling, ScalingSummary
from simulator.scenario import Scenario
from simulator.scenario.presets import preset_path
from simulator.scenario.sections import Fault, Speculation
from simulator.schedule.streams import Task, list_schedule
from simulator.study.placement import ORACLE, PlacementScore, PlacementStudy

Steps = Callable[..., pd.DataFrame]


def fault(**values: object) -> Fault:
    return Fault.model_validate({"at": "1 s", **values})


def handed_over(requests: pd.DataFrame) -> pd.DataFrame:
    """Add that prompts took 40 ms after 10 ms in the queue, waited 20 ms, and travelled for 30 ms."""
    computed = requests["arrival_s"] + 0.05
    return requests.assign(computed_s=computed, sent_s=computed + 0.02, retries=0)


def test_a_ttft_is_parted_into_what_it_consists_of(requests: pd.DataFrame, make_steps: Steps) -> None:
    chart = pools_chart(handed_over(requests), make_steps(10, instances=2), decoders=1)
    assert dict(zip(chart.table["Part of TTFT"], chart.table["Share [%]"], strict=True)) == {
        "queue": "10.0",
        "prefill": "40.0",
        "wait for a decoder": "20.0",
        "KV cache on its way": "30.0",
    }
    assert "the way of the KV cache takes 30.0 ms, 30.0 %" in chart.alt


def test_pools_are_told_apart_by_the_index_of_their_instances(requests: pd.DataFrame, make_steps: Steps) -> None:
    steps = make_steps(10, instances=3)
    steps.loc[steps["instance"] == 2, "duration_s"] /= 4
    chart = pools_chart(handed_over(requests), steps, decoders=2)
    assert "Decode instances are in steps 100 % of the time; prefill instances are in steps 25.0 %" in chart.alt


def test_requests_that_were_lost_do_not_count_for_a_ttft(requests: pd.DataFrame, make_steps: Steps) -> None:
    twice = handed_over(requests)
    twice.loc[5, ["retries", "sent_s"]] = [1, -100.0]
    assert "30.0 %" in pools_chart(twice, make_steps(10), decoders=1).alt


def test_hits_are_a_share_of_prompt_tokens(requests: pd.DataFrame) -> None:
    chart = cache_chart(requests.assign(cached_tokens=np.where(requests["request_id"] < 10, 32, 0)))
    assert chart.alt.startswith("12.5 % of all prompt tokens were cached; 25.0 % of 40 prompts")
    values = np.asarray(chart.figure.data[0].y, dtype=float)
    assert np.nanmax(values) == 50.0
    assert np.nanmin(values) == 0.0


def test_a_run_without_prompts_has_no_hits(requests: pd.DataFrame) -> None:
    assert "n/a of 0 prompts" in cache_chart(requests.assign(cached_tokens=0).iloc[:0]).alt


@given(st.integers(1, 12), st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_more_drafts_never_yield_less(drafts: int, acceptance: list[float]) -> None:
    chart = drafts_chart(Speculation(draft_tokens=drafts, acceptance=tuple(acceptance)))
    yields = np.asarray(chart.figure.data[0].y)
    assert yields[0] == 1.0
    assert (np.diff(yields) >= 0).all()
    assert len(chart.table) == drafts


def test_faults_are_marked_from_when_to_when(requests: pd.DataFrame, make_steps: Steps) -> None:
    broken = (fault(detection="0.5 s"), fault(at="30 s", slowdown=3.0, lasts="4 s"), fault(at="35 s", kind="nic"))
    chart = faults_chart(requests.assign(retries=1), make_steps(100, instances=6), broken)
    bands = [shape for shape in chart.figure.layout.shapes if shape.type == "rect"]
    spans = {(band.x0, band.x1) for band in bands}
    assert {(1.0, 1.5), (30.0, 34.0)} <= spans
    assert "40 requests were sent in again" in chart.alt
    assert chart.table["Effect"].to_list() == ["fails", "3 times as slow", "fails"]
    assert chart.table["What"].to_list()[2] == "NIC of rank 0, instance 0"
    assert {trace.name for trace in chart.figure.data} >= {f"instance {index}" for index in range(4)}


def test_a_fault_after_the_end_is_said_to_be_late(requests: pd.DataFrame, make_steps: Steps) -> None:
    chart = faults_chart(requests.assign(retries=0), make_steps(10), (fault(at="9000 s"),))
    assert "The run ended before it" in chart.alt


def scaled(changes: int = 1) -> Scaling:
    """Return a run of 60 s that grows every 10 s, two phases each."""
    times = 10.0 * np.arange(changes)
    number = np.arange(changes)
    edges = np.linspace(0.0, 60.0, 13)
    summary = ScalingSummary(
        mechanism="elastic",
        policy="queue",
        changes=changes,
        latency_mean_s=2.5 if changes else float("nan"),
        latency_max_s=2.5 if changes else float("nan"),
        downtime_s=0.0,
        attainment=0.75,
        requests_per_s=3.0,
        size_mean=3.0,
        devices_mean=6.0,
        devices_peak=8,
        memory_peak_bytes=1e9,
        moved_bytes=2e9,
        device_hours=0.1,
        cost_usd=float("nan"),
    )
    return Scaling(
        summary=summary,
        changes=pd.DataFrame(
            {
                "before": number + 1,
                "after": number + 2,
                "command_s": times,
                "ready_s": times + 2.5,
                "switched_s": times + 3.0,
                "released_s": times + 5.0,
                "moved_bytes": 2e9,
            }
        ),
        phases=pd.DataFrame(
            {
                "change": np.repeat(number, 2),
                "phase": ["plan", "move"] * changes,
                "start_s": np.repeat(times, 2) + np.tile([0.0, 0.5], changes),
                "end_s": np.repeat(times, 2) + np.tile([0.5, 2.5], changes),
            }
        ),
        instances=pd.DataFrame(
            {
                "instance": [0, 0, 1],
                "size": [2, 2, 3],
                "state": ["serving", "draining", "starting"],
                "start_s": [0.0, 30.0, 20.0],
                "end_s": [30.0, 40.0, 60.0],
            }
        ),
        timeline=pd.DataFrame(
            {"start_s": edges[:-1], "end_s": edges[1:]}
            | dict.fromkeys(("size", "devices", "arrivals_per_s", "requests_per_s", "tokens_per_s"), 3.0)
            | {"attainment": np.r_[np.nan, np.full(11, 0.75)]}
        ),
    )


def test_a_scaled_run_states_its_cost_and_marks_its_changes() -> None:
    chart = scaling_chart(scaled(2))
    numbers = dict(zip(chart.table["Scaling"], chart.table["Scenario"], strict=True))
    assert numbers["Device-hours"] == "0.100"
    assert numbers["Within the SLO"] == "75.0 %"
    assert numbers["Cost"] == "n/a"
    assert {(shape.x0, shape.x1) for shape in chart.figure.layout.shapes} == {(0.0, 3.0), (10.0, 13.0)}
    assert "2 changes, ready after 2.50 s on average" in chart.alt


def test_a_baseline_that_scaled_is_drawn_and_listed_beside() -> None:
    chart = scaling_chart(scaled(), scaled(3))
    assert list(chart.table.columns) == ["Scaling", "Scenario", "Baseline"]
    assert sum(trace.name == "baseline" for trace in chart.figure.data) == 4


def test_a_run_that_never_changed_says_so() -> None:
    assert "The size never changed" in scaling_chart(scaled(0)).alt


def test_instances_and_phases_are_bars_of_their_length() -> None:
    states = {trace.name: trace for trace in instances_chart(scaled()).figure.data}
    assert list(states["serving"].x) == [30.0]
    assert list(states["starting"].base) == [20.0]
    chart = phases_chart(scaled(3))
    phases = {trace.name: trace for trace in chart.figure.data}
    assert np.allclose(phases["move"].base, 0.5)
    assert np.allclose(phases["move"].x, 2.0)
    assert "move takes longest: 2.00 s" in chart.alt
    assert chart.table["Size"].to_list() == ["1 to 2", "2 to 3", "3 to 4"]


def test_instances_stand_in_order_whatever_is_drawn_first() -> None:
    run = scaled()
    late = pd.DataFrame([{**run.instances.iloc[0].to_dict(), "instance": 18, "state": "starting"}])
    both = replace(run, instances=pd.concat([late, run.instances], ignore_index=True))
    axis = instances_chart(both).figure.layout.yaxis
    assert list(axis.categoryarray) == [f"instance {n}" for n in sorted(both.instances["instance"].unique())]
    assert axis.autorange == "reversed"


def drawn_step(overlap: str, layers: int, beside: Mapping[tuple[str, str], float]) -> StepTimeline:
    """Return a step whose layers attend for 1 ms and exchange for 2 ms beside it."""
    tasks = [Task(name="host", stream="host", seconds=1e-3)]
    for layer in range(layers):
        place = {"layer": layer, "batch": layer % 2}
        tasks.append(Task(name="attention", stream="compute", seconds=1e-3, after=(0,), arguments=place))
        tasks.append(Task(name="dispatch", stream="communication", seconds=2e-3, after=(0,), arguments=place))
    schedule = list_schedule(tasks)
    return StepTimeline(
        phase="decode",
        sequences=8,
        length=100,
        overlap=overlap,  # type: ignore[arg-type]  # a name it allows
        step_s=schedule.makespan,
        saved_s=1e-3,
        schedule=schedule,
        beside=beside,
        rank_experts=np.zeros((1, layers, 0)),
        parts={},
    )


def test_a_step_is_drawn_stream_by_stream_and_zoomed_to_its_middle() -> None:
    drawn = drawn_step("two_batch", 9, {("dispatch", "attention"): 9e-3, ("dispatch", "nothing"): 9e-3})
    chart = step_chart(drawn)
    bars = {trace.name: trace for trace in chart.figure.data}
    assert sum(bars["dispatch"].x) == pytest.approx(18.0)
    assert set(bars["dispatch"].y) == {"communication"}
    low, high = chart.figure.layout.xaxis.range
    assert 0.0 < low < high < 19.0
    assert tuple(step_chart(drawn, whole=True).figure.layout.xaxis.range) == pytest.approx((0.0, 19.0))
    assert "Communication takes 18.0 ms, 50.0 % of it beside computing" in chart.alt
    assert "which saves 1.00 ms" in chart.alt
    assert set(bars["attention"].text) == {"0", "1"}


def test_a_step_without_exchanges_or_layers_is_drawn_whole() -> None:
    chart = step_chart(drawn_step("none", 0, {}))
    assert "Nothing travels between ranks" in chart.alt
    assert chart.figure.layout.xaxis.range[0] == 0.0


def score(policy: str, wait: float, heaviest: float) -> PlacementScore:
    return PlacementScore(
        policy=policy,
        imbalance_seen=heaviest,
        imbalance_later=heaviest,
        imbalance_step=heaviest,
        bound=1.0,
        active=1.0,
        far_copies=0.0,
        parts={"experts": 1e-3, "imbalance_wait": wait, "exchange": 1e-3, "rest": 1e-3},
        heat=np.array([[heaviest, 2 - heaviest]]),
    )


def test_the_fastest_placement_stands_beside_the_first_and_the_oracle_comes_last() -> None:
    scores = (
        score("linear", 1e-3, 1.8),
        score("eplb", 0.2e-3, 1.1),
        score("lpt", 0.4e-3, 1.2),
        score(ORACLE, 0.0, 1.0),
    )
    study = PlacementStudy(ranks=2, nodes=1, redundant_slots=0, seen_tokens=10, later_tokens=10, scores=scores)
    chart = placement_chart(study, "decode")
    assert chart.table["Policy"].to_list() == ["eplb", "lpt", "linear", ORACLE]
    assert "3.20 ms with eplb: 20.0 % less" in chart.alt
    before, after = chart.figure.data
    assert before.z.max() == 1.8
    assert after.z.max() == 1.1
    assert before.zmax == after.zmax
    worst = placement_chart(replace(study, scores=(scores[1], scores[0], scores[3])), "decode")
    assert "0 % less" in worst.alt


@pytest.mark.parametrize("current", POLICIES)
def test_policies_are_compared_once_each_and_with_linear_first(current: str) -> None:
    policies = study_policies(current)
    assert policies[0] == "linear"
    assert current in policies
    assert len(set(policies)) == len(policies)


def test_rebalances_are_listed_with_what_they_cost_and_save() -> None:
    row: dict[str, float] = dict.fromkeys(("near_bytes", "far_bytes", "move_s", "staging_bytes", "saved_in_all_s"), 1e9)
    table = rebalance_table(
        ({**row, "instance": 0, "at_s": 2.0, "experts": 8, "cost_s": 0.5, "saved_s": 3, "steps": 9},)
    )
    assert table["At"][0] == "2.00 s"
    assert table["Experts moved"][0] == "8"
    assert table["Moved [GB]"][0] == "2.00"
    assert table["Cost"][0] == "500 ms"


@pytest.mark.parametrize("preset", ["qwen3-30b-a3b-ascend-910c", "mixtral-8x7b-a100"])
def test_every_block_of_a_step_that_takes_time_is_drawn(preset: str) -> None:
    step = timeline(Scenario.load(preset_path(preset)))
    taken = sum(step.schedule.busy(stream) for stream in {task.stream for task in step.schedule.tasks})
    factor = {"ms": 1e3, "µs": 1e6}[step_chart(step).figure.layout.xaxis.title.text[-3:-1]]
    assert sum(sum(trace.x) for trace in step_chart(step).figure.data) / factor == pytest.approx(taken)
