"""An answer follows what its files say: of every kind of file that a scenario can name, and of nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import hardware_profiles
import simulator
import workloads.models.library
from simulator import Scenario, estimate, simulate
from simulator.deployment import fingerprint as fingerprint_module
from simulator.deployment.deployment import deploy, repriced
from simulator.deployment.fingerprint import fingerprint
from simulator.deployment.inputs import scenario_requests, scenario_routing
from simulator.results.values import Result
from simulator.scenario.presets import preset_names, preset_path
from simulator.scenario.scenario import PRICING
from simulator.step import contention
from workloads.routing.files import save_routing_trace
from workloads.routing.generators import generate_routing
from workloads.samples import sample_path

PROFILES = Path(hardware_profiles.__file__).parent
MODELS = Path(workloads.models.library.__file__).parent / "catalogue"
SIMULATOR = Path(simulator.__file__).parent

Overrides = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file of every kind that a scenario can name."""
    for kind in ("devices", "nodes", "clusters", "prices", "kernels", "residuals"):
        shutil.copytree(PROFILES / kind, tmp_path / "profiles" / kind)
    mixtral = (MODELS / "mixtral-8x7b.toml").read_text(encoding="utf-8").replace("count = 32", "count = 2")
    (tmp_path / "base.toml").write_text(
        mixtral[: mixtral.index("[published]")] + mixtral[mixtral.index("[attention") :]
    )
    (tmp_path / "mine.toml").write_text('base = "base"\nname = "mine"\n')
    config = {"model_type": "mixtral", "hidden_size": 4096, "vocab_size": 32000, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336}
    config |= {"num_local_experts": 8, "num_experts_per_tok": 2, "max_position_embeddings": 32768}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copy(SIMULATOR / "stacks" / "sglang.toml", tmp_path / "stack.toml")
    shutil.copy(SIMULATOR / "startups" / "vllm-ascend.toml", tmp_path / "startup.toml")
    shutil.copy(sample_path("fit_gpt_oss_20b.toml"), tmp_path / "fit.toml")
    write_requests(tmp_path / "requests.csv")
    write_routing(tmp_path / "routing.npz")
    return tmp_path


def write_requests(path: Path, tokens: int = 200) -> None:
    rows = [f"{index * 0.1},{tokens},40" for index in range(20)]
    path.write_text("\n".join(["arrival_s,input_tokens,output_tokens", *rows]) + "\n")


def write_routing(path: Path, skew: float = 0.1) -> None:
    trace = generate_routing("zipf", tokens=256, layers=2, num_experts=8, top_k=2, seed=1, exponent=skew)
    path.unlink(missing_ok=True)
    save_routing_trace(trace, path)


def small(folder: Path, overrides: Overrides) -> Scenario:
    """A scenario of two nodes that takes all it can from the folder; overrides change it by dotted keys."""
    said: Overrides = {
        "model.name": str(folder / "mine.toml"),
        "hardware.device": "h200-sxm",
        "hardware.profiles": str(folder / "profiles"),
        "parallelism.dp": 16,
        "parallelism.ep": 8,
        "stack.name": str(folder / "stack.toml"),
        "requests.concurrency": 32,
        "requests.count": 64,
        "requests.lengths.input": 128,
        "requests.lengths.output": 16,
        "routing.kind": "trace",
        "routing.trace": str(folder / "routing.npz"),
        **overrides,
    }
    data: Overrides = {}
    for key, value in said.items():
        *sections, last = key.split(".")
        place = data
        for section in sections:
            place = place.setdefault(section, {})
        if value is not None:
            place[last] = value
    return Scenario.from_mapping(data)


