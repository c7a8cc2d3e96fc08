"""The commands: what each takes, what it calls, and how it answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer
from typer.core import TyperGroup

from simulator.cli.answer import MENDABLE, answering, print_json
from simulator.cli.cache import cache
from simulator.cli.calibrate import calibrate
from simulator.cli.exchange import exchange
from simulator.cli.lists import ListCommand
from simulator.cli.place import place
from simulator.cli.routing import routing
from simulator.cli.scenario_argument import (
    Batch,
    Context,
    Device,
    File,
    Folder,
    Json,
    Phase,
    Profiles,
    Quiet,
    Set,
    again,
    load_scenario,
)
from simulator.cli.validate import regress, validate

#: Most digits of a whole number [1].
_DIGITS = 18


class _Short(TyperGroup):
    """Commands whose complaints about words stay short, whatever the words."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words, none of which is a whole number of more digits than any array counts to."""
        for arg in args:
            value = arg.partition("=")[2] if arg.startswith("--") else arg
            if len(value) > _DIGITS and value.isdecimal():
                from hardware_profiles.edge import shown

                raise typer.BadParameter(f"{shown(value)} has {len(value):,} digits; expected at most {_DIGITS}")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; cut what a message about its words quotes."""
        try:
            return super().invoke(ctx)
        except typer.TyperException as error:
            from hardware_profiles.errors import tidy

            error.message = tidy(error.message)
            raise


app = typer.Typer(
    name="moesim",
    cls=_Short,
    help="Simulate Mixture-of-Experts serving: a scenario in, throughput, latency and their reasons out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help: rich's takes longer to import than everything else together.
    rich_markup_mode=None,
)
app.add_typer(calibrate)
app.add_typer(validate)
app.add_typer(routing)
app.add_typer(cache)


#: What ``list`` can list.
Listed = Literal["devices", "nodes", "clusters", "models", "stacks", "presets", "keys"]


def _show_version(asked: bool) -> None:
    if asked:
        _print_version()
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    pass


@app.command(cls=ListCommand)
def simulate(
    file: File,
    overrides: Set = None,
    device: Device = None,
    profiles: Profiles = None,
    out: Folder = None,
    as_json: Json = False,
    no_progress: Quiet = False,
) -> None:
    """Simulate a scenario, event by event."""
    with answering(as_json=as_json):
        from simulator import api
        from simulator.cli.keep import keep, least_bytes, require_kept
        from simulator.cli.progress import progress_bar
        from simulator.export.folders import check_output_folder

        scenario = load_scenario(file, overrides or (), device, profiles)
        if out is not None:
            # Before the run, so that nobody waits for a result that cannot be kept.
            out = check_output_folder(out, least_bytes(scenario))
        with progress_bar("simulating", enabled=not no_progress) as progress:
            result = api.simulate(scenario, progress=progress)
        lost = None if out is None else keep(result, out)
        if as_json:
            print_json(result.document())
            require_kept(lost)
            return
        from simulator.cli.console import console, print_next
        from simulator.cli.result_text import print_result

        text = console()
        print_result(text, result)
        require_kept(lost)
        if out is not None:
            text.print(f"written to {out}")
        print_next(text, again("explain", file, overrides, device, profiles))


@app.command(cls=ListCommand)
def estimate(
    file: File, overrides: Set = None, device: Device = None, profiles: Profiles = None, as_json: Json = False
) -> None:
    """Estimate the steady state in closed form, in a second or two."""
    with answering(as_json=as_json):
        from simulator import api

        answer = api.estimate(load_scenario(file, overrides or (), device, profiles))
        if as_json:
            print_json(answer.document())
            return
        from simulator.cli.console import console, print_next
        from simulator.cli.result_text import print_estimate

        text = console()
        print_estimate(text, answer)
        print_next(text, again("simulate", file, overrides, device, profiles))


@app.command(cls=ListCommand)
def scale(
    file: File,
    overrides: Set = None,
    device: Device = None,
    profiles: Profiles = None,
    compare: Annotated[bool, typer.Option("--compare", help="Play every mechanism and set them side by side.")] = False,
    out: Folder = None,
    as_json: Json = False,
    no_progress: Quiet = False,
) -> None:
    """Simulate a deployment that changes its size: what each change takes, holds and costs."""
    with answering(as_json=as_json):
        from simulator.cli.scale import answer_scale

        scenario = load_scenario(file, overrides or (), device, profiles)
        answer_scale(scenario, compare=compare, out=out, as_json=as_json, progress=not no_progress)


def _step_options(phase: str, batch: int | None, context: int | None) -> str:
    """Phrase the options that choose a step; those that were not given are left out."""
    asked = {"--phase": None if phase == "decode" else phase, "--batch": batch, "--context": context}
    return "".join(f" {option} {value}" for option, value in asked.items() if value is not None)


@app.command(cls=ListCommand)
def explain(
    file: File,
    overrides: Set = None,
    device: Device = None,
    profiles: Profiles = None,
    phase: Phase = "decode",
    batch: Batch = None,
    context: Context = None,
    as_json: Json = False,
) -> None:
    """Explain one step op by op: time, bound, equation, inputs and their sources."""
    with answering(as_json=as_json):
        from simulator import api
        from simulator.cli.console import console, print_next
        from simulator.cli.explain_text import explanation_document, print_explanation

        scenario = load_scenario(file, overrides or (), device, profiles)
        answer = api.explain(scenario, phase=phase, batch=batch, context=context)
        if as_json:
            print_json(explanation_document(answer))
            return
        text = console()
        print_explanation(text, answer)
        command = again("timeline", file, overrides, device, profiles) + _step_options(phase, batch, context)
        print_next(text, command)


@app.command(cls=ListCommand)
def timeline(
    file: File,
    overrides: Set = None,
    device: Device = None,
    profiles: Profiles = None,
    phase: Phase = "decode",
    batch: Batch = None,
    context: Context = None,
    ranks: Annotated[int, typer.Option(min=0, help="Ranks drawn beside the slowest and the mean one.")] = 8,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a Perfetto trace into this file.")] = None,
    as_json: Json = False,
) -> None:
    """Draw one step op by op on the streams of its ranks: what runs beside what."""
    with answering(as_json=as_json):
        from hardware_profiles.outputs import check_output_file, write_file
        from simulator.cli.console import console, print_next
        from simulator.cli.timeline_text import print_timeline, timeline_document
        from simulator.errors import OutputError
        from simulator.explanation.explanation import timeline as draw
        from simulator.export.perfetto import encode_trace

        scenario = load_scenario(file, overrides or (), device, profiles)
        if out is not None:
            check_output_file(out, OutputError)
        drawn = draw(scenario, phase=phase, batch=batch, context=context)
        written = None if out is None else write_file(out, encode_trace(drawn.slices(ranks)), OutputError)
        if as_json:
            print_json(timeline_document(scenario, drawn, written))
            return
        text = console()
        print_timeline(text, scenario, drawn)
        if written is None:
            command = again("timeline", file, overrides, device, profiles) + _step_options(phase, batch, context)
            drawn_ranks = "" if ranks == 8 else f" --ranks {ranks}"
            print_next(text, f"{command}{drawn_ranks} --out step.json")
        else:
            text.print(f"written to {written}\nnext: open it at https://ui.perfetto.dev", style="dim")


@app.command(cls=ListCommand)
def check(
    file: File, overrides: Set = None, device: Device = None, profiles: Profiles = None, as_json: Json = False
) -> None:
    """Check a scenario and show all findings at once; exit with 2 if one is an error."""
    with answering(as_json=as_json):
        from simulator import api
        from simulator.cli.console import console, print_next
        from simulator.cli.result_text import findings_document, print_findings
        from simulator.errors import MoesimError
        from simulator.results.values import Finding

        findings: tuple[Finding, ...]
        try:
            scenario = load_scenario(file, overrides or (), device, profiles)
        except MoesimError as error:
            findings = tuple(Finding(level="error", where="", message=line) for line in str(error).splitlines())
        else:
            findings = tuple(api.check(scenario))
        if as_json:
            print_json(findings_document(file, findings))
        else:
            text = console()
            print_findings(text, file, findings)
        if any(finding.level == "error" for finding in findings):
            raise typer.Exit(MENDABLE)
        if not as_json:
            print_next(text, again("simulate", file, overrides, device, profiles))


@app.command("list")
def list_(
    what: Annotated[
        Listed | None,
        typer.Argument(metavar="[WHAT]", help=f"{', '.join(get_args(Listed))}; all of them where absent."),
    ] = None,
    profiles: Profiles = None,
    as_json: Json = False,
) -> None:
    """List devices, nodes, clusters, models, stacks, presets, or the keys of a scenario."""
    with answering(as_json=as_json):
        from simulator.cli.catalogue_text import print_list
        from simulator.cli.console import console
        from simulator.export.catalogues import list_entries

        rows = list_entries(what, profiles)
        if as_json:
            print_json({what or "catalogues": rows})
            return
        text = console()
        print_list(text, what or "catalogues", rows)
        if what is None:
            text.print("next: moesim list models", style="dim")


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of anything listed, or a model's config.json.")],
    profiles: Profiles = None,
    as_json: Json = False,
) -> None:
    """Show one device, node, cluster, model, stack or preset, with the source of every number."""
    with answering(as_json=as_json):
        from simulator.cli.catalogue_text import print_entry
        from simulator.cli.console import console
        from simulator.export.catalogues import show_entry

        document = show_entry(name, profiles)
        if as_json:
            print_json(document)
        else:
            print_entry(console(), document)


@app.command()
def dashboard(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 8501,
    host: Annotated[
        str,
        typer.Option(metavar="NAME", help="Name or address of this machine under which others reach it: no passwords."),
    ] = "127.0.0.1",
) -> None:
    """Serve the dashboard, on this machine only unless told a name of it, and print its address."""
    with answering():
        from simulator.cli.serve import serve_dashboard

        serve_dashboard(port, host)


@app.command()
def version() -> None:
    """Show the version."""
    _print_version()


app.command()(regress)
app.command(cls=ListCommand)(place)
app.command(cls=ListCommand)(exchange)


def _print_version() -> None:
    from importlib.metadata import version as installed

    from simulator.compiled import engine

    print(f"moesim {installed('moesim')}, engine: {engine()}")
    sys.stdout.flush()
