"""``moesim validate`` and ``moesim regress``: predictions against measurements, papers and a baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simulator.cli.answer import answering, print_json
from simulator.cli.scenario_argument import Json, Profiles

#: Exit code of a check that ran and found predictions that are wrong.
FAILED = 1

validate = typer.Typer(
    name="validate",
    help="Compare predictions with measured tables and with published figures.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@validate.command()
def kernels(
    device: Annotated[str, typer.Option(metavar="NAME", help="Device that was measured: id or alias.")],
    measurements: Annotated[Path, typer.Option(metavar="DIR", help="One Parquet or CSV file per op.")],
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every row with its prediction as Parquet.")
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Only the rows that a fit on these tables leaves out.")
    ] = False,
    kernels_of: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Use this device's kernels, as if the measured one had none of its own."),
    ] = None,
    profiles: Profiles = None,
    as_json: Json = False,
) -> None:
    """Predict every row of measured tables and compare: median error, p90, bias, share inside the 80 % interval."""
    with answering(as_json=as_json):
        from hardware_profiles.outputs import check_output_file
        from simulator.errors import OutputError
        from validation.kernels.validate import validate_kernels, write_predictions

        if predictions is not None:
            check_output_file(predictions, OutputError)
        report = validate_kernels(
            device, measurements, profiles=profiles, kernels_of=kernels_of, only_held_out=held_out
        )
        if predictions is not None:
            write_predictions(report, predictions)
        if as_json:
            print_json(report.document())
            return
        from simulator.cli.console import console
        from simulator.cli.validate_text import print_kernels

        text = console()
        print_kernels(text, report)
        if predictions is not None:
            text.print(f"written: {predictions}")


@validate.command()
def papers(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Cases; all if none is named.")] = None,
    as_json: Json = False,
) -> None:
    """Compute what papers print from what they state; exit with 1 if a check that counts is missed."""
    with answering(as_json=as_json):
        from validation.papers.run import validate_papers

        report = validate_papers(names or ())
        if as_json:
            print_json(report.document())
        else:
            from simulator.cli.console import console
            from simulator.cli.validate_text import print_papers

            print_papers(console(), report)
        if not report.passed:
            raise typer.Exit(FAILED)


@validate.command()
def serving(
    measurements: Annotated[
        Path,
        typer.Option(metavar="FILE_OR_DIR", help="CSV table of runs, or results of benchmark tools (.json, .jsonl)."),
    ],
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Device of all runs, over what they say themselves.")
    ] = None,
    stack: Annotated[
        str | None, typer.Option(metavar="NAME", help="Serving stack of all runs: a name or a TOML file.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model of all runs: a name, model TOML or config.json.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="SPLIT", help="Split of results that do not say it: tp8, tp8_ep8, tep8, dep8.")
    ] = None,
    every: Annotated[int, typer.Option(metavar="N", min=1, help="Play every N-th run only.")] = 1,
    profiles: Profiles = None,
    as_json: Json = False,
) -> None:
    """Play measured serving runs as their benchmark did and compare TTFT, TPOT, E2EL and throughput per GPU."""
    with answering(as_json=as_json):
        from simulator.cli.progress import progress_bar
        from validation.serving.points import Named
        from validation.serving.validate import validate_serving

        named = Named(device=device, stack=stack, model=model, split=split, profiles=profiles)
        with progress_bar("playing runs", enabled=not as_json) as progress:
            report = validate_serving(measurements, named=named, every=every, progress=progress)
        if as_json:
            print_json(report.document())
            return
        from simulator.cli.console import console
        from simulator.cli.validate_text import print_serving

        print_serving(console(), report)


def regress(
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Baseline: a JSON file that --update writes; moesim's own if not given."),
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Write what is predicted now as the baseline.")] = False,
    scenario: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="With --update: cover this scenario file or preset; may be repeated."),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="With --update: cover this device's kernels; may be repeated."),
    ] = None,
    runs: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="With --update: cover the runs of events in this file, relative to it."),
    ] = None,
    measurements: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Recorded measurements, a folder per device, to check the accuracy too."),
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the outcome as JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the outcome as Markdown.")] = None,
) -> None:
    """Compare predictions, accuracy and stated figures with a baseline; exit with 1 if one moved."""
    with answering():
        from hardware_profiles.outputs import check_output_file, write_file
        from simulator.cli.console import console
        from simulator.cli.validate_text import print_outcomes
        from simulator.errors import OutputError, ScenarioError
        from validation.regression import regress as checks
        from validation.regression import report

        if (scenario or device or runs) and not update:
            raise ScenarioError(
                "--scenario, --device and --runs say what a new baseline covers; give them with --update"
            )
        text, path = console(), baseline or checks.BUILT_IN
        # Before the figures are computed, so that nobody waits for what cannot be kept.
        for file in (junit, markdown, *((path,) if update else ())):
            if file is not None:
                check_output_file(file, OutputError)
        if update:
            new, outcomes = checks.update(
                path, scenarios=scenario or (), devices=device or (), runs=runs or "", measurements=measurements
            )
            print_outcomes(text, [o for o in outcomes if o.status != "unchecked"])
            text.print(f"written: {path}, {len(new.predictions):,} predictions")
        else:
            outcomes = checks.regress(path, measurements)
            print_outcomes(text, outcomes)
        if junit is not None:
            write_file(junit, report.junit(outcomes), OutputError)
        if markdown is not None:
            write_file(markdown, report.markdown(outcomes), OutputError)
        if not update and report.failures(outcomes):
            raise typer.Exit(FAILED)
