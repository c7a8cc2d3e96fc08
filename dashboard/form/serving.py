"""What only some scenarios ask: placement, pools of prompts, prefix caches, drafts, faults and scaling."""

from __future__ import annotations

import streamlit as st

from dashboard.catalogue import Catalogue
from dashboard.form.fields import Fields, options
from simulator.scenario.sections import (
    ElasticChoice,
    Fault,
    Offload,
    PlacementChoice,
    PrefixCache,
    Rebalance,
    ScalingEvent,
    Speculation,
)
from simulator.step.speculation import tokens_per_step

_SPLIT = (("tp", "Tensor (TP)"), ("dp", "Data (DP)"), ("pp", "Pipeline (PP)"), ("ep", "Expert (EP)"))
#: Where a new fault, and a new size, begin [s].
_FAULT_AT, _CHANGE_AT = "10 s", "30 s"


def split(fields: Fields, section: str) -> None:
    """Draw how instances are split."""
    left, right = st.columns(2)
    for index, (key, label) in enumerate(_SPLIT):
        with right if index % 2 else left:
            fields.count(f"{section}.{key}", label)
    fields.count(f"{section}.instances", "Instances")


def placement(fields: Fields) -> None:
    """Draw which expert sits on which rank, and whether that changes."""
    fields.choice("placement.policy", "Policy", options(PlacementChoice, "policy"))
    fields.count("placement.redundant_slots", "Redundant expert slots per layer", least=0)
    if fields.get("placement.redundant_slots"):
        fields.choice("placement.replica_routing", "Replica of a token", options(PlacementChoice, "replica_routing"))
    key = "placement.rebalance"
    fields.quantity(f"{key}.every", "Rebalance every [s]", 1.0, empty="never")
    if fields.get(f"{key}.every") is None:
        fields.count(f"{key}.every_steps", "Rebalance every [steps]", empty="never")
    else:
        fields.drop(f"{key}.every_steps")
    if fields.get(f"{key}.every") is None and fields.get(f"{key}.every_steps") is None:
        return
    fields.count(f"{key}.window", "Load of the last [tokens]")
    fields.choice(f"{key}.policy", "Policy of new placements", options(Rebalance, "policy"), absent="the same")
    fields.number(f"{key}.least_gain", "Least gain [share of the heaviest load]", least=0.0, highest=0.99, default=0.0)
    if fields.choice(f"{key}.mode", "While experts move", options(Rebalance, "mode")) == "overlap":
        fields.number(f"{key}.bandwidth_share", "Share of the links", highest=0.99, default=0.2)


def pools(fields: Fields) -> None:
    """Draw the pool of instances that compute prompts."""
    if not fields.flag("disaggregation.enabled", "Separate prefill and decode"):
        return
    st.markdown(":small[Prefill instances; those under Parallelism decode.]")
    split(fields, "disaggregation.prefill")
    fields.count("disaggregation.token_budget", "Prefill tokens per step and rank", empty="the stack's")
    fields.flag("disaggregation.overlap", "Send KV caches layer by layer")


def offload(fields: Fields, catalogue: Catalogue) -> None:
    """Draw how steps are made of requests that need the same experts, and which experts the device holds."""
    first = fields.choice("offload.first", "First into a step", options(Offload, "first"))
    if first == "expert":
        fields.choice("offload.opening", "A further expert in a step", options(Offload, "opening"))
        fields.count("offload.patience", "Patience [steps]")
    fields.choice("offload.router", "Router before the step", catalogue.models, absent="takes no time")
    fields.count("offload.resident", "Experts on the device", empty="all")
    if fields.get("offload.resident") is not None:
        fields.flag("offload.lookahead", "Fetch experts a step ahead")


def prefix_cache(fields: Fields) -> None:
    """Draw what is cached of prompts that begin alike."""
    kind = fields.choice("prefix_cache.kind", "Cache", options(PrefixCache, "kind"))
    if kind == "shared":
        fields.quantity("prefix_cache.store", "Shared pool [GB]", 1e-9, unit="B", default=1000.0)


def speculation(fields: Fields) -> None:
    """Draw how many tokens are drafted, and how many of them are accepted."""
    if not fields.count("speculation.draft_tokens", "Draft tokens per step", least=0, highest=64):
        return
    fields.numbers("speculation.acceptance", "Acceptance by position", empty="needed, as in 0.85, 0.7")
    fields.choice("speculation.draft", "Drafted by", options(Speculation, "draft"))
    choice = Speculation(draft_tokens=fields.get("speculation.draft_tokens"), acceptance=_chances(fields))
    if choice.acceptance:
        st.markdown(f":small[{tokens_per_step(choice):.2f} tokens per step and request on average.]")


