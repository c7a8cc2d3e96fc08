"""Compare predictions with those of a baseline, and accuracy with what was recorded.

A baseline is a JSON file: which scenarios and devices it covers, every prediction with its tolerance, the accuracy
against recorded measurements with its band, and the documents whose stated figures must still be true.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hardware_profiles.edge import exists, is_file, read_json, reason, shown
from hardware_profiles.loader import load_device
from hardware_profiles.outputs import write_file
from simulator.errors import OutputError
from simulator.scenario.presets import preset_names
from validation.kernels.validate import KernelReport, validate_kernels
from validation.papers.report import PaperReport
from validation.papers.run import validate_papers
from validation.regression.page import write_page
from validation.regression.predicted import BaselineError, Covered, device_figures, finite
from validation.regression.stated import restate, stated_figures

FORMAT = 1
#: The baseline of this project: its presets, its kernels and its documents.
BUILT_IN = Path(__file__).parents[1] / "baselines" / "main.json"
#: Relative move of a prediction that is allowed without an update [1]: what sums in another order may change.
TOLERANCE = 1e-3
#: How much worse an error may get, as a share of itself and in absolute terms [1].
BAND = 0.05
BAND_FLOOR = 0.002
STATISTICS = ("rows", "median_ape", "p90_ape", "bias", "coverage_80")
Status = Literal["same", "moved", "gone", "new", "worse", "misstated", "unchecked", "input"]
#: Outcomes that make a comparison fail.
FAILURES: tuple[Status, ...] = ("moved", "gone", "new", "worse", "misstated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What is compared with.

    Attributes
    ----------
    scenarios, devices, documents : tuple of str
        What is covered; paths are relative to the baseline's folder.
    runs : str
        File of the runs of events that are covered, likewise; ``""`` for none.
    page : str
        Markdown file that :mod:`validation.regression.page` makes of the accuracy with every update; ``""`` for none.
    predictions : Mapping of str to float
        Predictions and the numbers that go into them by key, in SI.
    fingerprints : Mapping of str to str
        What each scenario and run depended on.
    tolerance : float
        Relative move that is allowed [1].
    accuracy : Mapping of str to float
        Accuracy against measurements by key: ``device/op/statistic`` [1].
    """

    scenarios: tuple[str, ...]
    devices: tuple[str, ...]
    documents: tuple[str, ...]
    page: str
    runs: str = ""
    predictions: Mapping[str, float]
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    tolerance: float
    accuracy: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One figure before and after; ``where`` is the document that states it."""

    key: str
    before: float
    after: float
    status: Status
    where: str = ""

    @property
    def change(self) -> float:
        """Relative move [1]; nan where there is nothing to compare with."""
        return self.after / self.before - 1.0 if self.before else math.nan


def load_baseline(path: Path) -> Baseline:
    """Read a baseline.

    Raises
    ------
    BaselineError
        No such file, or it is no baseline.
    """
    if not exists(path):
        raise BaselineError(f"{path}: no such baseline; make it with --update")
    document = read_json(path, BaselineError)
    try:
        if document["format"] != FORMAT:
            raise BaselineError(f"{path}: format {shown(document['format'])}; this version reads {FORMAT}")
        return Baseline(
            scenarios=tuple(document["scenarios"]),
            devices=tuple(document["devices"]),
            documents=tuple(document["documents"]),
            page=str(document["page"]),
            runs=str(document.get("runs", "")),
            fingerprints=dict(document.get("fingerprints", {})),
            predictions={key: float(value) for key, value in document["predictions"].items()},
            tolerance=float(document["tolerance"]),
            accuracy={key: float(value) for key, value in document["accuracy"].items()},
        )
    except KeyError as error:
        raise BaselineError(f"{path}: not a baseline: {error} is missing; make one with --update") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BaselineError(f"{path}: not a baseline ({reason(error)}); make one with --update") from None


def save_baseline(baseline: Baseline, path: Path) -> None:
    """Write a baseline, sorted and rounded so that its changes can be read."""
    document = {
        "format": FORMAT,
        "scenarios": list(baseline.scenarios),
        "devices": list(baseline.devices),
        "documents": list(baseline.documents),
        "page": baseline.page,
        "runs": baseline.runs,
        "tolerance": baseline.tolerance,
        "fingerprints": dict(sorted(baseline.fingerprints.items())),
        "predictions": {key: _rounded(value) for key, value in sorted(baseline.predictions.items())},
        "accuracy": {key: _rounded(value) for key, value in sorted(baseline.accuracy.items())},
    }
    write_file(path, json.dumps(document, indent=1) + "\n", OutputError)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def accuracy_of(measurements: Path) -> dict[str, float]:
    """Accuracy on the rows of recorded measurements that no fit has seen, and the outcomes of the papers [1].

    Parameters
    ----------
    measurements : Path
        One folder per device, named by its id.
    """
    folders = sorted(path for path in measurements.iterdir() if path.is_dir()) if measurements.is_dir() else []
    if not folders:
        raise BaselineError(f"{measurements}: no measurements; expected one folder per device")
    found: dict[str, float] = {}
    for folder in folders:
        device = load_device(folder.name.replace("_", "-"))
        found |= _accuracy(device.id, validate_kernels(device.id, folder, only_held_out=True))
        if device.main.kernels and (lender := device.main.kernels_from) is not None:
            # Nothing is fitted on any of its rows: with another device's kernels, it was never measured.
            found |= _accuracy(f"{device.id}<-{lender}", validate_kernels(device.id, folder, kernels_of=lender))
    return {key: value for key, value in found.items() if math.isfinite(value)}


def _accuracy(name: str, report: KernelReport) -> dict[str, float]:
    found: dict[str, float] = {}
    for op, figures in report.document()["ops"].items():
        for part, values in {"": figures, **figures["parts"]}.items():
            key = "/".join(text for text in (name, op, part) if text)
            found |= {f"{key}/{statistic}": float(values[statistic]) for statistic in STATISTICS}
    return found


def paper_figures(report: PaperReport) -> dict[str, float]:
    """Numbers of checks of papers by evidence and outcome, and of rows by outcome [1]."""
    return {f"papers/{key}": float(value) for key, value in report.summary().items()}


def changed_inputs(baseline: Baseline, fingerprints: Mapping[str, str]) -> list[Outcome]:
    """Name the scenarios and runs that say something else than in the baseline, or whose files do.

    They fail nothing by themselves: where figures move too, they tell a changed input from a changed model.
    """
    changed = [key for key, name in baseline.fingerprints.items() if fingerprints.get(key, name) != name]
    return [Outcome(key=key, before=math.nan, after=math.nan, status="input") for key in sorted(changed)]


def compare(baseline: Baseline, predictions: Mapping[str, float], accuracy: Mapping[str, float]) -> list[Outcome]:
    """Compare predictions and accuracy with a baseline; ``accuracy`` may lack what could not be recomputed."""
    outcomes: list[Outcome] = []
    for key in sorted(baseline.predictions.keys() | predictions.keys()):
        before, after = baseline.predictions.get(key, math.nan), predictions.get(key, math.nan)
        status: Status = "same"
        if math.isnan(before) or math.isnan(after):
            status = "new" if math.isnan(before) else "gone"
        elif abs(after - before) > baseline.tolerance * max(abs(before), 1e-12):
            status = "moved"
        outcomes.append(Outcome(key=key, before=before, after=after, status=status))
    for key, before in sorted(baseline.accuracy.items()):
        after = accuracy.get(key, math.nan)
        state: Status = "unchecked" if math.isnan(after) else "worse" if _worse(key, before, after) else "same"
        outcomes.append(Outcome(key=key, before=before, after=after, status=state))
    return outcomes


def _worse(key: str, before: float, after: float) -> bool:
    """Tell whether accuracy left its band: errors that grow, intervals that no longer hold 80 %, rows that go."""
    statistic = key.rpartition("/")[2]
    if statistic == "coverage_80":
        return abs(after - 0.8) > max(0.1, abs(before - 0.8) + 0.02)
    if statistic == "bias":
        return abs(after) > abs(before) + 0.01
    if key.startswith("papers/"):
        return _fewer_papers(statistic, before, after)
    if statistic == "rows":
        return after < before
    return after > before * (1.0 + BAND) + BAND_FLOOR


def _fewer_papers(statistic: str, before: float, after: float) -> bool:
    """Tell whether fewer figures of papers are met, more that count are missed, or fewer are looked at."""
    if statistic.endswith(("within", "counted")) or statistic in {"papers", "rows"}:
        return after < before
    return statistic.endswith(("missed", "not_expressible")) and after > before


def check_documents(baseline: Baseline, folder: Path, figures: Mapping[str, float]) -> list[Outcome]:
    """Compare the figures that documents state with those that are computed, or else recorded."""
    known = {**baseline.accuracy, **baseline.predictions, **figures}
    paths = [folder / document for document in baseline.documents]
    # An installed package has no documents; a name that is wrong is seen in the report.
    outcomes = [_unread(path) for path in paths if not path.exists()]
    for stated in stated_figures(path for path in paths if path.exists()):
        value = known.get(stated.key, math.nan)
        state: Status = "same" if stated.right(known) else "misstated"
        where = f"{stated.file.name}:{stated.line}: {stated.text.strip()}"
        outcomes.append(Outcome(key=stated.key, before=math.nan, after=value, status=state, where=where))
    return outcomes


def _unread(path: Path) -> Outcome:
    return Outcome(key=path.name, before=math.nan, after=math.nan, status="unchecked", where=f"{path}: no such file")


def regress(path: Path, measurements: Path | None = None) -> list[Outcome]:
    """Recompute everything that a baseline covers and compare.

    Parameters
    ----------
    path : Path
        The baseline.
    measurements : Path, optional
        Recorded measurements, one folder per device; without them, recorded accuracy is taken as it stands.
    """
    baseline = load_baseline(path)
    covered = Covered.load(baseline.scenarios, baseline.runs, path.parent)
    predictions = finite(covered.predictions() | device_figures(baseline.devices))
    papers = validate_papers() if _records_papers(baseline) else None
    accuracy = _recomputed(papers, measurements)
    outcomes = compare(baseline, predictions, accuracy) + changed_inputs(baseline, covered.fingerprints())
    return outcomes + check_documents(baseline, path.parent, predictions | accuracy)


def _records_papers(baseline: Baseline) -> bool:
    return any(key.startswith("papers/") for key in baseline.accuracy)


def _recomputed(papers: PaperReport | None, measurements: Path | None) -> dict[str, float]:
    accuracy = paper_figures(papers) if papers is not None else {}
    return accuracy | (accuracy_of(measurements) if measurements is not None else {})


def update(
    path: Path,
    *,
    scenarios: Sequence[str] = (),
    devices: Sequence[str] = (),
    runs: str = "",
    measurements: Path | None = None,
) -> tuple[Baseline, list[Outcome]]:
    """Write what is predicted now as the baseline, and the documents' figures with it.

    Parameters
    ----------
    path : Path
        The baseline; where it exists, it says what is covered unless the arguments do.
    scenarios, devices : sequence of str
        What to cover; all presets where there is no baseline yet and neither is given.
    runs : str
        File of runs of events to cover, relative to the baseline's folder.
    measurements : Path, optional
        Recorded measurements; without them, recorded accuracy is kept.

    Returns
    -------
    Baseline, list of Outcome
        The new baseline, and what changed against the old one.
    """
    old = load_baseline(path) if is_file(path) else _empty(() if scenarios or devices or runs else preset_names())
    covered = dataclasses.replace(
        old,
        scenarios=tuple(scenarios) or old.scenarios,
        devices=tuple(devices) or old.devices,
        runs=runs or old.runs,
    )
    played = Covered.load(covered.scenarios, covered.runs, path.parent)
    predictions = finite(played.predictions() | device_figures(covered.devices))
    papers = validate_papers() if covered.page or measurements is not None or _records_papers(old) else None
    # Papers are counted anew as a whole, and under the names of today.
    kept = {key: v for key, v in old.accuracy.items() if papers is None or not key.startswith("papers/")}
    accuracy = {**kept, **_recomputed(papers, measurements)}
    new = dataclasses.replace(covered, predictions=predictions, fingerprints=played.fingerprints(), accuracy=accuracy)
    save_baseline(new, path)
    new = load_baseline(path)
    if new.page and papers is not None:
        write_page(new.accuracy, papers, path.parent / new.page)
    documents = [path.parent / document for document in new.documents]
    restate([document for document in documents if document.exists()], {**new.accuracy, **new.predictions})
    return new, compare(old, predictions, {}) + changed_inputs(old, new.fingerprints)


def _empty(scenarios: tuple[str, ...]) -> Baseline:
    return Baseline(
        scenarios=scenarios, devices=(), documents=(), page="", predictions={}, tolerance=TOLERANCE, accuracy={}
    )
