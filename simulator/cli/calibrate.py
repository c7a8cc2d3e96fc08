"""``moesim calibrate``: measure this machine, fit kernels to measurements, make a profile of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from simulator.cli.answer import answering, print_json
from simulator.cli.lists import ListCommand
from simulator.cli.scenario_argument import Json, Profiles, Quiet

calibrate = typer.Typer(
    name="calibrate",
    help="Measure this machine, fit kernels to measurements, and write profiles.",
    add_completion=False,
    rich_markup_mode=None,
)

Measured = Annotated[str | None, typer.Option("--device", metavar="cuda|cpu", help="What to measure; the GPU if any.")]
Ops = Annotated[
    list[str] | None,
    typer.Option(metavar="OP,...", help="Measure only these: gemm, moe, attention_decode, ..."),
]
Size = Annotated[
    str | None, typer.Option(metavar="SIZE", help="tiny, small or full; small on a CPU, full on a GPU if not given.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="Cores of a CPU to use.")]


def profile_folder() -> Path:
    """Folder of the user's own profiles."""
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "moesim" / "profiles"


@calibrate.callback(invoke_without_command=True)
def calibrate_machine(
    context: typer.Context,
    device: Measured = None,
    ops: Ops = None,
    size: Size = None,
    threads: Threads = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of profiles; ~/.config/moesim/profiles if not given.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="ID", help="Id of the profile; made from the processor's name if not given.")
    ] = None,
    as_json: Json = False,
    no_progress: Quiet = False,
) -> None:
    """Measure this machine, fit its kernels, report, and write a profile that simulate takes."""
    if context.invoked_subcommand is not None:
        return
    with answering(as_json=as_json):
        from simulator.cli.calibrate_text import print_calibration, print_measured
        from simulator.cli.console import console
        from validation.fit.calibrate_machine import calibrate_here

        with _progress(no_progress) as progress:
            report, made = calibrate_here(
                folder=out or profile_folder(),
                device=device,
                ops=[op for words in ops or () for op in words.split(",")],
                size=size,
                threads=threads,
                name=name,
                progress=progress,
            )
        if as_json:
            print_json({**made.document(), "manifest": report.manifest})
            return
        text = console()
        print_measured(text, report)
        print_calibration(text, made.calibration)
        if made.borrowed:
            text.print(f"not measured here, taken from {made.relative} as assumptions: {', '.join(made.borrowed)}")
        text.print(f"written: {made.device.id} in {made.folder}")
        text.print(f"next: moesim simulate FILE --device {made.device.id} --profiles {made.folder}", style="dim")


@calibrate.command("run", cls=ListCommand)
def run_(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for one table per op and the manifest.")],
    device: Measured = None,
    ops: Ops = None,
    dtypes: Annotated[
        list[str] | None, typer.Option(metavar="DTYPE,...", help="Measure only these: bfloat16, fp8, float32.")
    ] = None,
    size: Size = None,
    seconds: Annotated[float | None, typer.Option(min=1.0, help="Time in all, instead of that of the size.")] = None,
    threads: Threads = None,
    as_json: Json = False,
    no_progress: Quiet = False,
) -> None:
    """Run the PyTorch microbenchmarks of this machine and write their tables."""
    with answering(as_json=as_json):
        from simulator.cli.calibrate_text import print_measured
        from simulator.cli.console import console
        from validation.measure.suite import run_microbenchmarks

        with _progress(no_progress) as progress:
            report = run_microbenchmarks(
                device=device,
                ops=[op for words in ops or () for op in words.split(",")],
                dtypes=dtypes or (),
                size=size,
                out=out,
                seconds=seconds,
                threads=threads,
                progress=progress,
            )
        if as_json:
            print_json(report.manifest)
            return
        text = console()
        print_measured(text, report)
        text.print(f"written to {out}")


@calibrate.command("fit")
def fit_(
    device: Annotated[str, typer.Option(metavar="NAME", help="Device that was measured: id or alias.")],
    measurements: Annotated[Path, typer.Option(metavar="DIR", help="One Parquet or CSV file per op.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of profiles; ~/.config/moesim/profiles if not given.")
    ] = None,
    profiles: Profiles = None,
    as_json: Json = False,
    no_progress: Quiet = False,
) -> None:
    """Fit a device's kernels to measured tables, report, and write their coefficients."""
    with answering(as_json=as_json):
        from simulator.cli.calibrate_text import print_calibration
        from simulator.cli.console import console
        from simulator.cli.progress import progress_bar
        from validation.fit.calibrate import fit_measurements, write_calibration

        with progress_bar("fitting", enabled=not no_progress) as progress:
            calibration = fit_measurements(device, measurements, profiles=profiles, progress=progress)
        folder = out or profile_folder()
        files = write_calibration(calibration, folder)
        if as_json:
            print_json({**calibration.document(), "files": [str(path) for path in files]})
            return
        text = console()
        print_calibration(text, calibration)
        for path in files:
            text.print(f"written: {path}")
        text.print(f"next: moesim simulate FILE --device {calibration.device} --profiles {folder}", style="dim")


@contextmanager
def _progress(no_progress: bool) -> Iterator[Callable[[float, str], None] | None]:
    """Give the benchmarks a callback that takes the share done and what is being measured."""
    from simulator.cli.progress import progress_bar

    with progress_bar("measuring", enabled=not no_progress) as update:
        yield None if update is None else lambda share, _: update(share)
