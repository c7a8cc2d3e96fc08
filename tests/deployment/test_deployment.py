"""A deployment does not depend on the load: whoever asks first, tables say the same."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.deployment import deployment as module
from simulator.deployment.deployment import Deployment, Reach, deploy
from simulator.deployment.prepared import kept_replay
from simulator.deployment.prices import PRICES
from simulator.placement.replay import RoutingReplay
from simulator.scenario import Scenario
from simulator.step.work import StepWork

MODELS: dict[str, dict[str, Any]] = {
    "gpt-oss-20b": {"hardware": {"device": "h100-sxm"}, "stack": {"name": "vllm"}},
    "deepseek-v2-lite": {
        "hardware": {"device": "h100-sxm"},
        "parallelism": {"dp": 8, "ep": 8},
        "stack": {"name": "sglang", "exchange": "deepep"},
    },
    "mixtral-8x7b": {"hardware": {"device": "a100-sxm"}, "parallelism": {"tp": 2}, "stack": {"name": "trtllm"}},
}
#: Loads as concurrency, input and output lengths: within what tables reach to at least, and beyond it.
LOADS = ((16, 100, 20), (300, 1000, 500), (4000, 200, 50), (40, 15_000, 3000))


def deployed(name: str, load: tuple[int, int, int], **sections: Any) -> Deployment:
    concurrency, prompt, answer = load
    requests = {
        "kind": "closed_loop",
        "concurrency": concurrency,
        "count": concurrency,
        "lengths": {"input": prompt, "output": answer},
    }
    given = {"model": {"name": name}, "requests": requests, "routing": {"tokens": 512}, **MODELS[name], **sections}
    return deploy(Scenario.from_mapping(given))


def step_times(d: Deployment) -> list[float]:
    """Durations of a few steps that every load of these tests knows."""
    dp, timer = d.split.dp, d.timer()
    works = [StepWork.decode(n * dp, 50.0 * n, dp=dp) for n in (1, 7, 16)]
    works += [StepWork.prefill(n * dp, 60 * n * dp, dp=dp) for n in (1, 2)]
    return [timer.time(work).duration for work in works]


def looked_up(d: Deployment) -> list[list[float]]:
    """Everything that tables say of up to 200 rows and 100 tokens of context."""
    rows, tables, totals = np.arange(201), d.tables, d.totals
    lists = [totals.alone, totals.tokens, totals.logits, totals.absorbed, totals.exchange, totals.prompt_exchange]
    found = [each[:101] for each in lists] + [totals.padded[:201].tolist()]
    found += [table.at(rows).ravel().tolist() for table in (tables.tokens, tables.prompts, tables.logits)]
    found.append([tables.decode_attention.at(n, c) for n in (1, 3, 100) for c in (17, 100)])
    found.append([tables.prompt_attention.at(n, t, p) for n in (1, 2) for t in (9, 100) for p in (0, 40)])
    for phase, lines in tables.experts.items():
        found.append([lines.at(n).base for n in (1, 5, 800)])
        found.append([tables.blocks[phase].at(n).compute for n in (1, 77)])
    return found


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=4, deadline=None)
@given(order=st.permutations(LOADS))
def test_tables_say_the_same_in_whatever_order_loads_come(name: str, order: list[tuple[int, int, int]]) -> None:
    wanted = {}
    for load in LOADS:
        PRICES.clear()
        alone = deployed(name, load)
        wanted[load] = step_times(alone), looked_up(alone)
    PRICES.clear()
    for load in order:
        asked = deployed(name, load)
        assert (step_times(asked), looked_up(asked)) == wanted[load]
    # What was asked of the largest tables, those that do not go beyond say too.
    assert {str(wanted[load]) for load in LOADS if load[0] >= 40} == {str(wanted[LOADS[1]])}


def test_loads_of_one_deployment_share_all_that_is_priced(monkeypatch: pytest.MonkeyPatch) -> None:
    PRICES.clear()
    first = deployed("deepseek-v2-lite", LOADS[0])
    monkeypatch.setattr(module, "compile_tables", None)
    others = [deployed("deepseek-v2-lite", (n, 20 * n, 9)) for n in (17, 40, 200, 350)]
    assert {id(d.tables) for d in others} == {id(first.tables)}
    assert {d.fingerprint for d in others} == {first.fingerprint}
    assert [d.limits.max_running for d in others] == [5, 9, 33, 65]
    assert [d.longest for d in others] == [512, 1024, 4096, 8192]


def test_tables_grow_in_each_direction_and_never_shrink() -> None:
    PRICES.clear()
    small = deployed("gpt-oss-20b", LOADS[0])
    longer = deployed("gpt-oss-20b", LOADS[3])
    again = deployed("gpt-oss-20b", LOADS[0])
    assert longer.reach.context > small.reach.context
    assert again.tables is longer.tables
    assert again.longest == small.longest
    assert not small.reach.covers(longer.reach)
    assert longer.reach == small.reach.longer(longer.reach) == Reach(tokens=9216, sequences=1024, context=32768)


def test_devices_share_the_replay_of_one_placement_and_it_goes_with_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    PRICES.clear()
    made: list[str] = []

    def counted(key: str, make: Callable[[], RoutingReplay]) -> RoutingReplay:
        made.append(key)
        return kept_replay(key, make)

    monkeypatch.setattr(module, "kept_replay", counted)
    h100 = deployed("deepseek-v2-lite", LOADS[1])
    h200 = deployed("deepseek-v2-lite", LOADS[1], hardware={"device": "h200-sxm"})
    fewer = deployed("deepseek-v2-lite", LOADS[1], parallelism={"dp": 4, "ep": 4})
    assert h100.routing is h200.routing is not fewer.routing
    assert len(made) == 2
    kept = h100.routing
    assert kept is not None
    tokens = kept.tokens
    del h100, h200, fewer, kept
    PRICES.clear()
    gc.collect()
    again = deployed("deepseek-v2-lite", LOADS[1])
    assert again.routing is not None
    assert again.routing.tokens == tokens


def test_a_batch_smaller_than_the_sequences_of_the_trace_has_its_own_order_of_tokens() -> None:
    few, many, more = (deployed("gpt-oss-20b", (n, 100, 20), routing={"tokens": 4096}) for n in (2, 64, 900))
    assert few.routing is not many.routing
    assert many.routing is more.routing
    assert len({few.fingerprint, many.fingerprint, more.fingerprint}) == 2


def test_a_load_beyond_the_models_context_is_told_and_does_not_tell_the_next() -> None:
    long = deployed("mixtral-8x7b", (4, 40_000, 100))
    assert any("exceed the model's context" in warning for warning in long.warnings)
    assert not any("exceed" in warning for warning in deployed("mixtral-8x7b", (4, 400, 100)).warnings)
    assert replace(long, warnings=()).tables is deployed("mixtral-8x7b", (4, 400, 100)).tables