def swap(old: str, new: str) -> Callable[[Path], None]:
    """Replace a text, which must be there."""

    def edit(path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    return edit


REQUESTS = {"requests.kind": "trace", "requests.trace": "requests.csv", "requests.concurrency": None}
REQUESTS |= {"requests.count": None}
FITTED = {
    "routing.fit": "fit.toml",
    "model.name": "gpt-oss-20b",
    "routing.kind": "fitted",
    "routing.trace": None,
    "routing.tokens": 256,
}
ELASTIC = {
    "parallelism.dp": 4,
    "parallelism.ep": 4,
    "elastic.mechanism": "cold_restart",
    "elastic.startup": "startup.toml",
    "elastic.events": [{"at": "0.01 s", "size": 8}],
}

#: Of every kind of file: its path, an edit of it that changes the answer, and what the scenario says otherwise.
FILES: dict[str, tuple[str, Callable[[Path], None], Overrides]] = {
    "device": (
        "profiles/devices/h200-sxm.toml",
        swap("memory_bandwidth = { value = 4800", "memory_bandwidth = { value = 480"),
        {},
    ),
    "relative's device": ("profiles/devices/h100-sxm.toml", swap('architecture = "Hopper"', 'architecture = "H"'), {}),
    "node": ("profiles/nodes/hgx-h200.toml", swap("devices = { value = 8", "devices = { value = 4"), {}),
    "cluster": ("profiles/clusters/hgx-h200-ib.toml", swap("{ value = 400,", "{ value = 40,"), {}),
    "price": ("profiles/prices/h200-sxm.toml", swap("rental_3yr = { value = 2.05", "rental_3yr = { value = 9"), {}),
    "kernels": ("profiles/kernels/h100-sxm.moe.toml", swap("value = 0.", "value = 0.1"), {}),
    "residuals": ("profiles/residuals/h100-sxm.toml", swap('"all" = 0.', '"all" = 1.'), {}),
    "transfer": ("profiles/residuals/_transfer.toml", swap("= 0.", "= 1."), {}),
    "stack": ("stack.toml", swap("cpu_gap = { value = 0.5", "cpu_gap = { value = 5"), {}),
    "model": ("mine.toml", lambda path: path.write_text('base = "base"\nhidden = 2048\n'), {}),
    "base of the model": ("base.toml", swap("intermediate = 14336", "intermediate = 1024"), {}),
    "config.json": ("config.json", swap("14336", "1024"), {"model.name": "config.json"}),
    "routing trace": ("routing.npz", lambda path: write_routing(path, skew=2.0), {}),
    "routing fit": (
        "fit.toml",
        swap("layer_memory = 0.93", "layer_memory = 0.13"),
        FITTED,
    ),
    "request trace": ("requests.csv", lambda path: write_requests(path, tokens=2000), REQUESTS),
    "start-up": ("startup.toml", swap("server_start = { value = 6.4", "server_start = { value = 64"), ELASTIC),
}
PATHS = ("requests.trace", "routing.fit", "elastic.startup")


def of_file(folder: Path, kind: str) -> Scenario:
    overrides = dict(FILES[kind][2])
    for key, value in overrides.items():
        if key in PATHS or str(value).endswith(".json"):
            overrides[key] = str(folder / value)
    return small(folder, overrides)


def answer(scenario: Scenario) -> Any:
    """All that is answered, without what names the inputs or the wall clock."""
    result = estimate(scenario) if scenario.elastic.mechanism == "none" else simulate(scenario)
    scaling = result.scaling.changes.to_csv() if isinstance(result, Result) and result.scaling else ""
    summary = replace(result.summary, wall_s=0.0)
    return repr(summary), dict(result.breakdown), result.warnings, result.provenance["evidence"], scaling


@pytest.mark.parametrize("kind", FILES)
def test_an_edit_of_any_file_changes_the_next_answer_and_its_fingerprint(folder: Path, kind: str) -> None:
    scenario, (name, edit, _) = of_file(folder, kind), FILES[kind]
    before, name_before = answer(scenario), fingerprint(scenario)
    assert answer(scenario) == before
    edit(folder / name)
    assert fingerprint(scenario) != name_before
    assert answer(scenario) != before


def test_an_edit_that_keeps_the_time_and_the_size_of_a_file_is_seen(folder: Path) -> None:
    scenario, path = small(folder, {}), folder / "stack.toml"
    before, state = fingerprint(scenario), path.stat()
    swap("cpu_gap = { value = 0.5", "cpu_gap = { value = 0.7")(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_size == state.st_size
    assert fingerprint(scenario) != before


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("devices", "h200-sxm"),
        ("nodes", "hgx-h200"),
        ("clusters", "hgx-h200-ib"),
        ("prices", "h200-sxm"),
        ("kernels", "h100-sxm"),
        ("residuals", "h100-sxm"),
    ],
)
def test_a_profile_that_appears_where_one_was_looked_for_counts_from_then_on(
    tmp_path: Path, kind: str, name: str
) -> None:
    file = Path(kind) / f"{name}.toml"
    (tmp_path / "profiles").mkdir()
    overrides = {"model.name": "mixtral-8x7b", "routing.kind": "balanced", "routing.trace": None}
    scenario = small(tmp_path, {**overrides, "stack.name": "sglang"})
    before = fingerprint(scenario)
    (tmp_path / "profiles" / kind).mkdir()
    text = (PROFILES / file).read_text(encoding="utf-8").replace(" = 0.", " = 0.1")
    changed = re.sub(r"value = (\d)", r"value = 1\1", text)
    (tmp_path / "profiles" / file).write_text(changed, encoding="utf-8")
    assert fingerprint(scenario) != before


