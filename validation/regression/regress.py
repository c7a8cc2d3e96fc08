"""Compare predictions with those of a baseline, and accuracy with what was recorded.

A baseline is a JSON file: which scenarios and devices it covers, every prediction with its tolerance, the accuracy
against recorded measurements with its band, and the documents whose stated figures must still be true.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hardware_profiles.errors import MoesimError
from hardware_profiles.loader import load_device
from simulator import api
from simulator.errors import OutputError
from simulator.hardware import Hardware, load_hardware
from simulator.results.values import Estimate
from simulator.scenario import Scenario
from simulator.scenario.presets import preset_names, scenario_path
from validation.kernels.grids import predict_grid
from validation.kernels.validate import KernelReport, validate_kernels
from validation.papers.papers import PaperReport, validate_papers
from validation.regression.page import write_page
from validation.regression.stated import restate, stated_figures

FORMAT = 1
#: The baseline of this project: its presets, its kernels and its documents.
BUILT_IN = Path(__file__).parents[1] / "baselines" / "main.json"
#: Relative move of a prediction that is allowed without an update [1]: what sums in another order may change.
TOLERANCE = 1e-3
#: How much worse an error may get, as a share of itself and in absolute terms [1].
BAND = 0.05
BAND_FLOOR = 0.002
#: Sequences and tokens of the explained steps [1].
_DECODE = {"batch": 32, "context": 4096}
_PREFILL = {"batch": 1, "context": 2048}
_SUMMARY = (
    "output_tokens_per_s_per_gpu",
    "total_tokens_per_s_per_gpu",
    "request_throughput_rps",
    "batch_size_mean",
    "usd_per_million_output_tokens",
)
STATISTICS = ("rows", "median_ape", "p90_ape", "bias", "coverage_80")
Status = Literal["same", "moved", "gone", "new", "worse", "misstated", "unchecked"]
#: Outcomes that make a comparison fail.
FAILURES: tuple[Status, ...] = ("moved", "gone", "new", "worse", "misstated")


class BaselineError(MoesimError):
    """A baseline is missing or malformed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What is compared with.

    Attributes
    ----------
    scenarios, devices, documents : tuple of str
        What is covered; paths are relative to the baseline's folder.
    page : str
        Markdown file that :mod:`validation.regression.page` makes of the accuracy with every update; ``""`` for none.
    predictions : Mapping of str to float
        Predictions by key, in SI.
    tolerance : float
        Relative move that is allowed [1].
    accuracy : Mapping of str to float
        Accuracy against measurements by key: ``device/op/statistic`` [1].
    """

    scenarios: tuple[str, ...]
    devices: tuple[str, ...]
    documents: tuple[str, ...]
    page: str
    predictions: Mapping[str, float]
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
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise BaselineError(f"{path}: format {document['format']!r}; this version reads {FORMAT}")
        return Baseline(
            scenarios=tuple(document["scenarios"]),
            devices=tuple(document["devices"]),
            documents=tuple(document["documents"]),
            page=str(document["page"]),
            predictions={key: float(value) for key, value in document["predictions"].items()},
            tolerance=float(document["tolerance"]),
            accuracy={key: float(value) for key, value in document["accuracy"].items()},
        )
    except FileNotFoundError:
        raise BaselineError(f"{path}: no such baseline; make it with --update") from None
    except OSError as error:
        raise BaselineError(f"{path}: cannot be read ({error.strerror})") from None
    except KeyError as error:
        raise BaselineError(f"{path}: not a baseline: {error} is missing; make one with --update") from None
    except (TypeError, ValueError) as error:
        raise BaselineError(f"{path}: not a baseline ({error}); make one with --update") from None


def save_baseline(baseline: Baseline, path: Path) -> None:
    """Write a baseline, sorted and rounded so that its changes can be read."""
    document = {
        "format": FORMAT,
        "scenarios": list(baseline.scenarios),
        "devices": list(baseline.devices),
        "documents": list(baseline.documents),
        "page": baseline.page,
        "tolerance": baseline.tolerance,
        "predictions": {key: _rounded(value) for key, value in sorted(baseline.predictions.items())},
        "accuracy": {key: _rounded(value) for key, value in sorted(baseline.accuracy.items())},
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def predictions_of(scenarios: Sequence[str], devices: Sequence[str], folder: Path) -> dict[str, float]:
    """Predict everything that a baseline covers.

    Parameters
    ----------
    scenarios : sequence of str
        Presets, or scenario files relative to ``folder``.
    devices : sequence of str
        Devices whose kernels are predicted on the grid of :mod:`validation.kernels.grids`.
    folder : Path
        Folder of the baseline.
    """
    found: dict[str, float] = {}
    for name in scenarios:
        scenario = Scenario.load(scenario_path(folder / name if (folder / name).is_file() else name))
        found |= {f"scenario/{name}/{key}": value for key, value in scenario_figures(scenario).items()}
    for device in devices:
        hardware = load_hardware(device)
        found |= {f"kernel/{device}/{key}": seconds for key, seconds in predict_grid(hardware).items()}
        found |= {f"profile/{device}/{key}": value for key, value in profile_figures(hardware).items()}
    return {key: value for key, value in found.items() if math.isfinite(value)}


def profile_figures(hardware: Hardware) -> dict[str, float]:
    """Coefficients of a device's own kernels and what its datasheet says, in SI.

    A grid of calls cannot be in every regime; the numbers themselves show what changed, and what did not matter.
    """
    silicon, fabric = hardware.silicon, hardware.fabric
    found = {f"peak/{dtype}": rate for dtype, rate in silicon.peak.items()}
    found |= {name: getattr(silicon, name) for name in ("units", "clock", "memory_bandwidth", "cache")}
    found |= {f.name: float(getattr(fabric, f.name)) for f in dataclasses.fields(fabric)}
    for table, coefficients in hardware.device.main.kernels.items():
        numbers = {name: quantity for name, quantity in coefficients.items() if quantity.unit != "choice"}
        found |= {f"{table}/{name}": quantity.value for name, quantity in numbers.items()}
    return found


def scenario_figures(scenario: Scenario) -> dict[str, float]:
    """Headline figures of a scenario's steady state and the parts of one step of each phase, in SI."""
    found = _estimate_figures(api.estimate(scenario))
    steps = {
        "prefill": api.explain(scenario, phase="prefill", **_PREFILL),
        "decode": api.explain(scenario, phase="decode", **_DECODE),
    }
    for phase, step in steps.items():
        found[f"{phase}_s"] = step.step_s
        for component, seconds in step.ops.groupby("component")["time_s"].sum().items():
            found[f"{phase}/{component}_s"] = float(seconds)
    return found


