"""The input form: what every scenario asks. What only some ask is in ``form_serving``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import streamlit as st

from dashboard.catalogue import Catalogue
from dashboard.form import serving as form_serving
from dashboard.form.fields import Fields, options, with_current
from dashboard.state import apply
from dashboard.uploads import offer_upload
from simulator.scenario import Scenario
from simulator.scenario.features import asks
from simulator.scenario.sections import Lengths as LengthsChoice
from simulator.scenario.sections import Requests, Routing, Stack
from simulator.scenario.title import titled_from
from simulator.scenario.unread import unread_keys
from workloads.models.dtypes import DTYPE_BYTES
from workloads.requests.files import read_request_trace
from workloads.routing.files import read_routing_trace

_PREFILL = "disaggregation.prefill"
_STACK_DEFAULT = "the stack's default"


def edit(scenario: Scenario, preset: Scenario, catalogue: Catalogue) -> tuple[Scenario, tuple[str, ...]]:
    """Draw the form; return the scenario that it now describes, and the keys that another choice took away.

    Groups that differ from the preset, or that the scenario makes use of, are open.

    Raises
    ------
    ScenarioError
        The values do not make a scenario.
    """
    fields = Fields(scenario)
    with st.expander("Model and hardware", expanded=True):
        _model_and_hardware(fields, catalogue)
    with st.expander("Parallelism", expanded=True):
        form_serving.split(fields, "parallelism")
        counted = st.container()
    with st.expander("Load", expanded=True):
        _load(fields, catalogue)
    with st.expander("Expert routing", expanded=scenario.routing != preset.routing):
        _routing(fields, catalogue)
    with st.expander("Expert placement", expanded=scenario.placement != preset.placement):
        form_serving.placement(fields)
    with st.expander("Serving stack", expanded=scenario.stack != preset.stack):
        _stack(fields, catalogue)
    with st.expander("Prefill and decode pools", expanded=asks(scenario, "disaggregation")):
        form_serving.pools(fields)
    with counted:  # below the split, but of all pools
        _count_devices(fields, catalogue)
    with st.expander("Prefix cache", expanded=asks(scenario, "prefix_cache")):
        form_serving.prefix_cache(fields)
    with st.expander("Speculative decoding", expanded=asks(scenario, "speculation")):
        form_serving.speculation(fields)
    with st.expander("Faults", expanded=asks(scenario, "faults")):
        form_serving.faults(fields)
    with st.expander("Elastic scaling", expanded=asks(scenario, "elastic")):
        form_serving.elastic(fields, catalogue)
    with st.expander("Objectives and seed", expanded=True):
        _objectives(fields)
    with st.expander("What is measured", expanded=scenario.run != preset.run):
        _measured(fields)
    # Read in any case: a widget may hold what cannot be read.
    data = fields.mapping()
    if not fields.changed:
        return scenario, ()
    edited = titled_from(preset, scenario, Scenario.from_mapping(data, scenario.name))
    lost = _unread(edited) - _unread(scenario)
    kept = apply(edited, dict.fromkeys(lost, "")) if lost else edited
    return kept, tuple(sorted({*lost, *fields.dropped}))


def _unread(scenario: Scenario) -> set[str]:
    sentences = (sentence.partition(" has no effect: ") for sentence in unread_keys(scenario))
    return {key for key, found, _ in sentences if found and not key.startswith("faults.")}


def _model_and_hardware(fields: Fields, catalogue: Catalogue) -> None:
    fields.choice("model.name", "Model", catalogue.models)
    for key, label in (("weights", "Weights"), ("kv_cache", "KV cache")):
        fields.choice(f"model.{key}", label, tuple(DTYPE_BYTES), absent="as the model has it")
    before = fields.get("hardware.device")
    device = fields.choice("hardware.device", "Device", catalogue.devices)
    keep = device == before
    offers = catalogue.offers.get(device, {})
    usual = next(iter(offers.values()), "none is known")
    fields.choice("hardware.price", "Price", tuple(offers), absent=usual, keep=keep, words=partial(_price, offers))
    nodes = catalogue.nodes_of(device)
    node = fields.choice("hardware.node", "Node", nodes, absent="the device's usual node", keep=keep)
    clusters = catalogue.clusters_of(device, node)
    keep = keep and node == fields.before("hardware.node")
    fields.choice("hardware.cluster", "Cluster", clusters, absent="none: one node", keep=keep)


def _price(offers: Mapping[str, str], name: str) -> str:
    return offers.get(name, name)


def _count_devices(fields: Fields, catalogue: Catalogue) -> None:
    per_instance = _devices(fields, "parallelism")
    total = per_instance * fields.get("parallelism.instances")
    node, cluster = fields.get("hardware.node"), fields.get("hardware.cluster")
    node = node or catalogue.cluster_node.get(cluster or "", "")
    text = f"{per_instance} device{'s' * (per_instance > 1)} per instance, {total} in all"
    if fields.get("disaggregation.enabled"):
        prefill = _devices(fields, _PREFILL) * fields.get(f"{_PREFILL}.instances")
        text += f" and {prefill} more for prefill: {total + prefill}"
    text += "."
    if node in catalogue.node_devices:
        held, nodes = catalogue.node_devices[node], catalogue.cluster_nodes.get(cluster or "", 1)
        taken = math.ceil(per_instance / held)
        text += f" A node holds {held}"
        text += "." if taken == nodes == 1 else f"; an instance takes {taken} of {nodes} nodes."
    st.markdown(f":small[{text}]")


def _devices(fields: Fields, section: str) -> int:
    """Count the devices of an instance of a pool."""
    return math.prod(fields.get(f"{section}.{key}") for key in ("tp", "dp", "pp"))


def _load(fields: Fields, catalogue: Catalogue) -> None:
    traces = with_current(catalogue.request_traces, fields.get("requests.trace"))
    kinds = [kind for kind in options(Requests, "kind") if kind != "trace" or traces]
    kind = fields.choice("requests.kind", "Arrivals", kinds)
    if kind == "closed_loop":
        fields.count("requests.concurrency", "Concurrency [requests]", default=32)
    elif kind == "trace":
        above = st.container()
        traces = offer_upload("requests.trace", "Or your own request trace", read_request_trace, traces)
        with above:
            fields.choice("requests.trace", "Request trace", traces, default=traces[0])
        fields.number("requests.rate", "Rescaled to [requests/s]", empty="as recorded")
    else:
        fields.number("requests.rate", "Arrival rate [requests/s]", default=1.0)
    if kind == "gamma":
        fields.number("requests.cv", "Coefficient of variation of the gaps", default=1.0)
    if kind == "diurnal":
        _day(fields)
    if kind != "trace":
        fields.drop("requests.trace")
        _lengths(fields)
    empty = "all of the trace" if kind == "trace" else "10 rounds of a closed loop, or 1,000 requests"
    fields.count("requests.count", "Requests", empty=empty)
    fields.numbers("requests.priorities", "Shares by priority", empty="all alike")


def _day(fields: Fields) -> None:
    fields.quantity("requests.period", "Length of a day [s]", 1.0, default=3600.0)
    fields.numbers("requests.profile", "Relative rates over the day", empty="one swing up and down")
    if not fields.get("requests.profile"):
        fields.number("requests.amplitude", "Swing over mean", least=0.0, highest=0.99, default=0.5)


def _lengths(fields: Fields) -> None:
    kind = fields.choice("requests.lengths.kind", "Lengths", options(LengthsChoice, "kind"))
    which = {"fixed": "", "uniform": ", largest", "lognormal": ", mean"}[kind]
    left, right = st.columns(2)
    with left:
        fields.count("requests.lengths.input", f"Input [tokens]{which}")
    with right:
        fields.count("requests.lengths.output", f"Output [tokens]{which}")
    if kind == "uniform":
        fields.number("requests.lengths.range_ratio", "Smallest over largest", highest=1.0, default=1.0)
    if kind == "lognormal":
        fields.number("requests.lengths.cv", "Standard deviation over mean", default=1.0)


def _routing(fields: Fields, catalogue: Catalogue) -> None:
    traces = with_current(catalogue.routing_traces, fields.get("routing.trace"))
    fits = with_current(catalogue.routing_fits, fields.get("routing.fit"))
    possible = {"trace": traces, "fitted": fits}
    kind = fields.choice(
        "routing.kind", "Routing", [each for each in options(Routing, "kind") if possible.get(each, True)]
    )
    if kind == "trace":
        above = st.container()
        traces = offer_upload("routing.trace", "Or your own routing trace", read_routing_trace, traces)
        with above:
            fields.choice("routing.trace", "Routing trace", traces, default=traces[0])
    else:
        fields.drop("routing.trace")
    if kind == "fitted":
        fields.choice("routing.fit", "Fit", fits, default=fits[0])
        _router(fields)
    else:
        fields.drop("routing.fit", "routing.router")
    if kind in ("zipf", "power_law"):
        fields.number("routing.skew", "Skew (exponent)", least=0.0, default=0.5)
    if kind == "dirichlet":
        fields.number("routing.alpha", "Concentration", default=1.0)
    fields.number("routing.capacity_factor", "Capacity factor [mean loads]", empty="dropless")
    if fields.get("routing.capacity_factor") is not None:
        fields.count("routing.capacity_batch", "Tokens that share a capacity")


def _router(fields: Fields) -> None:
    router = fields.choice("routing.router", "Router", options(Routing, "router"), absent="the largest top_k logits")
    if router == "group_limited":
        left, right = st.columns(2)
        with left:
            fields.count("routing.groups", "Groups of experts")
        with right:
            fields.count("routing.top_k_groups", "Groups per token")
    if router == "top_p":
        fields.number("routing.top_p", "Probability to cover", highest=1.0, default=0.5)


def _stack(fields: Fields, catalogue: Catalogue) -> None:
    fields.choice("stack.name", "Stack", catalogue.stacks)
    for key, label in (("scheduler", "Batching"), ("exchange", "Token exchange"), ("overlap", "Overlap")):
        fields.choice(f"stack.{key}", label, options(Stack, key), absent=_STACK_DEFAULT)
    if fields.get("stack.scheduler") == "expert_aware":
        form_serving.offload(fields, catalogue)
    for key, label in (("token_budget", "Tokens per step and rank"), ("max_running", "Running requests per rank")):
        fields.count(f"stack.{key}", label, empty=_STACK_DEFAULT)
    fields.number("stack.memory_fraction", "Share of device memory", highest=1.0, empty=_STACK_DEFAULT)
    fields.quantity("stack.cpu_gap", "Host time between steps [ms]", 1e3, empty=_STACK_DEFAULT)
    fields.choice("stack.balancer", "Load balancer", options(Stack, "balancer"))
    fields.choice("stack.preemption", "Preempted KV caches", options(Stack, "preemption"))


def _objectives(fields: Fields) -> None:
    for key in ("ttft", "tpot", "e2el"):
        fields.quantity(f"slo.{key}", f"{key.upper()} SLO [ms]", 1e3, empty="no limit")
    fields.count("seed", "Seed", least=0)


def _measured(fields: Fields) -> None:
    steady = "all before the steady state"
    fields.count("run.warmup_requests", "First requests left out", least=0, empty=steady)
    tail = {True: "counted", False: "left out"}
    fields.choice(
        "run.drain", "After the last arrival", tuple(tail), absent="its time is left out", words=tail.__getitem__
    )