def test_unchanged_files_keep_what_was_priced_and_read(folder: Path) -> None:
    scenario = small(folder, REQUESTS | {"requests.trace": str(folder / "requests.csv")})
    deployment = deploy(scenario)
    settle(folder)
    scenario_requests(scenario.requests, 0)
    scenario_routing(scenario.routing, deployment.model, 0)
    assert deploy(scenario).tables is deployment.tables
    assert scenario_requests(scenario.requests, 0) is scenario_requests(scenario.requests, 0)
    routed = [scenario_routing(scenario.routing, deployment.model, 0) for _ in range(2)]
    assert routed[0] is routed[1]


def settle(folder: Path) -> None:
    """Let all files look old, as one that is new may change again without a new time."""
    import time

    time.sleep(0.05)


def test_a_load_of_the_same_size_shares_the_prices(folder: Path) -> None:
    first, second = (small(folder, {"requests.count": count, "slo.ttft": "1 s"}) for count in (64, 65))
    assert deploy(first).tables is deploy(second).tables
    assert fingerprint(first) != fingerprint(second)


def test_the_same_contents_in_another_place_have_the_same_fingerprint(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere, ignore=lambda *_: ["elsewhere"])
    assert fingerprint(small(folder, {})) == fingerprint(small(elsewhere, {}))
    assert small(folder, {}).hash != small(elsewhere, {}).hash


@pytest.mark.parametrize("alias", ["H200", "h200-141gb"])
def test_another_name_of_the_same_profile_has_the_same_fingerprint(folder: Path, alias: str) -> None:
    assert fingerprint(small(folder, {"hardware.device": alias})) == fingerprint(small(folder, {}))


def test_what_nobody_reads_changes_no_fingerprint(folder: Path) -> None:
    before = fingerprint(small(folder, {}))
    (folder / "profiles" / "devices" / "h20.toml").unlink()
    with (folder / "profiles" / "nodes" / "hgx-h200.toml").open("a") as node:
        node.write("# a comment\n")
    assert fingerprint(small(folder, {})) == before
    assert fingerprint(small(folder, {"name": "another"})) == before


@pytest.mark.parametrize(
    "change",
    ["seed=1", "parallelism.tp=2", "stack.cpu_gap='1 ms'", "requests.rate=2.0", "slo.ttft='1 s'", "run.drain=false"],
)
def test_any_value_changes_the_fingerprint(folder: Path, change: str) -> None:
    scenario = small(folder, {})
    assert fingerprint(scenario.override(change)) != fingerprint(scenario)


