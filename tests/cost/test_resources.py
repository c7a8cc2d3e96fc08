"""Ops run on the processor that they name; a processor that no scenario uses is named wherever an answer is given."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest

import simulator
from hardware_profiles.loader import device_names, load_device
from simulator.cost.model import CostModel
from simulator.cost.uncertainty import UNMEASURED, op_spread
from simulator.errors import ProfileError
from simulator.hardware import HOST, LINK, MAIN, Resource, load_hardware, unused_processors
from simulator.ops import Op, StepShape, build_ops
from simulator.parallelism import Parallelism
from simulator.scenario import Scenario
from simulator.stack import load_stack
from workloads.models.library import load_model

SEVERAL = [name for name in device_names() if len(load_device(name).processors) > 1]


@cache
def cost_model(*, measured: bool) -> CostModel:
    """Duplex, whose PIM has the matrix products of its xPU where ``measured`` and no kernels where not."""
    hardware = load_hardware("duplex")
    if measured:
        pim = dataclasses.replace(hardware.further["pim"], kernels=hardware.kernels)
        hardware = dataclasses.replace(hardware, further={**hardware.further, "pim": pim})
    return CostModel(hardware=hardware, stack=load_stack("vllm"))


def product(resource: str) -> Op:
    ops = build_ops(
        load_model("llama-3.1-8b"),
        Parallelism(),
        load_stack("vllm"),
        StepShape(decode_sequences=np.array([1.0, 4.0]), decode_context=100.0),
    )
    return dataclasses.replace(next(op for op in ops if op.name == "ffn_up"), resource=resource)


def test_a_processor_with_tables_prices_ops_on_its_own_silicon() -> None:
    cost = cost_model(measured=True)
    main, pim = (cost.time(product(resource)) for resource in (MAIN, "pim"))
    assert main.table == pim.table
    rise = cost.hardware.further["pim"].silicon.memory_bandwidth / cost.hardware.silicon.memory_bandwidth
    assert pim.terms["memory"] == pytest.approx(main.terms["memory"] / rise)
    # Nobody compared the kernels of the PIM with measurements.
    assert op_spread(pim, cost.hardware).sigma == pytest.approx(UNMEASURED)


def test_the_main_processor_is_a_default_and_goes_by_its_name_too() -> None:
    cost = cost_model(measured=False)
    named = cost.time(product(cost.hardware.device.main.name))
    assert named.seconds == pytest.approx(cost.time(product(MAIN)).seconds)


def test_ops_that_wait_for_links_say_so() -> None:
    split, stack = Parallelism(tp=2, dp=4, ep=8, pp=2), load_stack("sglang")
    ops = build_ops(load_model("deepseek-v3"), split, stack, StepShape(decode_sequences=8.0, decode_context=100.0))
    on_links = {op.component for op in ops if op.resource == LINK}
    assert on_links == {"all_reduce", "dispatch", "combine"}
    assert all((op.resource == LINK) == bool(np.any(op.message_bytes > 0)) for op in ops if np.any(op.rows > 0))


def test_the_host_of_a_node_is_a_resource() -> None:
    hardware = load_hardware("h100-sxm")
    host = hardware.resource(HOST)
    assert isinstance(host, Resource)
    assert host.silicon.memory_bandwidth < hardware.silicon.memory_bandwidth


def test_a_processor_without_kernels_says_what_it_lacks() -> None:
    with pytest.raises(ProfileError, match="duplex pim: no coefficients of any gemm kernel for bfloat16"):
        cost_model(measured=False).time(product("pim"))


def test_an_unknown_processor_is_named_with_the_nearest() -> None:
    with pytest.raises(ProfileError, match="duplex has no processor 'pin'; did you mean 'pim'"):
        cost_model(measured=False).time(product("pin"))


@pytest.mark.parametrize("name", device_names())
def test_every_device_says_which_of_its_processors_serve_nothing(name: str) -> None:
    assert len(unused_processors(load_device(name))) == len(load_device(name).processors) - 1


@pytest.mark.parametrize("name", SEVERAL)
def test_every_answer_of_a_device_with_an_idle_processor_says_so(name: str) -> None:
    scenario = Scenario.from_mapping(
        {
            "name": "pim",
            "model": {"name": "mixtral-8x7b"},
            "hardware": {"device": name},
            "parallelism": {"tp": 4},
            "requests": {"kind": "closed_loop", "count": 16, "concurrency": 4},
        }
    )
    (message,) = unused_processors(load_device(name))
    assert message.startswith(f"the pim processor of {name} (")
    assert message in [finding.message for finding in simulator.check(scenario) if finding.level == "warning"]
    assert message in simulator.estimate(scenario).warnings
    assert message in simulator.explain(scenario).warnings
    assert message in simulator.simulate(scenario).warnings