def _estimate_figures(estimate: Estimate) -> dict[str, float]:
    summary = estimate.summary
    found = {name: float(getattr(summary, name)) for name in _SUMMARY}
    return found | {"ttft_s": summary.ttft_s.mean, "tpot_s": summary.tpot_s.mean}


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
    """Number of published figures by outcome [1]."""
    summary = report.document()["summary"]
    return {f"papers/{key}": float(value) for key, value in summary.items()}


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
    if statistic in {"rows", "within", "checks", "papers"}:
        return after < before
    if statistic == "explained":
        return False
    return after > before * (1.0 + BAND) + BAND_FLOOR * (statistic != "outside")


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
    predictions = predictions_of(baseline.scenarios, baseline.devices, path.parent)
    papers = validate_papers() if _records_papers(baseline) else None
    accuracy = _recomputed(papers, measurements)
    outcomes = compare(baseline, predictions, accuracy)
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
    measurements: Path | None = None,
) -> tuple[Baseline, list[Outcome]]:
    """Write what is predicted now as the baseline, and the documents' figures with it.

    Parameters
    ----------
    path : Path
        The baseline; where it exists, it says what is covered unless the arguments do.
    scenarios, devices : sequence of str
        What to cover; all presets where there is no baseline yet and neither is given.
    measurements : Path, optional
        Recorded measurements; without them, recorded accuracy is kept.

    Returns
    -------
    Baseline, list of Outcome
        The new baseline, and what changed against the old one.
    """
    old = load_baseline(path) if path.is_file() else _empty(() if scenarios or devices else preset_names())
    covered = dataclasses.replace(
        old, scenarios=tuple(scenarios) or old.scenarios, devices=tuple(devices) or old.devices
    )
    predictions = predictions_of(covered.scenarios, covered.devices, path.parent)
    papers = validate_papers() if covered.page or measurements is not None or _records_papers(old) else None
    accuracy = {**old.accuracy, **_recomputed(papers, measurements)}
    new = dataclasses.replace(covered, predictions=predictions, accuracy=accuracy)
    save_baseline(new, path)
    new = load_baseline(path)
    if new.page and papers is not None:
        write_page(new.accuracy, papers.verdicts, path.parent / new.page)
    documents = [path.parent / document for document in new.documents]
    restate([document for document in documents if document.exists()], {**new.accuracy, **new.predictions})
    return new, compare(old, predictions, {})


def _empty(scenarios: tuple[str, ...]) -> Baseline:
    return Baseline(
        scenarios=scenarios, devices=(), documents=(), page="", predictions={}, tolerance=TOLERANCE, accuracy={}
    )