def _chances(fields: Fields) -> tuple[float, ...]:
    """Return the chances that are given, none where one of them is no chance."""
    given = tuple(fields.get("speculation.acceptance"))
    return given if all(0 <= chance <= 1 for chance in given) else ()


def faults(fields: Fields) -> None:
    """Draw what breaks and when."""
    prompts = fields.get("disaggregation.prefill.instances") if fields.get("disaggregation.enabled") else 0
    instances = fields.get("parallelism.instances") + prompts

    def row(fault: Fields) -> None:
        left, right = st.columns(2)
        with left:
            kind = fault.choice("kind", "What", options(Fault, "kind"))
            if instances > 1 or fault.get("instance"):
                fault.count("instance", "Instance", least=0, highest=instances - 1)
        with right:
            fault.quantity("at", "At [s]", 1.0, zero=True, default=10.0)
            if kind == "instance":
                fault.drop("rank")
            else:
                fault.count("rank", "Rank", least=0)
        if kind == "instance":
            fault.drop("slowdown")
        else:
            fault.number("slowdown", "Slowdown [times as slow]", least=1.01, empty="it fails")
        if fault.get("slowdown") is not None:
            fault.quantity("lasts", "Lasts [s]", 1.0, empty="for good")
            fault.drop("detection", "restart", "retry")
            return
        fault.drop("lasts")
        left, right = st.columns(2)
        with left:
            fault.quantity("detection", "Noticed after [s]", 1.0, zero=True, default=5.0)
        with right:
            fault.quantity("restart", "Restart takes [s]", 1.0, empty="never")
        fault.choice("retry", "Lost requests", options(Fault, "retry"))

    fields.rows("faults", "Faults", "Fault", Fault(at=_FAULT_AT), row)


def elastic(fields: Fields, catalogue: Catalogue) -> None:
    """Draw how, and why, the deployment changes its size."""
    mechanism = fields.choice("elastic.mechanism", "Mechanism", options(ElasticChoice, "mechanism"))
    if mechanism == "none":
        return
    if mechanism == "elastic":
        fields.several("elastic.without", "Without", options(ElasticChoice, "without"))
        fields.choice("elastic.handover", "Hand-over", options(ElasticChoice, "handover"))
    else:
        fields.drop("elastic.without")
    fields.choice("elastic.startup", "Start-up times", catalogue.startups)
    policy = fields.choice("elastic.policy", "Policy", options(ElasticChoice, "policy"))
    if policy == "schedule":
        _events(fields)
        return
    fields.drop("elastic.events")
    left, right = st.columns(2)
    with left:
        fields.count("elastic.min_size", "Smallest [ranks]", empty="as at the start")
        fields.quantity("elastic.interval", "Look every [s]", 1.0, default=5.0)
        fields.quantity("elastic.cooldown_up", "Cooldown, up [s]", 1.0, default=10.0)
    with right:
        fields.count("elastic.max_size", "Largest [ranks]", empty="as at the start")
        fields.quantity("elastic.window", "Judged over [s]", 1.0, default=30.0)
        fields.quantity("elastic.cooldown_down", "Cooldown, down [s]", 1.0, default=60.0)
    fields.count("elastic.step", "Step [ranks]")
    fields.count("elastic.patience", "Looks that must agree")
    fields.number("elastic.target", "Target load per capacity", highest=1.0, default=0.7)
    if policy in ("queue", "slo"):
        what = "Grow above [waiting per rank]" if policy == "queue" else "Grow below [attainment]"
        fields.number("elastic.up", what, empty="4" if policy == "queue" else "0.9")
    else:
        fields.number("elastic.band", "Deviation to tolerate", least=0.0, highest=0.99, default=0.1)
    if policy == "predictive":
        fields.quantity("elastic.lookahead", "Looks ahead [s]", 1.0, default=30.0)


def _events(fields: Fields) -> None:
    def row(event: Fields) -> None:
        left, right = st.columns(2)
        with left:
            event.quantity("at", "At [s]", 1.0, zero=True, default=30.0)
        with right:
            event.count("size", "Size [ranks]")

    size = fields.get("parallelism.dp") * fields.get("parallelism.instances")
    blank = ScalingEvent(at=_CHANGE_AT, size=2 * size)
    fields.rows("elastic.events", "Changes of size", "Change", blank, row)
