"""``moesim exchange``: algorithms that bring tokens to their experts and back, compared on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simulator.cli.answer import answering, print_json
from simulator.cli.scenario_argument import Json, Profiles, Quiet
from simulator.errors import ScenarioError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.arrays import IdArray
    from simulator.hardware import Hardware
    from simulator.kernels.traffic import Traffic
    from simulator.study.exchange import Exchanged, Layer
    from simulator.topology import CompiledTopology

_FIDELITIES = ("closed", "flow")
_ROUTINGS = ("even", "uniform", "zipf")


def exchange(
    device: Annotated[str, typer.Option(metavar="NAME", help="Device: id or alias.")],
    ranks: Annotated[int, typer.Option(min=1, help="Ranks that share the experts.")],
    tokens: Annotated[int, typer.Option(min=1, help="Tokens at home on each rank.")] = 128,
    model: Annotated[str, typer.Option(help="Model whose MoE layer it is.")] = "deepseek-v3",
    algorithm: Annotated[
        list[str] | None, typer.Option(metavar="NAME,...", help="Algorithms to compare; all that fit where absent.")
    ] = None,
    fidelity: Annotated[
        str, typer.Option(metavar="closed|flow", help="Closed form alone, or also messages that share links.")
    ] = "closed",
    routing: Annotated[
        str,
        typer.Option(
            metavar="even|uniform|zipf|TRACE",
            help="Expectation of an even router, random choices, or a recorded trace ('sample:NAME').",
        ),
    ] = "even",
    skew: Annotated[
        float | None, typer.Option(min=0.0, max=100.0, help="Exponent of the zipf routing; 0.5 where absent.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(min=0, help="MoE layer of a recorded trace; the first where absent.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Format of dispatched tokens.")] = "fp8",
    expert_shards: Annotated[int, typer.Option(min=1, help="Ranks that share each expert (tensor parallelism).")] = 1,
    slow_link: Annotated[
        list[str] | None,
        typer.Option(metavar="LINK=FACTOR", help="With flow: a slower link, as 'node0/nic3 -> leaf0.3=0.25'."),
    ] = None,
    oversubscription: Annotated[
        float | None, typer.Option(min=1.0, max=1000.0, help="Capacity down over capacity up at the leaf switches.")
    ] = None,
    node: Annotated[str | None, typer.Option(help="Node profile; the device's usual node where absent.")] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Cluster profile; one that joins such nodes where absent.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of random choices.")] = 0,
    profiles: Profiles = None,
    as_json: Json = False,
    no_progress: Quiet = False,
) -> None:
    """Compare ways to bring tokens to their experts and back, in closed form or with messages that share links."""
    with answering(as_json=as_json):
        from simulator.cli.progress import progress_bar
        from simulator.study.exchange import compare_exchanges

        if fidelity not in _FIDELITIES:
            raise ScenarioError(f"--fidelity {fidelity}: {nearest(fidelity, _FIDELITIES)}")
        if slow_link and fidelity != "flow":
            raise ScenarioError("--slow-link: the closed form knows no single links; add --fidelity flow")
        if skew is not None and routing != "zipf":
            raise ScenarioError(f"--skew: only --routing zipf reads it, got --routing {routing}")
        if layer is not None and routing in ("even", *_ROUTINGS):
            raise ScenarioError(f"--layer: only a recorded trace has layers, got --routing {routing}")
        hardware = _hardware(device, node, cluster, ranks, oversubscription, profiles)
        moe = _layer(model)
        traffic = _traffic(moe, routing, tokens, ranks, hardware.fabric.domain, expert_shards, skew, layer or 0, seed)
        with progress_bar("sending messages", enabled=fidelity == "flow" and not no_progress) as progress:
            rows = compare_exchanges(
                hardware,
                moe,
                traffic,
                algorithms=algorithm or (),
                dispatch_dtype=dtype,
                expert_shards=expert_shards,
                fidelity="flow" if fidelity == "flow" else "closed",
                change=_slowed(slow_link or []),
                progress=progress,
            )
        imbalance = traffic(False).imbalance
        if as_json:
            print_json(
                {
                    "device": hardware.device.id,
                    "node": hardware.node.id,
                    "cluster": hardware.cluster.id if hardware.cluster else None,
                    "evidence": hardware.evidence,
                    "ranks": ranks,
                    "tokens_per_rank": tokens,
                    "rank_imbalance": imbalance,
                    "exchanges": [row.document() for row in rows],
                    "verdict": verdict(rows),
                    "caveats": caveats(rows),
                }
            )
            return
        _print(
            hardware, rows, f"{ranks} ranks, {tokens} tokens each, {model}, rank imbalance {imbalance:.2f}", fidelity
        )


def _hardware(
    device: str,
    node: str | None,
    cluster: str | None,
    ranks: int,
    oversubscription: float | None,
    profiles: Path | None,
) -> Hardware:
    """Take as many nodes as the ranks fill."""
    from dataclasses import replace

    from simulator.hardware import fabric_of, load_hardware
    from simulator.kernels.traffic import domains_of

    alone = load_hardware(device, node, cluster, profiles)
    nodes = domains_of(ranks, alone.fabric.domain)
    hardware = load_hardware(device, alone.node.id if nodes > 1 else node, cluster, profiles, nodes=nodes)
    if nodes == 1 and cluster is None:
        hardware = _joined(hardware, profiles)
    if oversubscription is None:
        return hardware
    if hardware.cluster is None:
        raise ScenarioError(
            f"--oversubscription: {ranks} ranks of {hardware.device.id} sit in one node; no leaf switch"
        )
    narrow = replace(hardware.cluster.oversubscription, value=oversubscription, status="assumption")
    joined = replace(hardware.cluster, oversubscription=narrow)
    return replace(hardware, cluster=joined, fabric=fabric_of(hardware.device, hardware.node, joined))


def _joined(hardware: Hardware, profiles: Path | None) -> Hardware:
    """Give a single node the NICs of a cluster that holds such nodes, where there is one: pure RDMA needs them."""
    from simulator.errors import ProfileError
    from simulator.hardware import load_hardware

    try:
        several = load_hardware(hardware.device.id, hardware.node.id, None, profiles, nodes=2)
    except ProfileError:
        return hardware
    return several


def _layer(model: str) -> Layer:
    from simulator.study.exchange import Layer
    from workloads.models.library import load_model

    spec = load_model(model)
    moe = next(iter(spec.moe_layers), None)
    if moe is None:
        raise ScenarioError(f"--model {model}: has no experts, so that nothing is exchanged; name an MoE model")
    limited = moe.top_k_groups if moe.num_groups > 1 else None
    return Layer(hidden=spec.hidden, top_k=moe.top_k, num_experts=moe.num_experts, max_nodes=limited)


def _traffic(
    moe: Layer,
    routing: str,
    tokens: int,
    ranks: int,
    domain: int,
    expert_shards: int,
    skew: float | None,
    layer: int,
    seed: int,
) -> Callable[[bool], Traffic]:
    from simulator.study.exchange import expected_traffic, routed_traffic

    if routing == "even":
        return lambda coordinated: expected_traffic(
            tokens, moe, ranks=ranks, domain=domain, expert_shards=expert_shards, coordinated=coordinated
        )
    if routing in _ROUTINGS:
        exponent = 0.0 if routing == "uniform" else 0.5 if skew is None else skew
        ids, experts = _drawn(moe, tokens * ranks, exponent, seed), moe.num_experts
    else:
        ids, experts = _recorded(routing, tokens * ranks, layer)
    return lambda coordinated: routed_traffic(
        ids, num_experts=experts, ranks=ranks, domain=domain, expert_shards=expert_shards, coordinated=coordinated
    )


def _drawn(moe: Layer, tokens: int, skew: float, seed: int) -> IdArray:
    """Draw different experts per token, popular ones more often: the top k of log weights plus Gumbel noise."""
    import numpy as np

    generator = np.random.default_rng(np.random.SeedSequence(seed))
    weights = np.log(np.arange(1, moe.num_experts + 1.0)) * -skew
    weights = weights[generator.permutation(moe.num_experts)]
    chosen = []
    for start in range(0, tokens, 4096):
        score = weights + generator.gumbel(size=(min(4096, tokens - start), moe.num_experts))
        chosen.append(np.argpartition(-score, moe.top_k - 1, axis=1)[:, : moe.top_k])
    return np.concatenate(chosen)


def _recorded(routing: str, tokens: int, layer: int) -> tuple[IdArray, int]:
    """Take the first tokens of a trace at one layer, from its start again where it has fewer."""
    import numpy as np

    from simulator.cli.answer import say
    from simulator.cli.routing import read_trace

    trace = read_trace(routing, None)
    ids = np.asarray(trace.expert_ids)
    if layer >= ids.shape[1]:
        raise ScenarioError(f"--layer {layer}: the trace has the layers 0 to {ids.shape[1] - 1}")
    if len(ids) < tokens:
        say(f"note: the trace has {len(ids):,} tokens and {tokens:,} are needed; it repeats")
    return ids[np.arange(tokens) % len(ids), layer], int(trace.num_experts)


def _slowed(links: list[str]) -> Callable[[CompiledTopology], CompiledTopology]:
    parsed = []
    for text in links:
        name, separator, factor = text.rpartition("=")
        try:
            parsed.append((name, float(factor)))
        except ValueError:
            separator = ""
        if not separator:
            raise ScenarioError(f"--slow-link {text!r}: expected LINK=FACTOR, as in 'node0/nic3 -> leaf0.3=0.25'")

    def change(topology: CompiledTopology) -> CompiledTopology:
        for name, factor in parsed:
            topology = topology.changed_link(name, factor)
        return topology

    return change


def _print(hardware: Hardware, rows: tuple[Exchanged, ...], title: str, fidelity: str) -> None:
    from simulator.cli.console import console, number, print_next, seconds, table
    from simulator.cli.tables import print_table
    from simulator.hardware import evidence_words

    text = console()
    where = f"{hardware.device.name}, {hardware.node.name}"
    text.print(where + (f", {hardware.cluster.name}" if hardware.cluster else ""))
    times = ("time",) if fidelity == "closed" else ("closed", "flow", "flow / closed")
    parts = ("scale_up", "scale_out", "units", "latency")
    grid = table("algorithm", "phase", *times, "bound by", *parts, "SMs", title=title, right=(*times, *parts, "SMs"))
    for row in rows:
        shown: list[Any] = [seconds(row.closed)]
        if row.flow is not None:
            shown += [seconds(row.flow), f"{row.flow / row.closed:.2f}" if row.closed > 0 else "-"]
        terms = [seconds(row.terms[part]) if part in row.terms else "-" for part in parts]
        grid.add_row(row.algorithm, row.phase, *shown, row.bound, *terms, number(row.units) if row.units > 1 else "-")
    print_table(text, grid, ("latency", "units", "SMs", "scale_up", "scale_out", "bound by"))
    text.print(
        "scale_up, scale_out: bytes inside a node and between nodes; units: SMs that pack and send them; "
        "latency: launch and hops",
        style="dim",
    )
    text.print(verdict(rows), soft_wrap=True)
    for caveat in caveats(rows):
        text.print(caveat, soft_wrap=True)
    if hardware.evidence != "own":
        text.print(f"{hardware.device.id} runs on {evidence_words(hardware.evidence)}")
    if fidelity == "closed":
        print_next(text, "the same with --fidelity flow, to see what shared links change")


def verdict(rows: tuple[Exchanged, ...]) -> str:
    """Say which way is fastest for both phases, and where the next one loses."""
    from simulator.cli.console import seconds

    names = sorted(dict.fromkeys(row.algorithm for row in rows), key=lambda name: _both(rows, name))
    said = f"fastest for both ways: {names[0]}, {seconds(_both(rows, names[0]))}"
    if len(names) == 1:
        return said
    terms = {term for row in rows for term in row.terms}
    lost = {term: _term(rows, names[1], term) - _term(rows, names[0], term) for term in terms}
    why = max(sorted(lost), key=lost.__getitem__)
    said += f"; next is {names[1]}, {seconds(_both(rows, names[1]))}"
    return f"{said}, which needs {seconds(lost[why])} more for {why}" if lost[why] > 0.0 else said


def caveats(rows: tuple[Exchanged, ...]) -> list[str]:
    """Say where the fastest way is one that stacks do not use in decode steps."""
    from simulator.cli.console import seconds
    from simulator.exchange import EXCHANGES

    names = {row.algorithm for row in rows}
    best = min(names, key=lambda name: _both(rows, name))
    return [
        f"in decode steps {name} runs {decode} instead ({seconds(_both(rows, decode))} here): with {best} the host "
        "waits to learn how many tokens come, which no CUDA graph can hold, and that wait is not in these times"
        for name, exchange in EXCHANGES.items()
        if best in exchange.modes.values() and (decode := exchange.modes.get("decode", "")) not in ("", best)
        if decode in names
    ]


def _term(rows: tuple[Exchanged, ...], name: str, term: str) -> float:
    return sum(row.terms.get(term, 0.0) for row in rows if row.algorithm == name)


def _both(rows: tuple[Exchanged, ...], name: str) -> float:
    return sum(row.closed if row.flow is None else row.flow for row in rows if row.algorithm == name)
