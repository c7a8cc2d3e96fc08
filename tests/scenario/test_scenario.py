"""Scenarios: read, changed, written, hashed; and what is said where they are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import MoesimError, ScenarioError
from simulator.scenario import Scenario
from simulator.scenario.presets import preset_names, preset_path

SMALL: dict[str, Any] = {"model": {"name": "mixtral-8x7b"}, "hardware": {"device": "a100-sxm"}}


def small(**sections: Any) -> Scenario:
    return Scenario.from_mapping({**SMALL, **sections})


def test_only_model_and_device_are_required() -> None:
    scenario = small()
    assert scenario.parallelism.tp == 1
    assert scenario.requests.kind == "closed_loop"
    with pytest.raises(ScenarioError) as error:
        Scenario.from_mapping({"requests": {"concurrency": 1}})
    assert str(error.value).splitlines() == ["scenario: model: is required", "scenario: hardware: is required"]


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_survives_the_round_trip_through_toml(name: str, tmp_path: Path) -> None:
    scenario = Scenario.load(preset_path(name))
    path = tmp_path / "copy.toml"
    path.write_text(scenario.to_toml(), encoding="utf-8")
    again = Scenario.load(path)
    assert again == scenario
    assert again.hash == scenario.hash


@given(
    seed=st.integers(0, 2**31),
    tp=st.integers(1, 64),
    policy=st.sampled_from(["linear", "balanced"]),
    milliseconds=st.floats(1e-3, 1e6),
    share=st.floats(0.01, 1.0),
    rate=st.floats(1e-3, 1e6),
    concurrency=st.integers(1, 10**6) | st.none(),
    drain=st.booleans(),
)
def test_any_values_survive_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    tp: int,
    policy: str,
    milliseconds: float,
    share: float,
    rate: float,
    concurrency: int | None,
    drain: bool,
) -> None:
    scenario = small(
        seed=seed,
        parallelism={"tp": tp},
        placement={"policy": policy},
        stack={"memory_fraction": share, "cpu_gap": f"{milliseconds!r} ms"},
        requests={"kind": "poisson", "rate": rate, **({"concurrency": concurrency} if concurrency else {})},
        run={"drain": drain},
    )
    path = tmp_path_factory.mktemp("scenarios") / "one.toml"
    path.write_text(scenario.to_toml(), encoding="utf-8")
    assert Scenario.load(path) == scenario
    assert Scenario.load(path).hash == scenario.hash


def test_the_hash_changes_with_any_value_and_with_nothing_else() -> None:
    base = small()
    changes = [
        "seed=1",
        "name='other'",
        "model.name=mixtral-8x22b",
        "hardware.device=h100-sxm",
        "parallelism.tp=2",
        "placement.policy=balanced",
        "stack.cpu_gap='1 ms'",
        "requests.lengths.output=7",
        "routing.skew=0.51",
        "slo.ttft='1 s'",
        "run.drain=false",
    ]
    hashes = {base.override(change).hash for change in changes}
    assert len(hashes) == len(changes)
    assert base.hash not in hashes
    assert small().hash == base.hash
    assert base.override("parallelism.tp=2", "parallelism.tp=1").hash == base.hash
    assert small(parallelism={"tp": 1}).hash == base.hash
    assert base.override("slo.ttft='1 s'").hash == base.override("slo.ttft='1000 ms'").hash
    assert len(base.hash) == 16
    assert int(base.hash, 16) >= 0


def test_a_scenario_is_a_value() -> None:
    assert small() == small()
    assert hash(small()) == hash(small())
    with pytest.raises(Exception, match="frozen"):
        small().seed = 3  # type: ignore[misc]


def test_overrides_change_a_copy_and_leave_the_rest() -> None:
    base = small(requests={"kind": "poisson", "rate": 2.0})
    changed = base.override("parallelism.tp=4", "requests.rate=3", "requests.lengths.kind=lognormal")
    assert (changed.parallelism.tp, changed.requests.rate, changed.requests.lengths.kind) == (4, 3.0, "lognormal")
    assert (base.parallelism.tp, base.requests.rate) == (1, 2.0)
    assert changed.requests.kind == "poisson"
    assert base.override("slo.tpot=50 ms").slo.tpot == pytest.approx(0.05)
    assert base.override("slo.tpot = '50 ms'").slo.tpot == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("parallelism.tp", "expected section.key=value"),
        ("=3", "expected section.key=value"),
        ("parallelism..tp=3", "expected section.key=value"),
        ("model.name.more=3", "name is not a section"),
        ("seed.more=3", "seed: got {'more': 3}; input should be a valid integer"),
        ("parallelism.pt=3", "unknown key; did you mean 'tp' or 'pp' or 'ep'"),
        ("paralelism.tp=3", "unknown key; did you mean 'parallelism'"),
        ("requests.rate=nan", "the value must be finite"),
        ("requests.rate=inf", "the value must be finite"),
        ("requests.rate=-inf", "the value must be finite"),
        ("parallelism.tp=two", "got 'two'"),
        ("parallelism.tp=2.5", "got 2.5"),
        ("requests.lengths.kind=fixd", "got 'fixd'; input should be 'fixed', 'uniform' or 'lognormal'"),
    ],
)
def test_a_wrong_override_says_what_is_wrong(assignment: str, message: str) -> None:
    with pytest.raises(ScenarioError) as error:
        small(requests={"kind": "poisson", "rate": 1.0}).override(assignment)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("parallelism", "tp", 0, "parallelism.tp: got 0; input should be greater than or equal to 1"),
        ("parallelism", "tp", -8, "parallelism.tp: got -8; input should be greater than or equal to 1"),
        ("parallelism", "tp", True, "parallelism.tp: got True; input should be a valid integer"),
        ("parallelism", "tp", "8", "parallelism.tp: got '8'; input should be a valid integer"),
        ("placement", "redundant_slots", -1, "placement.redundant_slots: got -1; input should be greater than"),
        ("requests", "rate", 0.0, "requests.rate: got 0.0; input should be greater than 0"),
        ("requests", "rate", -3.0, "requests.rate: got -3.0; input should be greater than 0"),
        ("requests", "rate", float("nan"), "requests.rate: got nan; input should be"),
        ("requests", "rate", float("inf"), "requests.rate: got inf; input should be a finite number"),
        ("requests", "cv", 0.0, "requests.cv: got 0.0; input should be greater than 0"),
        ("requests", "count", 0, "requests.count: got 0; input should be greater than or equal to 1"),
        ("requests", "amplitude", 1.0, "requests.amplitude: got 1.0; input should be less than 1"),
        ("requests", "kind", "closed", "requests.kind: got 'closed'; input should be 'closed_loop'"),
        ("routing", "skew", -0.1, "routing.skew: got -0.1; input should be greater than or equal to 0"),
        ("routing", "skew", float("nan"), "routing.skew: got nan"),
        ("routing", "alpha", 0.0, "routing.alpha: got 0.0"),
        ("stack", "memory_fraction", 1.5, "stack.memory_fraction: got 1.5; input should be less than or equal to 1"),
        ("stack", "exchange", "nccl", "stack.exchange: got 'nccl'; input should be 'all_to_all'"),
        ("slo", "ttft", 2, "slo.ttft: got 2; a duration needs its unit, as in '50 ms' or '2 s'"),
        ("slo", "ttft", 0.5, "slo.ttft: got 0.5; a duration needs its unit"),
        ("slo", "ttft", "2", "slo.ttft: got '2'; "),
        ("slo", "ttft", "2 GB", "slo.ttft: got '2 GB'; "),
        ("slo", "ttft", "2 sec onds", "slo.ttft: got '2 sec onds'; "),
        ("slo", "ttft", "-2 s", "slo.ttft: got '-2 s'; "),
        ("slo", "ttft", "0 s", "slo.ttft: got '0 s'; "),
        ("slo", "ttft", "nan s", "slo.ttft: got 'nan s'; "),
        ("slo", "ttft", "inf s", "slo.ttft: got 'inf s'; "),
        ("stack", "cpu_gap", 1, "stack.cpu_gap: got 1; a duration needs its unit"),
        ("run", "warmup_requests", -1, "run.warmup_requests: got -1; input should be greater than or equal to 0"),
        (
            "speculation",
            "acceptance",
            0.6,
            "speculation.acceptance: got 0.6; expected a list of numbers, as in [0.5, 0.3]",
        ),
        ("requests", "priorities", 2, "requests.priorities: got 2; expected a list of numbers"),
        ("elastic", "without", "p2p", "elastic.without: got 'p2p'; expected a list of names, as in ['ipc_alloc']"),
        ("elastic", "events", 3, "elastic.events: got 3; expected tables in double brackets, as in [[elastic.events]]"),
        ("hardware", "devise", "h100", "hardware.devise: unknown key; did you mean 'device'"),
        ("requests", "concurency", 4, "requests.concurency: unknown key; did you mean 'concurrency'"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_what_is_allowed(
    section: str, key: str, value: object, message: str
) -> None:
    data = {**SMALL, section: {**SMALL.get(section, {}), key: value}}
    with pytest.raises(MoesimError) as error:
        Scenario.from_mapping(data)
    assert str(error.value).startswith(f"scenario: {message}"), str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_all_wrong_keys_are_named_at_once() -> None:
    with pytest.raises(ScenarioError) as error:
        small(parallelism={"tp": 0, "pd": 2}, requests={"rate": -1.0}, sead=3)
    lines = str(error.value).splitlines()
    assert len(lines) == 4
    assert {line.split(": ")[1] for line in lines} == {"parallelism.tp", "parallelism.pd", "requests.rate", "sead"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = 3\n[hardware]\ndevice = 'a100-sxm'\n", "model: got 3; "),
        ("[model]\nname = 'mixtral-8x7b'\n", "hardware: is required"),
        ("[model\n", "not valid TOML"),
        ("", "model: is required"),
        ("[model]\nname = 4\n[hardware]\ndevice = 'a100-sxm'\n", "model.name: got 4; input should be a valid string"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError) as error:
        Scenario.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


def test_a_missing_file_an_unreadable_one_and_a_folder_are_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="no such scenario file"):
        Scenario.load(tmp_path / "absent.toml")
    with pytest.raises(ScenarioError, match="is a folder, not a file"):
        Scenario.load(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ScenarioError, match="is no text in UTF-8"):
        Scenario.load(tmp_path / "binary.toml")


def test_paths_of_a_file_are_taken_from_its_folder_and_those_of_overrides_are_not(tmp_path: Path) -> None:
    path = tmp_path / "traces.toml"
    path.write_text(
        "model = { name = 'mixtral-8x7b' }\nhardware = { device = 'a100-sxm' }\n"
        "requests = { kind = 'trace', trace = 'azure.csv' }\nrouting = { kind = 'trace', trace = 'sample:x.npz' }\n",
        encoding="utf-8",
    )
    loaded = Scenario.load(path)
    assert loaded.requests.trace == str(tmp_path / "azure.csv")
    assert loaded.routing.trace == "sample:x.npz"
    assert loaded.model.name == "mixtral-8x7b"
    assert Scenario.load(path, ["requests.trace=other.csv"]).requests.trace == "other.csv"


def test_overrides_of_a_file_are_checked_with_it(tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text(small().to_toml(), encoding="utf-8")
    assert Scenario.load(path, ["parallelism.tp=2", "seed=9"]) == small(parallelism={"tp": 2}, seed=9)
    with pytest.raises(ScenarioError, match=r"parallelism\.tp: got 0"):
        Scenario.load(path, ["parallelism.tp=0"])


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("bf16", "bfloat16"), ("FP16", "bfloat16"), ("half", "bfloat16"), ("fp8_e4m3", "fp8"), ("FP8-block", "fp8_block")],
)
def test_a_dtype_may_be_spelled_as_people_do(spelling: str, name: str) -> None:
    made = small().override(f"model.weights={spelling}", f"model.kv_cache={spelling}")
    assert (made.model.weights, made.model.kv_cache) == (name, name)
    assert made.hash == small().override(f"model.weights={name}", f"model.kv_cache={name}").hash


def test_an_empty_or_automatic_dtype_is_the_models_own() -> None:
    fp8 = small().override("model.weights=fp8")
    assert fp8.override("model.weights=").model.weights is None
    assert fp8.override("model.weights=auto").model.weights is None


def test_an_unknown_dtype_is_named_once_with_its_key() -> None:
    with pytest.raises(
        ScenarioError, match=r"model.weights: got 'fp7'; unknown dtype 'fp7'; did you mean 'fp8'"
    ) as told:
        small().override("model.weights=fp7")
    assert str(told.value).count("fp7") == 2