def test_the_provenance_of_a_result_names_the_fingerprint(folder: Path) -> None:
    scenario = small(folder, {})
    assert estimate(scenario).provenance["fingerprint"] == fingerprint(scenario)


def test_a_deployment_sees_the_sections_that_price_and_no_others(folder: Path) -> None:
    scenario = small(folder, {"slo.ttft": "1 s", "run.drain": False, "parallelism.instances": 3, "name": "x"})
    pricing, plain = scenario.pricing(), Scenario(model=scenario.model, hardware=scenario.hardware)
    for section in Scenario.model_fields:
        if section == "parallelism":
            continue
        kept = scenario if section in PRICING else plain
        assert getattr(pricing, section) == getattr(kept, section), section
    assert pricing.parallelism == scenario.parallelism.model_copy(update={"instances": 1})


WATCHED = """
import json, os, sys
from simulator import Scenario, simulate
from hardware_profiles.files import noted
opened = set()
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        opened.add(os.path.abspath(arguments[0]))
scenarios = [Scenario.from_mapping(each) for each in json.loads(sys.argv[1])]
sys.addaudithook(watch)
with noted() as files:
    for scenario in scenarios:
        simulate(scenario)
missed = opened - {os.path.abspath(name) for name in files}
print(json.dumps(sorted(name for name in missed if name.endswith((".toml", ".json", ".csv", ".npz")))))
"""


def test_every_file_that_a_run_opens_is_noted(folder: Path) -> None:
    kinds = ("model", "config.json", "routing fit", "request trace", "start-up")
    scenarios = json.dumps([of_file(folder, kind).to_mapping() for kind in kinds])
    command = [sys.executable, "-c", WATCHED, scenarios]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == []


def test_the_table_that_serves_all_scenarios_counts_as_their_files_do(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = small(folder, {"stack.overlap": "two_batch", "stack.exchange": "deepep"})
    own = tmp_path / "own.toml"
    shutil.copy(contention.FILE, own)
    for module in (contention, fingerprint_module):
        monkeypatch.setattr(module, "FILE", own)
    before, name_before = answer(scenario), fingerprint(scenario)
    text = own.read_text(encoding="utf-8")
    own.write_text(re.sub(r"value = (\d)", r"value = 1\1", text), encoding="utf-8")
    assert fingerprint(scenario) != name_before
    assert answer(scenario) != before


def test_a_deployment_that_is_priced_anew_has_the_name_of_what_it_has_become(folder: Path) -> None:
    deployment = deploy(small(folder, {}))
    routing, cost = deployment.routing, deployment.cost
    assert routing is not None
    moved = replace(routing, slot_ids=routing.slot_ids[::-1])
    slower = replace(cost, hardware=replace(cost.hardware, nodes=7))
    fewer = replace(deployment, split=replace(deployment.split, ep=4))
    names = [
        deployment.fingerprint,
        repriced(deployment, cost=cost, routing=routing).fingerprint,
        repriced(deployment, cost=cost, routing=moved).fingerprint,
        repriced(deployment, cost=slower, routing=routing).fingerprint,
        repriced(fewer, cost=cost, routing=routing).fingerprint,
    ]
    assert len(set(names)) == len(names)
    assert repriced(deployment, cost=cost, routing=routing).fingerprint == names[1]


NAMED = """
from simulator import Scenario
from simulator.deployment.fingerprint import fingerprint
from simulator.scenario.presets import preset_names, preset_path
print([fingerprint(Scenario.load(preset_path(name))) for name in preset_names()])
"""


def test_every_process_gives_a_scenario_the_same_fingerprint() -> None:
    found = [
        subprocess.run(
            [sys.executable, "-c", NAMED],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert found[0] == found[1]
    assert found[0] == f"{[fingerprint(Scenario.load(preset_path(name))) for name in preset_names()]}\n"
