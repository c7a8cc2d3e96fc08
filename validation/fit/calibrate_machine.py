"""Measure the machine that this runs on, fit its kernels, and make a profile of it: all of calibration in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hardware_profiles.schema import Device
from validation.fit.calibrate import Calibration, fit_measurements, write_calibration
from validation.fit.user_profile import alone, check_identifier, completed, measured_device, save_profile
from validation.measure.suite import Report, run_microbenchmarks

#: Share of the whole that measuring takes, for the progress bar [1].
_MEASURING = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A profile that was made: what was fitted for it, what it borrows and from whom, and where it lies."""

    calibration: Calibration
    device: Device
    relative: str
    borrowed: tuple[str, ...]
    folder: Path

    def document(self) -> dict[str, Any]:
        """The outcome as JSON."""
        return {
            **self.calibration.document(),
            "relative": self.relative,
            "borrowed": list(self.borrowed),
            "folder": str(self.folder),
        }


def calibrate_here(
    *,
    folder: Path,
    device: str | None = None,
    ops: Sequence[str] = (),
    size: str | None = None,
    seconds: float | None = None,
    threads: int | None = None,
    name: str | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> tuple[Report, Made]:
    """Measure, fit and write a profile of this machine.

    Parameters
    ----------
    folder : Path
        Folder of profiles; the tables go to ``measurements/<date and time>`` in it.
    device : {"cuda", "cpu"} or None
        What to measure; the first GPU where there is one.
    ops, size, seconds, threads
        As for :func:`validation.measure.suite.run_microbenchmarks`.
    name : str or None
        Id of the profile.
    progress : callable, optional
        Told the share done [1] and what is being done.

    Raises
    ------
    MoesimError
        The machine cannot be measured, nothing could be fitted, or the folder cannot be written; no profile is then
        left behind.
    """

    def measuring(share: float, what: str) -> None:
        if progress is not None:
            progress(_MEASURING * share, what)

    def fitting(share: float) -> None:
        if progress is not None:
            progress(_MEASURING + (1.0 - _MEASURING) * share, "fitting")

    if name is not None:
        check_identifier(name)
    # A folder of its own for every run, so that no table of an earlier one is fitted with it.
    tables = folder / "measurements" / datetime.now(UTC).strftime("%Y-%m-%dT%H%M%SZ")
    report = run_microbenchmarks(
        device=device, ops=ops, size=size, seconds=seconds, threads=threads, out=tables, progress=measuring
    )
    return report, make_profile(tables, folder, name=name, progress=fitting)


def make_profile(
    tables: Path, folder: Path, *, name: str | None = None, progress: Callable[[float], None] | None = None
) -> Made:
    """Fit what the microbenchmarks wrote and put the profile of their machine into a folder of profiles.

    Nothing is written unless all of it can be.

    Parameters
    ----------
    tables : Path
        Folder of the measurements.
    folder : Path
        Folder of profiles, which may be new.
    name : str or None
        Id of the profile; made from the processor's name where absent.
    progress : callable, optional
        Told the share done [1].
    """
    measured = measured_device(tables, name)
    calibration = fit_measurements(alone(measured), tables, progress=progress)
    whole, relative, borrowed = completed(measured, calibration)
    write_calibration(calibration, folder)
    save_profile(whole, folder)
    return Made(calibration=calibration, device=whole, relative=relative, borrowed=borrowed, folder=folder)
