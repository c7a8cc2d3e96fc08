"""``moesim place``: what placements of experts are worth in step time, on routing that they have not seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simulator.cli.answer import answering, print_json, say
from simulator.cli.lists import whole_numbers
from simulator.cli.scenario_argument import Json, Profiles, Quiet, Set, load_scenario
from simulator.errors import InfeasibleScenario, OutputError, ScenarioError, WorkloadError, nearest

if TYPE_CHECKING:
    from simulator.scenario import Scenario
    from simulator.study.placement import PlacementStudy, StudyOptions
    from workloads.routing.trace import RoutingTrace

#: What ``--out`` can write.
_PICTURES = (".svg", ".html")
#: Tokens that are drawn from a table of loads, at least [tokens].
_TOKENS = 32_768


def place(
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="Scenario file (TOML), or the name of a preset.")
    ] = None,
    routing: Annotated[
        str | None,
        typer.Option(metavar="TRACE", help="Routing trace to place by, or 'sample:NAME', instead of the scenario's."),
    ] = None,
    loads: Annotated[
        str | None,
        typer.Option(
            metavar="TABLE", help="Expert loads to place by, as EPLB, SGLang or vLLM record them, instead of a trace."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model; without a scenario, the one that the trace fits, where only one does.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Device; the scenario's where absent.")] = None,
    ep: Annotated[
        list[str] | None,
        typer.Option(metavar="N,...", help="Expert-parallel ranks to try; the scenario's where absent."),
    ] = None,
    redundant: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Redundant slots on each rank; the scenario's where absent.")
    ] = None,
    policies: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME,...", help="Policies to compare; gains are over the first. All where absent."),
    ] = None,
    prefill: Annotated[bool, typer.Option("--prefill", help="Price prefill steps instead of decode steps.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Tokens of a step on each rank.")] = 64,
    context: Annotated[int, typer.Option(min=1, help="Tokens that a sequence has.")] = 1024,
    seen: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Share of the trace that placements are computed from.")
    ] = 0.5,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Hold out sequences from all over the trace, not the later ones.")
    ] = False,
    windows: Annotated[int, typer.Option(min=1, help="Steps to price on what is held out.")] = 16,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the load of ranks before and after: .svg or .html.")
    ] = None,
    overrides: Set = None,
    profiles: Profiles = None,
    as_json: Json = False,
    no_progress: Quiet = False,
) -> None:
    """Compare placements of experts: balance and step time on routing that they were not computed from."""
    with answering(as_json=as_json):
        from hardware_profiles.outputs import check_output_file, write_file
        from simulator.cli.place_picture import page, picture
        from simulator.cli.place_text import document, print_study
        from simulator.study.placement import StudyOptions

        if out is not None and out.suffix not in _PICTURES:
            raise OutputError(f"--out {out}: a picture is {' or '.join(_PICTURES)}")
        if out is not None:
            check_output_file(out, OutputError)
        options = StudyOptions(
            policies=_policies(policies),
            phase="prefill" if prefill else "decode",
            batch=batch,
            context=context,
            seen=seen,
            mixed=mixed,
            windows=windows,
        )
        if routing is not None and loads is not None:
            raise ScenarioError("place: --routing and --loads both say what to place by; give one of them")
        scenario = _scenario(file, routing, loads, model, device, overrides or [], profiles)
        degrees = whole_numbers("--ep", ep, 2) if ep else [scenario.parallelism.ep]
        wanted = [_on_ranks(scenario, ranks, redundant) for ranks in degrees]
        trace = None if loads is None else _drawn(loads, scenario, batch * max(degrees))
        studies = _studies(wanted, options, trace, shown=not no_progress and not as_json)
        if out is not None:
            write_file(out, page(studies) if out.suffix == ".html" else picture(studies), OutputError)
        if as_json:
            print_json(document(scenario, options, studies))
            return
        from simulator.cli.console import console, print_next

        text = console()
        for study in studies:
            print_study(text, scenario, options, study)
        if out is not None:
            text.print(f"written to {out}")
        else:
            print_next(text, "the same with --out placement.html, for the load of every rank at every layer")


def _studies(
    wanted: list[Scenario], options: StudyOptions, trace: RoutingTrace | None, *, shown: bool
) -> list[PlacementStudy]:
    """Study every split, and say where a step is longer than what is held out."""
    from simulator.cli.progress import progress_bar
    from simulator.study.placement import study_placements

    studies = []
    with progress_bar("placing", enabled=shown) as progress:
        for done, each in enumerate(wanted):
            report = None if progress is None else (lambda share, d=done: progress((d + share) / len(wanted)))
            studies.append(study_placements(each, options, report, trace))
    for study in studies:
        step = options.batch * study.ranks
        if step > study.later_tokens:
            say(
                f"note: a step of {step:,} tokens (--batch) on EP {study.ranks} is longer than the "
                f"{study.later_tokens:,} tokens held out; they repeat"
            )
    return studies


def _policies(names: list[str] | None) -> tuple[str, ...]:
    from simulator.placement import POLICIES

    if not names:
        return tuple(name for name in POLICIES if name != "lpt")
    for name in names:
        if name not in POLICIES:
            raise ScenarioError(f"--policies: unknown policy {name!r}; {nearest(name, POLICIES)}")
    return tuple(names)


def _scenario(
    file: str | None,
    routing: str | None,
    loads: str | None,
    model: str | None,
    device: str | None,
    overrides: list[str],
    profiles: Path | None,
) -> Scenario:
    """Read the scenario, or make one of a trace and a device."""
    from simulator.scenario import Scenario

    given: list[str] = []
    if routing is not None:
        given += ["routing.kind=trace", f'routing.trace="{routing}"']
    if file is not None:
        given += [] if model is None else [f'model.name="{model}"']
        return load_scenario(file, [*overrides, *given], device, profiles)
    table = routing or loads
    if table is None or device is None:
        raise ScenarioError("place: name a scenario, or give --routing TRACE or --loads TABLE and --device NAME")
    data: dict[str, Any] = {
        "name": f"placing {Path(table).name}",
        "model": {"name": model or (_fitting_model(table) if routing else _model_of_loads(table))},
        "hardware": {"device": device, **({} if profiles is None else {"profiles": str(profiles)})},
    }
    return Scenario.from_mapping(data, "place").override(*given, *overrides)


def _fitting_model(routing: str) -> str:
    """Name the only model of the catalogue that a trace fits."""
    from workloads.routing.files import read_routing_trace
    from workloads.samples import sample_path

    name = routing.removeprefix("sample:")
    trace = read_routing_trace(sample_path(name) if name != routing else Path(routing))
    shape = f"{trace.layers} MoE layers of {trace.num_experts} experts, top-{trace.top_k}"
    return _only(_models_of(trace.layers, trace.num_experts, trace.top_k), f"{routing}: {shape}")


def _model_of_loads(loads: str) -> str:
    """Name the only model of the catalogue that a table of loads fits."""
    from workloads.routing.loads import read_expert_loads

    table = read_expert_loads(loads)
    shape = f"{table.layers} MoE layers of {table.num_experts} experts"
    return _only(_models_of(table.layers, table.num_experts, None), f"{loads}: {shape}")


def _only(found: list[str], shape: str) -> str:
    if len(found) != 1:
        which = ", ".join(found[:8]) or "none"
        raise WorkloadError(f"{shape}, fit {which} of the catalogue; name the model with --model")
    return found[0]


def _drawn(loads: str, scenario: Scenario, step: int) -> RoutingTrace:
    """Draw routing with the loads of a table, long enough that what is held out has several steps of so many tokens."""
    from simulator.deployment.inputs import scenario_model
    from workloads.routing.loads import read_expert_loads, routing_of_loads

    table = read_expert_loads(loads)
    model = scenario_model(scenario.model)
    if model.moe is None:
        raise InfeasibleScenario(f"{model.name} has no experts to place")
    windows = len(table.counts)
    held = "the later windows are held out" if windows > 1 else "what is held out has the same loads, without drift"
    say(f"note: {loads} says how often experts were chosen, not by which token: each choice is drawn by itself; {held}")
    return routing_of_loads(table, model.moe.top_k, min(max(_TOKENS, 8 * step), 4 * _TOKENS), scenario.seed)


def _models_of(layers: int, experts: int, top_k: int | None) -> list[str]:
    """Name the models of the catalogue with such experts; with any ``top_k`` where it is not known."""
    from workloads.models.library import load_model, model_names

    found = []
    for name in model_names():
        blocks = load_model(name).moe_layers
        if not blocks or len(blocks) != layers:
            continue
        own = blocks[0].num_experts + blocks[0].null_experts
        if own == experts and top_k in (None, blocks[0].top_k):
            found.append(name)
    return found


def _on_ranks(scenario: Scenario, ranks: int, redundant: int | None) -> Scenario:
    """Spread the experts over so many ranks, attention data-parallel over the same devices."""
    split, placement = scenario.parallelism, scenario.placement
    if ranks != split.ep:
        if ranks % split.tp:
            raise ScenarioError(f"--ep: {ranks} ranks are not a multiple of parallelism.tp = {split.tp}")
        split = split.model_copy(update={"ep": ranks, "dp": ranks // split.tp})
    if redundant is not None:
        placement = placement.model_copy(update={"redundant_slots": redundant * ranks})
    return scenario.model_copy(update={"parallelism": split, "placement": placement})
