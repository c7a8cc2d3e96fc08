"""The scenario that a command means: its arguments, and how they are read."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from simulator.scenario import Scenario

File = Annotated[str, typer.Argument(metavar="FILE", help="Scenario file (TOML), or the name of a preset.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key, as in parallelism.tp=8; may be repeated."),
]
Device = Annotated[
    str | None,
    typer.Option(help="Run on this device instead; the file's node, cluster and price offer are then left out."),
]
Profiles = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of your own hardware profiles.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Quiet = Annotated[bool, typer.Option("--no-progress", help="Show no progress bar.")]
Folder = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Write the result into this folder.")]
Phase = Annotated[Literal["prefill", "decode"], typer.Option(help="Which kind of step.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Sequences in the step over all ranks.")]
Context = Annotated[int | None, typer.Option(min=1, help="Tokens of each sequence.")]


def load_scenario(
    file: str, overrides: list[str] | tuple[str, ...], device: str | None, profiles: Path | None
) -> Scenario:
    """Read the scenario that a command means.

    A ``device`` leaves out the file's node, cluster and price offer, which belong to the device that it replaces;
    overrides can name others.

    Parameters
    ----------
    file : str
        Path of a scenario, or name of a preset.
    overrides : sequence of str
        ``section.key=value``, applied in order.
    device : str or None
        Device profile instead of the file's.
    profiles : Path or None
        Folder of user profiles instead of the file's.
    """
    from simulator.scenario import Scenario
    from simulator.scenario.presets import scenario_path
    from simulator.scenario.title import retitled

    scenario = Scenario.load(scenario_path(file), overrides)
    changes: dict[str, str | None] = {}
    if device is not None and device != scenario.hardware.device:
        assigned = {override.partition("=")[0].strip() for override in overrides}
        changes = {key: None for key in ("node", "cluster", "price") if f"hardware.{key}" not in assigned}
        changes["device"] = device
    if profiles is not None:
        changes["profiles"] = str(profiles)
    hardware = scenario.hardware.model_copy(update=changes)
    return retitled(scenario, scenario.model_copy(update={"hardware": hardware}))


def again(command: str, file: str, overrides: list[str] | None, device: str | None, profiles: Path | None) -> str:
    """Phrase another command on the same scenario.

    Parameters
    ----------
    command : str
        The command to run next.
    file, overrides, device, profiles
        As they were given; see :func:`load_scenario`.
    """
    words = ["moesim", command, file]
    for override in overrides or ():
        words += ["--set", override]
    if device is not None:
        words += ["--device", device]
    if profiles is not None:
        words += ["--profiles", str(profiles)]
    return shlex.join(words)
