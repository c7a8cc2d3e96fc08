"""Random scenarios that may well run, and what must hold of whatever comes of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from hypothesis import strategies as st

from simulator import Scenario, check, estimate, explain, simulate
from simulator.errors import MoesimError
from simulator.explanation.explanation import timeline
from simulator.hardware import load_hardware
from simulator.results.values import Result, Summary
from tests.fuzz.hostile import Draw

#: Small models of every kind of attention and of experts, quick to price; a long run takes all.
MODELS = ("gpt-oss-20b", "qwen3-30b-a3b", "mixtral-8x7b", "deepseek-v2-lite", "deepseekmoe-16b", "llama-3.1-8b")
DEVICES = ("h100-sxm", "h200-sxm", "a100-sxm", "b200-sxm", "h20", "ascend-910b", "ascend-910c", "c550")
#: Rounding of sums of many steps.
_SLACK = 1e-6


def _section(draw: Draw, **choices: Any) -> dict[str, Any]:
    """Draw a value for some of the keys of a section; none for the others."""
    return {key: draw(st.sampled_from(values)) for key, values in choices.items() if draw(st.booleans())}


def _split(draw: Draw) -> dict[str, Any]:
    tp, dp, pp = draw(
        st.sampled_from(
            (
                (1, 1, 1),
                (1, 2, 1),
                (2, 1, 1),
                (1, 4, 1),
                (2, 2, 1),
                (4, 1, 1),
                (1, 1, 2),
                (2, 1, 2),
                (1, 8, 1),
                (8, 1, 1),
            )
        )
    )
    ep = draw(st.sampled_from([n for n in (1, 2, 4, 8) if tp * dp % n == 0] + [tp * dp]))
    return {"tp": tp, "dp": dp, "pp": pp, "ep": ep, "instances": draw(st.sampled_from((1, 1, 1, 2, 3)))}


def _requests(draw: Draw) -> dict[str, Any]:
    kind = draw(st.sampled_from(("closed_loop", "poisson", "constant", "gamma", "diurnal", "hashed")))
    if kind == "hashed":
        return {"kind": "trace", "trace": "sample:mooncake_like.jsonl", "count": draw(st.sampled_from((1, 6, 20)))}
    lengths = {
        "kind": draw(st.sampled_from(("fixed", "uniform", "lognormal"))),
        "input": draw(st.sampled_from((1, 16, 200, 1500))),
        "output": draw(st.sampled_from((1, 2, 16, 40))),
        **_section(draw, range_ratio=(0.1, 0.5), cv=(0.3, 2.0)),
    }
    load: dict[str, Any] = {"kind": kind, "count": draw(st.sampled_from((1, 5, 12, 24))), "lengths": lengths}
    if kind == "closed_loop":
        load["concurrency"] = draw(st.sampled_from((1, 4, 16, 40)))
    else:
        load["rate"] = draw(st.sampled_from((0.2, 5.0, 100.0)))
    return load | _section(draw, priorities=((0.3, 0.7), (1.0,)))


def _routing(draw: Draw) -> dict[str, Any]:
    kinds = ("balanced", "uniform", "zipf", "dirichlet", "power_law", "domain", "sticky", "drifting", "fitted")
    kind = draw(st.sampled_from(kinds))
    routing: dict[str, Any] = {"kind": kind, "tokens": draw(st.sampled_from((1, 32, 256)))}
    if kind == "fitted":
        routing["fit"] = "sample:fit_gpt_oss_20b.toml"
        routing |= _section(draw, router=("softmax_top_k", "sigmoid_with_bias", "top_p"), top_p=(0.05, 0.5, 1.0))
    routing |= _section(draw, capacity_factor=(0.5, 1.0, 4.0), capacity_batch=(1, 16, 64))
    return routing | _section(draw, skew=(0.0, 0.5, 1.2, 4.0), alpha=(0.02, 1.0, 50.0))


def _features(draw: Draw, dp: int) -> dict[str, Any]:
    """Draw few features of serving, each with its keys."""
    found: dict[str, Any] = {}
    for name in draw(
        st.sets(st.sampled_from(("drafts", "cache", "pools", "elastic", "faults", "rebalance")), max_size=2)
    ):
        match name:
            case "drafts":
                found["speculation"] = {
                    "draft_tokens": draw(st.sampled_from((1, 3))),
                    "acceptance": draw(st.sampled_from(([0.0], [0.7, 0.5], [1.0]))),
                    **_section(draw, draft=("none", "mtp")),
                }
            case "cache":
                found["prefix_cache"] = {"kind": draw(st.sampled_from(("instance", "shared")))}
            case "pools":
                found["disaggregation"] = {"enabled": True, "prefill": _split(draw), **_section(draw, overlap=(False,))}
            case "elastic":
                mechanisms = ("cold_restart", "horizontal", "vertical_new", "colocated", "elastic", "ideal")
                policy = draw(st.sampled_from(("schedule", "schedule", "queue", "slo", "utilisation", "predictive")))
                found["elastic"] = {
                    "mechanism": draw(st.sampled_from(mechanisms)),
                    "policy": policy,
                    "max_size": draw(st.sampled_from((dp, 2 * dp, 4 * dp))),
                    **(
                        {"events": [{"at": "0.2 s", "size": draw(st.sampled_from((1, dp, 2 * dp)))}]}
                        if policy == "schedule"
                        else {}
                    ),
                    **_section(draw, handover=("ready",), step=(1, 2), interval=("1 s",)),
                }
                found["slo"] = {"ttft": "1 s", "tpot": "50 ms"}
            case "faults":
                found["faults"] = [
                    {
                        "at": draw(st.sampled_from(("0 s", "0.1 s"))),
                        "kind": draw(st.sampled_from(("rank", "node", "instance", "nic"))),
                        **draw(
                            st.sampled_from(
                                ({"slowdown": 3.0, "lasts": "0.5 s"}, {"restart": "1 s", "detection": "0.1 s"})
                            )
                        ),
                    }
                ]
            case _:
                found["placement"] = {"rebalance": {"every_steps": draw(st.sampled_from((1, 7)))}}
    return found


def scenarios(draw: Draw, models: tuple[str, ...] = MODELS) -> dict[str, Any]:
    """Draw a scenario that may well run."""
    split = _split(draw)
    found = _features(draw, split["dp"])
    policies = ("linear", "random", "balanced", "lpt", "eplb", "eplb_global", "refined", "affinity")
    placement = found.get("placement", {}) | _section(
        draw, policy=policies, redundant_slots=(0, 4, 8), replica_routing=("local", "least_loaded")
    )
    exchanges = ("all_to_all", "all_gather", "deepep", "all_to_all_2d", "one_sided")
    stack = {
        "name": draw(st.sampled_from(("sglang", "vllm", "trtllm"))),
        **_section(
            draw,
            scheduler=("mixed", "prefill_first"),
            token_budget=(64, 512, 16384),
            max_running=(1, 2, 64),
            exchange=exchanges,
            overlap=("none", "shared_expert", "two_batch", "auto"),
            balancer=("round_robin", "power_of_two", "cache_aware"),
            preemption=("swap",),
        ),
    }
    return {
        "seed": draw(st.integers(0, 3)),
        "model": {
            "name": draw(st.sampled_from(models)),
            **_section(draw, weights=("bfloat16", "fp8", "int4"), kv_cache=("fp8",)),
        },
        "hardware": {"device": draw(st.sampled_from(DEVICES))},
        "parallelism": split,
        "requests": _requests(draw),
        "routing": _routing(draw),
        "run": _section(draw, warmup_requests=(1, 30), drain=(False,)),
        "stack": stack,
        **found,
        "placement": placement,
    }


def _outcome(ask: Callable[[], Any]) -> tuple[Any, str]:
    """Return an answer, or the message of a refusal."""
    try:
        return ask(), ""
    except MoesimError as error:
        return None, str(error)


def violations(document: dict[str, Any]) -> Iterator[str]:
    """Yield what must not be of a scenario: commands that disagree, and figures that cannot be."""
    try:
        scenario = Scenario.from_mapping(document)
    except MoesimError:
        return
    findings, refused = _outcome(lambda: check(scenario))
    if refused:
        yield f"check raises: {refused}"
        return
    errors = [each.message for each in findings if each.level == "error"]
    result, refusal = _outcome(lambda: simulate(scenario))
    # What a server refuses, simulate can still play.
    ours = [each for each in errors if " refuses this: " not in each]
    if ours and result is not None:
        yield f"check refuses what simulate runs: {ours[0]}"
    if not errors and refusal and not scenario.faults:
        yield f"check passes what simulate refuses: {refusal}"
    if result is not None:
        yield from _impossible(result, scenario)
    if errors:
        return
    for phase in ("prefill", "decode"):
        explanation, refusal = _outcome(lambda phase=phase: explain(scenario, phase=phase))  # type: ignore[misc]
        if refusal:
            yield f"check passes what explain refuses ({phase}): {refusal}"
        else:
            yield from _beyond_memory(explanation, scenario, phase)
        _, refusal = _outcome(lambda phase=phase: timeline(scenario, phase=phase))  # type: ignore[misc]
        if refusal:
            yield f"check passes what timeline refuses ({phase}): {refusal}"
    estimated, refusal = _outcome(lambda: estimate(scenario))
    if refusal and "use simulate" not in refusal:
        yield f"check passes what estimate refuses: {refusal}"
    if estimated is not None:
        yield from (f"estimate: {wrong}" for wrong in _impossible_figures(estimated.summary, overloaded=True))


def _impossible(result: Result, scenario: Scenario) -> Iterator[str]:
    """Yield what cannot be of a run: times out of order, tokens lost, more than the hardware does."""
    yield from (f"simulate: {wrong}" for wrong in _impossible_figures(result.summary))
    requests = result.requests
    times = requests[["arrival_s", "admitted_s", "first_token_s", "finish_s"]].to_numpy()
    answered = np.isfinite(times).all(axis=1)
    if not answered.all() and not scenario.faults:
        yield f"simulate: {int((~answered).sum())} requests without times"
    if (np.diff(times[answered], axis=1) < 0.0).any():
        yield "simulate: times of a request are out of order"
    calm = not requests["retries"].sum() and not requests["preemptions"].sum()
    if calm and scenario.run.drain and not scenario.faults and scenario.elastic.mechanism == "none":
        steps = result.steps
        computed = int((requests["input_tokens"] - requests["cached_tokens"]).sum())
        if steps["prefill_tokens"].sum() != computed:
            yield f"simulate: {steps['prefill_tokens'].sum()} prompt tokens computed, {computed} asked"
        if (
            not scenario.speculation.draft_tokens
            and steps["decode_tokens"].sum() != (requests["output_tokens"] - 1).sum()
        ):
            yield "simulate: tokens of answers are not those asked"


def _impossible_figures(summary: Summary, *, overloaded: bool = False) -> Iterator[str]:
    for name in ("mfu", "mbu", "kv_use_mean", "kv_use_max"):
        value = float(getattr(summary, name))
        if value > 1.0 + _SLACK or value < 0.0:
            yield f"{name} is {value:g}"
    for name in ("output_tokens_per_s_per_gpu", "total_tokens_per_s_per_gpu", "request_throughput_rps"):
        value = float(getattr(summary, name))
        if not (math.isfinite(value) and value > 0.0):
            yield f"{name} is {value:g}"
    for name in ("ttft_s", "e2el_s"):
        value = float(getattr(summary, name).mean)
        # An overloaded queue grows without end: a closed form has no mean of its waiting.
        if value < 0.0 or math.isinf(value) or (math.isnan(value) and not overloaded):
            yield f"{name} is {value:g}"


def _beyond_memory(explanation: Any, scenario: Scenario, phase: str) -> Iterator[str]:
    """Yield ops that move or compute more than the device can in their time."""
    device = load_hardware(scenario.hardware.device, None, None, None, devices=1).device
    fastest = device.main.memory_bandwidth.value
    ops = explanation.ops[explanation.ops["time_s"] > 0]
    rates = ops["bytes"] / ops["time_s"]
    if len(rates) and rates.max() > fastest * (1 + _SLACK):
        row = ops.loc[rates.idxmax()]
        yield f"explain ({phase}): {row['name']} reads {rates.max() / fastest:.3g} of the bandwidth"
    work = ops["flops"] / ops["time_s"]
    most = max(peak.value for peak in device.main.peak.values())
    if len(work) and work.max() > most * (1 + _SLACK):
        yield f"explain ({phase}): {ops.loc[work.idxmax(), 'name']} computes {work.max() / most:.3g} of the peak"
