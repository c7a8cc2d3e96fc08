"""``moesim place``: what placements of experts are worth in step time, on routing that they have not seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simulator.cli.answer import answering, print_json, say, whole_numbers
from simulator.cli.scenario_argument import Json, Profiles, Quiet, Set, load_scenario
from simulator.errors import OutputError, ScenarioError, WorkloadError, nearest

if TYPE_CHECKING:
    from simulator.scenario import Scenario
    from workloads.routing.trace import RoutingTrace

#: What ``--out`` can write.
_PICTURES = (".svg", ".html")


def place(
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="Scenario file (TOML), or the name of a preset.")
    ] = None,
    routing: Annotated[
        str | None,
        typer.Option(metavar="TRACE", help="Routing trace to place by, or 'sample:NAME', instead of the scenario's."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model; without a scenario, the one that the trace fits, where only one does.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Device; the scenario's where absent.")] = None,
    ep: Annotated[
        str | None, typer.Option(metavar="N,...", help="Expert-parallel ranks to try; the scenario's where absent.")
    ] = None,
    redundant: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Redundant slots on each rank; the scenario's where absent.")
    ] = None,
    policies: Annotated[
        str | None,
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
        from simulator.cli.place_picture import page, picture
        from simulator.cli.place_text import document, print_study
        from simulator.cli.progress import progress_bar
        from simulator.study.placement import StudyOptions, study_placements

        if out is not None and out.suffix not in _PICTURES:
            raise OutputError(f"--out {out}: a picture is {' or '.join(_PICTURES)}")
        options = StudyOptions(
            policies=_policies(policies),
            phase="prefill" if prefill else "decode",
            batch=batch,
            context=context,
            seen=seen,
            mixed=mixed,
            windows=windows,
        )
        scenario = _scenario(file, routing, model, device, overrides or [], profiles)
        degrees = [scenario.parallelism.ep] if ep is None else whole_numbers("--ep", ep, 2)
        wanted = [_on_ranks(scenario, ranks, redundant) for ranks in degrees]
        studies = []
        with progress_bar("placing", enabled=not no_progress and not as_json) as progress:
            for done, each in enumerate(wanted):
                report = None if progress is None else (lambda share, d=done: progress((d + share) / len(wanted)))
                studies.append(study_placements(each, options, report))
        for study in studies:
            if batch * study.ranks > study.later_tokens:
                say(
                    f"note: a step of {batch * study.ranks:,} tokens (--batch) on EP {study.ranks} is longer than the "
                    f"{study.later_tokens:,} tokens held out; they repeat"
                )
        if out is not None:
            from simulator.export.files import write_atomically

            write_atomically(out, page(studies) if out.suffix == ".html" else picture(studies))
        if as_json:
            print_json(document(scenario, options, studies))
            return
        from simulator.cli.console import console

        text = console()
        for study in studies:
            print_study(text, study)
        if out is not None:
            text.print(f"written to {out}")


def _policies(text: str | None) -> tuple[str, ...]:
    from simulator.placement import POLICIES

    if text is None:
        return tuple(name for name in POLICIES if name != "lpt")
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in POLICIES:
            raise ScenarioError(f"--policies: unknown policy {name!r}; {nearest(name, POLICIES)}")
    return names


def _scenario(
    file: str | None,
    routing: str | None,
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
    if routing is None or device is None:
        raise ScenarioError("place: name a scenario, or give --routing TRACE and --device NAME")
    data: dict[str, Any] = {
        "name": f"placing {Path(routing).name}",
        "model": {"name": model or _fitting_model(routing)},
        "hardware": {"device": device, **({} if profiles is None else {"profiles": str(profiles)})},
    }
    return Scenario.from_mapping(data, "place").override(*given, *overrides)


def _fitting_model(routing: str) -> str:
    """Name the only model of the catalogue that a trace fits."""
    from workloads.routing.files import read_routing_trace
    from workloads.samples import sample_path

    name = routing.removeprefix("sample:")
    trace = read_routing_trace(sample_path(name) if name != routing else Path(routing))
    found = _models_of(trace)
    if len(found) != 1:
        which = ", ".join(found) or "none"
        raise WorkloadError(
            f"{routing}: {trace.layers} MoE layers of {trace.num_experts} experts, top-{trace.top_k}, fit {which} of "
            f"the catalogue; name the model with --model"
        )
    return found[0]


def _models_of(trace: RoutingTrace) -> list[str]:
    from workloads.models.library import load_model, model_names

    found = []
    for name in model_names():
        blocks = load_model(name).moe_layers
        if not blocks or len(blocks) != trace.layers:
            continue
        experts = blocks[0].num_experts + blocks[0].null_experts
        if experts == trace.num_experts and blocks[0].top_k == trace.top_k:
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
