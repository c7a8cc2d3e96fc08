"""What only some scenarios ask and show, run without a browser: widgets, links, messages, panels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Widget

from workloads.samples import sample_path

#: Four ranks with an expert each, asked little.
RANKS = {"preset": "qwen3-30b-a3b-ascend-910c", "requests.count": "40", "routing.tokens": "512"}
Open = Callable[..., AppTest]


def texts(page: AppTest) -> str:
    return " ".join(text.value for text in page.markdown)


def alts(page: AppTest) -> str:
    return " ".join(chart.proto.alt for chart in page.get("plotly_chart"))


def tabs(page: AppTest) -> list[str]:
    return [tab.label for tab in page.tabs]


def test_every_control_says_what_it_means(quick: None, open_page: Open) -> None:
    faults = "[{at = '1 s'}, {at = '2 s', slowdown = 2.0}]"
    drafts = {"speculation.draft_tokens": "2", "speculation.acceptance": "[0.5]"}
    more = {"disaggregation.enabled": "true", "faults": faults, "placement.rebalance.every": "5 s", **drafts}
    page = open_page(**RANKS, **more)
    assert not page.exception
    kinds = ("selectbox", "number_input", "text_input", "checkbox", "multiselect", "file_uploader")
    controls = [each.proto for kind in kinds for each in page.get(kind) if isinstance(each, Widget)]
    assert len(controls) > 60
    assert [control.label for control in controls if not control.help] == []


def test_groups_open_where_the_scenario_makes_use_of_them(quick: None, open_page: Open) -> None:
    page = open_page(**RANKS, faults="[{at = '1 s'}]")
    opened = {group.label for group in page.sidebar.expander if group.proto.expanded}
    assert opened == {
        "Model and hardware",
        "Parallelism",
        "Load",
        "Expert routing",
        "Faults",
        "Objectives and seed",
    }


def test_only_tabs_that_have_something_to_say_are_shown(quick: None, open_page: Open) -> None:
    page = open_page(**RANKS)
    assert not {"Pools", "Prefix cache", "Drafts", "Faults", "Scaling"} & set(tabs(page))
    assert "Expert placement" in tabs(page)
    page.checkbox(key="form.disaggregation.enabled").set_value(True).run()
    assert "Pools" in tabs(page)
    page.number_input(key="form.parallelism.dp").set_value(1)
    page.number_input(key="form.parallelism.ep").set_value(1).run()
    assert "Expert placement" not in tabs(page)


def test_what_only_a_simulation_answers_asks_for_one(open_page: Open) -> None:
    page = open_page(**RANKS, **{"disaggregation.enabled": "true"}, tab="pools")
    assert not page.error
    assert not page.metric
    assert "disaggregation.enabled" in page.info[0].value
    next(button for button in page.button if button.label == "Simulate").click().run()
    assert not page.exception
    assert {metric.label for metric in page.metric if metric.value != "n/a"} >= {"TTFT, p99"}
    assert "the way of the KV cache takes" in alts(page)


def test_a_simulation_compares_with_a_baseline_that_has_an_estimate(open_page: Open) -> None:
    page = open_page(**RANKS, baseline="preset=qwen3-30b-a3b-ascend-910c&requests.count=40&routing.tokens=512")
    page.checkbox(key="form.disaggregation.enabled").set_value(True).run()
    next(button for button in page.button if button.label == "Simulate").click().run()
    assert all(metric.delta for metric in page.metric if metric.label != "USD per Mtok")


def test_faults_are_added_changed_and_taken_away(quick: None, open_page: Open) -> None:
    page = open_page(**RANKS)
    page.number_input(key="form.faults.rows").set_value(2).run()
    page.number_input(key="form.faults.1.at").set_value(3.0).run()
    page.number_input(key="form.faults.1.slowdown").set_value(2.5).run()
    assert page.query_params["faults"] == '[{at = "10.0 s"}, {at = "3.0 s", slowdown = 2.5}]'
    page.selectbox(key="form.faults.0.kind").set_value("instance").run()
    assert page.query_params["faults"].startswith('[{at = "10.0 s", kind = "instance"}')
    page.number_input(key="form.faults.rows").set_value(0).run()
    assert "faults" not in page.query_params
    assert not page.exception


def test_a_fault_is_drawn_with_what_came_of_it(open_page: Open) -> None:
    page = open_page(**RANKS, faults="[{at = '1 s', kind = 'instance', restart = '1 s'}]", simulated="1", tab="faults")
    assert not page.exception
    assert "1 fault, the first at 1.00 s" in alts(page)
    assert "requests were sent in again" in alts(page)


def test_a_fault_beyond_the_ranks_is_a_finding(open_page: Open) -> None:
    page = open_page(**RANKS, faults="[{at = '1 s', rank = 7}]")
    assert "faults.0.rank: got 7" in page.error[0].value.replace("\\", "")
    page.number_input(key="form.faults.0.rank").set_value(1).run()
    assert not page.error


def test_drafts_need_their_acceptance_and_show_what_they_yield(open_page: Open) -> None:
    page = open_page(**RANKS)
    page.number_input(key="form.speculation.draft_tokens").set_value(2).run()
    assert "speculation.acceptance: is required" in page.error[0].value.replace("\\", "")
    page.text_input(key="form.speculation.acceptance").set_value("0.5").run()
    assert not page.error
    assert page.query_params["speculation.acceptance"] == "[0.5]"
    page.session_state["tab"] = "Drafts"
    page.run()
    assert "a step yields 1.75 tokens" in alts(page)


@pytest.mark.parametrize("wrong", ["half", "0.5 0.4", "2", "nan"])
def test_a_list_that_cannot_be_read_is_said_and_keeps_the_rest(wrong: str, quick: None, open_page: Open) -> None:
    page = open_page(**RANKS, **{"speculation.draft_tokens": "2", "speculation.acceptance": "[0.5]"})
    page.text_input(key="form.speculation.acceptance").set_value(wrong).run()
    assert not page.exception
    assert "speculation.acceptance" in page.error[0].value.replace("\\", "")
    page.text_input(key="form.speculation.acceptance").set_value("0.5, 0.4").run()
    assert not page.error
    assert page.query_params["speculation.acceptance"] == "[0.5, 0.4]"


def test_a_prefix_cache_shows_its_hits(open_page: Open) -> None:
    trace = {"requests.kind": "trace", "requests.trace": "sample:mooncake_like.jsonl", "requests.rate": ""}
    page = open_page(**{**RANKS, **trace, "prefix_cache.kind": "instance"}, simulated="1", tab="cache")
    assert not page.exception
    assert "of all prompt tokens were cached" in alts(page)


def test_a_scaled_run_shows_its_course_its_instances_and_its_changes(open_page: Open) -> None:
    small = {"requests.count": "60", "requests.period": "30 s", "routing.tokens": "512"}
    events = {"elastic.policy": "schedule", "elastic.events": "[{at = '5 s', size = 3}]"}
    page = open_page(preset="elastic-day-ascend-910c", **small, **events, simulated="1", tab="scaling")
    assert not page.exception
    assert "elastic with policy schedule: 1 change," in alts(page)
    assert "instances" in alts(page)
    assert "Of the phases of a change" in alts(page)
    assert page.number_input(key="form.elastic.events.0.size").value == 3


def test_a_step_is_drawn_on_its_streams_and_the_link_keeps_its_kind(open_page: Open) -> None:
    page = open_page(**RANKS, tab="step")
    assert "One decode step" in alts(page)
    page.radio(key="phase").set_value("prefill").run()
    assert "One prefill step" in alts(page)
    assert page.query_params["phase"] == "prefill"


def test_placements_are_compared(open_page: Open) -> None:
    page = open_page(**RANKS, tab="placement")
    assert not page.exception
    assert "with experts placed linear" in alts(page)
    assert {"linear", "eplb", "oracle"} <= set(page.table[0].value.index)


def test_another_choice_takes_keys_away_that_nothing_reads_any_more(quick: None, open_page: Open) -> None:
    page = open_page(**RANKS)
    page.selectbox(key="form.requests.kind").set_value("closed_loop").run()
    assert page.query_params["requests.rate"] == ""
    page.selectbox(key="form.requests.kind").set_value("trace").run()
    assert page.query_params["requests.lengths.kind"] == "fixed"
    assert not page.error


def test_a_pt_file_is_refused_in_one_message(quick: None, open_page: Open) -> None:
    page = open_page(preset="gpt-oss-20b-h100")
    page.file_uploader(key="upload.routing.trace").upload("dump.pt", b"pickled").run()
    assert not page.exception
    assert len(page.error) == 1
    assert page.error[0].value.replace("\\", "").startswith("dump.pt: a routing trace is .npz or .parquet, not .pt")
    assert page.selectbox(key="form.routing.trace").value == "sample:routing_24x32_top4.npz"


def test_an_uploaded_trace_is_chosen_at_once_and_the_link_may_name_it(quick: None, open_page: Open) -> None:
    content = sample_path("routing_24x32_top4.npz").read_bytes()
    page = open_page(preset="gpt-oss-20b-h100")
    page.file_uploader(key="upload.routing.trace").upload("own.npz", content).run()
    chosen = str(page.selectbox(key="form.routing.trace").value)
    assert Path(chosen).name == "own.npz"
    assert Path(chosen).read_bytes() == content
    assert page.query_params["routing.trace"] == chosen
    page.selectbox(key="form.routing.trace").set_value("sample:routing_24x32_top4.npz").run()
    assert "routing.trace" not in page.query_params


def test_a_broken_trace_is_refused_with_its_row(quick: None, open_page: Open) -> None:
    page = open_page(preset="gpt-oss-20b-h100")
    rows = b"arrival_s,input_tokens,output_tokens\n0.0,5,many\n"
    page.file_uploader(key="upload.requests.trace").upload("mine.csv", rows).run()
    assert len(page.error) == 1
    assert page.error[0].value.startswith("mine.csv")
    assert "output_tokens" in page.error[0].value.replace("\\", "")
    assert page.selectbox(key="form.requests.trace").value == "sample:azure_like.csv"


def test_a_value_that_may_be_left_empty_says_in_its_place_what_that_means(quick: None, open_page: Open) -> None:
    faults = "[{at = '1 s'}, {at = '2 s', slowdown = 2.0}]"
    page = open_page(**{**RANKS, "disaggregation.enabled": "true", "faults": faults, "requests.count": ""})
    empty = [each for each in page.number_input if each.value is None]
    assert len(empty) > 8
    assert [each.label for each in empty if not each.proto.placeholder] == []
    assert page.number_input(key="form.stack.token_budget").proto.placeholder == "the stack's default"


def test_devices_of_all_pools_are_counted(quick: None, open_page: Open) -> None:
    pools = {"disaggregation.enabled": "true", "parallelism.instances": "2", "disaggregation.prefill.tp": "8"}
    page = open_page(preset="deepseek-v3-h200", **pools)
    assert "8 devices per instance, 16 in all and 8 more for prefill: 24." in texts(page)
    page.checkbox(key="form.disaggregation.enabled").set_value(False).run()
    assert "8 devices per instance, 16 in all. A node holds 8" in texts(page)


def test_every_mechanism_of_scaling_stands_side_by_side_when_asked(open_page: Open) -> None:
    small = {"requests.count": "60", "requests.period": "30 s", "elastic.policy": "schedule"}
    events = {"elastic.events": "[{at = '5 s', size = 4}]"}
    page = open_page(preset="elastic-day-ascend-910c", **small, **events, simulated="1", tab="scaling")
    tables = len(page.table)
    next(button for button in page.button if button.label == "Play every mechanism").click().run()
    assert not page.exception
    assert not page.error
    assert len(page.table) == tables + 1
    columns = set(page.table[-1].value.columns)
    assert {"elastic", "cold_restart", "ideal"} <= columns
    page.run()
    assert set(page.table[-1].value.columns) == columns
