"""A link reproduces the page, and can do nothing else."""

from __future__ import annotations

import math
from dataclasses import replace
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.link import Names, from_params, to_params
from dashboard.panels.tabs import open_tabs
from dashboard.state import PageState, apply, differences
from simulator.errors import ScenarioError
from simulator.scenario import Scenario
from simulator.scenario.keys import scenario_keys
from simulator.scenario.scenario import served
from simulator.scenario.sections import Served

BASE = Scenario.from_mapping(
    {
        "name": "base",
        "model": {"name": "mixtral-8x7b"},
        "hardware": {"device": "a100-sxm", "node": "hgx-a100"},
        "requests": {"concurrency": 8, "count": 80},
        "slo": {"tpot": "50 ms"},
    }
)
TRACED = BASE.override("routing.kind=trace", "routing.trace=/srv/traces/own.npz")
NAMES = Names(
    presets={"base": BASE, "traced": TRACED},
    by_key={
        "model.name": ("mixtral-8x7b", "gpt-oss-20b"),
        "hardware.device": ("a100-sxm", "h100-sxm"),
        "hardware.node": ("hgx-a100", "hgx-h100"),
        "stack.name": ("sglang", "vllm"),
        "requests.trace": ("sample:azure_like.csv",),
        "routing.trace": ("sample:routing.npz",),
    },
)
COUNTS = st.integers(1, 1000)
POSITIVE = st.floats(min_value=1e-9, max_value=1e9)
SECONDS = POSITIVE.map(lambda value: f"{value!r} s")
FAULTS = st.fixed_dictionaries(
    {"at": SECONDS},
    optional={
        "kind": st.sampled_from(["rank", "nic"]),
        "rank": COUNTS,
        "slowdown": st.floats(1.001, 1e5),
        "restart": SECONDS,
        "retry": st.just("restart"),
    },
)


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Draw any scenario that a link may describe."""
    optional: dict[str, dict[str, st.SearchStrategy[object]]] = {
        "parallelism": dict.fromkeys(("tp", "dp", "pp", "ep", "instances"), COUNTS),
        "requests": {
            "kind": st.sampled_from(["closed_loop", "poisson", "gamma"]),
            "rate": POSITIVE,
            "concurrency": COUNTS,
            "count": COUNTS,
            "trace": st.just("sample:azure_like.csv"),
        },
        "routing": {"kind": st.sampled_from(["zipf", "uniform"]), "skew": st.floats(0, 1e6)},
        "stack": {
            "name": st.sampled_from(["sglang", "vllm"]),
            "cpu_gap": SECONDS,
            "memory_fraction": st.floats(min_value=1e-6, max_value=1),
        },
        "slo": {"ttft": SECONDS, "tpot": SECONDS},
        "speculation": {"draft_tokens": st.integers(0, 64), "acceptance": st.lists(st.floats(0, 1), max_size=5)},
        "prefix_cache": {"kind": st.sampled_from(["none", "shared"]), "store": POSITIVE.map(lambda v: f"{v!r} B")},
        "disaggregation": {
            "enabled": st.booleans(),
            "prefill": st.fixed_dictionaries({}, optional=dict.fromkeys(("tp", "ep"), COUNTS)),
        },
        "elastic": {
            "mechanism": st.sampled_from(["none", "elastic", "ideal"]),
            "without": st.lists(st.sampled_from(["p2p", "preinit"]), unique=True),
            "events": st.lists(st.fixed_dictionaries({"at": SECONDS, "size": COUNTS}), max_size=3),
        },
        "run": {"drain": st.booleans(), "warmup_requests": st.integers(0, 10**9)},
    }
    data: dict[str, object] = {
        "name": draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)),
        "seed": draw(st.integers(0, 2**53 - 1)),
        "model": {"name": draw(st.sampled_from(["mixtral-8x7b", "gpt-oss-20b"]))},
        "hardware": {"device": draw(st.sampled_from(["a100-sxm", "h100-sxm"]))},
    }
    for section, keys in optional.items():
        data[section] = draw(st.fixed_dictionaries({}, optional=keys))
    data["faults"] = draw(st.lists(FAULTS, max_size=3))
    return Scenario.from_mapping(data)


def through_the_address_bar(params: dict[str, str]) -> dict[str, str]:
    return dict(parse_qsl(urlencode(params), keep_blank_values=True, strict_parsing=True))


@given(scenarios(), st.none() | scenarios(), st.booleans(), st.data())
def test_a_link_reproduces_any_state(
    scenario: Scenario, baseline: Scenario | None, simulated: bool, data: st.DataObject
) -> None:
    state = PageState(
        preset="traced",
        scenario=scenario,
        baseline=baseline,
        baseline_preset="base" if baseline else "",
        simulated=simulated,
        tab=data.draw(st.sampled_from(list(open_tabs(scenario)))),
        phase="prefill" if simulated else "decode",
        latency="histogram" if simulated else "cumulative",
    )
    read, findings = from_params(through_the_address_bar(to_params(state, NAMES)), NAMES)
    assert findings == ()
    assert read == state


@given(scenarios())
def test_differences_applied_to_the_preset_give_the_scenario(scenario: Scenario) -> None:
    assert apply(BASE, differences(BASE, scenario)) == scenario


def test_an_unchanged_preset_makes_the_shortest_link() -> None:
    assert to_params(PageState(preset="base", scenario=BASE), NAMES) == {"preset": "base"}


def test_changed_keys_are_spelled_as_on_the_command_line() -> None:
    changed = BASE.override("parallelism.tp=2", "slo.tpot=20 ms")
    assert differences(BASE, changed) == {"parallelism.tp": "2", "slo.tpot": "0.02 s"}
    assert BASE.override(*(f"{key}={text}" for key, text in differences(BASE, changed).items())) == changed


def test_a_key_that_was_taken_away_has_an_empty_value() -> None:
    without = apply(BASE, {"slo.tpot": "", "hardware.node": ""})
    assert without.slo.tpot is None
    assert differences(BASE, without) == {"hardware.node": "", "slo.tpot": ""}


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("requests.trace", "/etc/passwd"),
        ("requests.trace", "sample:../../secret.csv"),
        ("routing.trace", "/srv/traces/other.npz"),
        ("model.name", "../config.json"),
        ("hardware.profiles", "/srv/profiles"),
        ("offload.router", "/srv/router.toml"),
        ("hardware.device", "h100"),
    ],
)
def test_a_link_cannot_name_a_file_or_what_no_catalogue_lists(key: str, text: str) -> None:
    state, findings = from_params({"preset": "base", key: text}, NAMES)
    assert state.scenario == BASE
    assert [(finding.level, finding.where) for finding in findings] == [("warning", key)]


def test_a_preset_keeps_its_own_trace_file() -> None:
    state, findings = from_params({"preset": "traced", "parallelism.tp": "2"}, NAMES)
    assert findings == ()
    assert state.scenario.routing.trace == "/srv/traces/own.npz"


def test_one_bad_value_spoils_only_itself() -> None:
    params = {"preset": "base", "parallelism.tp": "2", "parallelism.ep": "-1", "seed": "x", "requests.rat": "3"}
    state, findings = from_params(params, NAMES)
    assert state.scenario == BASE.override("parallelism.tp=2")
    assert [finding.where for finding in findings] == ["parallelism.ep", "seed", "requests.rat"]
    assert "requests.rate" in findings[2].message


@pytest.mark.parametrize(
    "change", [{"requests.count": "100000000"}, {"parallelism.ep": "1000000"}, {"seed": str(2**60)}]
)
def test_a_link_cannot_exhaust_the_machine(change: dict[str, str]) -> None:
    state, findings = from_params({"preset": "base", **change}, NAMES)
    assert state.scenario == BASE
    assert "at most" in findings[0].message


BOUNDED = [(key.name, served(key.name)) for key in scenario_keys() if served(key.name) != Served()]


@pytest.mark.parametrize(("key", "bound"), BOUNDED, ids=[key for key, _ in BOUNDED])
def test_a_link_may_ask_for_no_more_and_no_less_than_the_schema_says_that_a_server_takes(
    key: str, bound: Served
) -> None:
    rows = key in ("faults", "elastic.events")
    for text in [f"{bound.most + 1:.0f}"] * math.isfinite(bound.most) + [f"{bound.least / 2} s"] * (bound.least > 0):
        state, findings = from_params({"preset": "base", key: f"[{{at = {text}}}]" if rows else text}, NAMES)
        assert state.scenario == BASE
        assert findings[0].message.endswith(
            "the command line takes more" if math.isfinite(bound.most) else "takes less"
        )


def test_an_unknown_preset_falls_back_and_names_the_nearest() -> None:
    state, findings = from_params({"preset": "bas"}, NAMES)
    assert state.preset == "base"
    assert "did you mean 'base'" in findings[0].message


def test_findings_of_the_baseline_say_so() -> None:
    link = {"preset": "base", "baseline": urlencode({"preset": "base", "parallelism.tp": "0"})}
    state, findings = from_params(link, NAMES)
    assert state.baseline == BASE
    assert [finding.where for finding in findings] == ["baseline: parallelism.tp"]


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=300), max_size=8))
def test_no_link_breaks_the_page(params: dict[str, str]) -> None:
    state, _ = from_params(params, NAMES)
    assert state.scenario == BASE


@given(st.sampled_from(["name", "seed", "requests.rate", "slo.ttft", "baseline", "model", "run.drain"]), st.text())
def test_no_value_of_a_known_key_breaks_the_page(key: str, text: str) -> None:
    state, _ = from_params({key: text}, NAMES)
    assert replace(state, scenario=BASE, baseline=None, baseline_preset="") == PageState(preset="base", scenario=BASE)


def test_long_and_many_values_are_not_read() -> None:
    state, findings = from_params({"name": "[" * 10_000}, NAMES)
    assert state.scenario == BASE
    assert "at most" in findings[0].message
    _, many = from_params({f"key{i}": "1" for i in range(5000)}, NAMES)
    assert len(many) == 100


def test_a_value_is_no_section() -> None:
    with pytest.raises(ScenarioError, match="seed is not a section"):
        apply(BASE.override("seed=3"), {"seed.x": "1"})
