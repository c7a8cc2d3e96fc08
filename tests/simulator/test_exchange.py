"""Exchanges as values: every name that a scenario may give is one, and modes are resolved in one place."""

from __future__ import annotations

from typing import get_args

import pytest

from simulator.exchange import EXCHANGES, WIRE_BYTES
from simulator.scenario.sections import Exchange as ExchangeName
from simulator.stack import load_stack, stack_names
from workloads.models.spec import Phase

PHASES: tuple[Phase, ...] = get_args(Phase)


def test_every_name_that_a_scenario_may_give_is_an_exchange() -> None:
    assert set(EXCHANGES) == set(get_args(ExchangeName))
    assert all(exchange.name == name for name, exchange in EXCHANGES.items())


@pytest.mark.parametrize("name", EXCHANGES)
@pytest.mark.parametrize("phase", PHASES)
def test_what_runs_in_a_phase_has_no_further_modes(name: ExchangeName, phase: Phase) -> None:
    found = EXCHANGES[name].in_phase(phase)
    assert not found.modes
    assert found.in_phase(phase) is found


def test_the_two_modes_of_deepep_are_those_of_prompts_and_of_decoding() -> None:
    assert EXCHANGES["deepep"].in_phase("prefill").name == "deepep_normal"
    assert EXCHANGES["deepep"].in_phase("decode").name == "deepep_low_latency"


@pytest.mark.parametrize("name", EXCHANGES)
def test_only_a_dispatch_that_does_not_gather_is_quantised(name: ExchangeName) -> None:
    exchange = EXCHANGES[name]
    assert exchange.element_bytes("combine", "fp8") == WIRE_BYTES["bfloat16"]
    quantised = exchange.element_bytes("dispatch", "fp8") < exchange.element_bytes("dispatch", "bfloat16")
    assert quantised != exchange.gathers


@pytest.mark.parametrize("name", stack_names())
@pytest.mark.parametrize("phase", PHASES)
def test_a_stacks_threshold_of_two_batches_is_read_in_both_phases(name: str, phase: Phase) -> None:
    stack = load_stack(name)
    stated = {key: quantity.value for key, quantity in stack.numbers.items() if key.startswith("two_batch")}
    assert stack.two_batch_tokens(phase) == max([2.0, *(v for key, v in stated.items() if phase in key)])
    assert {key.split("_")[2] for key in stated} <= set(PHASES)
