"""What a baseline freezes of the model: predictions by key, the inputs that they rest on, and their fingerprints.

Keys begin with where a figure comes from: ``scenario`` (steady state and one step of each phase), ``run`` (an engine
run), ``kernel`` (one call), and, of the inputs, ``profile`` (a device), ``stack`` and ``model``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hardware_profiles.edge import read_toml
from hardware_profiles.errors import MoesimError
from simulator import api
from simulator.deployment.fingerprint import fingerprint
from simulator.deployment.inputs import read_model, read_stack
from simulator.hardware import Hardware, load_hardware
from simulator.results.values import Estimate
from simulator.scenario import Scenario
from simulator.scenario.presets import scenario_path
from validation.kernels.grids import predict_grid
from workloads.models.sizes import parameters

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
#: What a run of events adds to them.
_RUN = ("engine_steps", "simulated_s", "kv_use_max", "preemptions", "prefix_hits", "retries")


class BaselineError(MoesimError):
    """A baseline, or the file of its runs, is missing or malformed."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """The scenarios that a baseline covers, by name: in closed form and step by step, and as runs of events."""

    scenarios: Mapping[str, Scenario]
    runs: Mapping[str, Scenario]

    @classmethod
    def load(cls, scenarios: Sequence[str], runs: str, folder: Path) -> Covered:
        """Load presets, or files relative to ``folder``, and the file of runs there."""
        return cls(
            scenarios={
                name: Scenario.load(scenario_path(folder / name if (folder / name).is_file() else name))
                for name in scenarios
            },
            runs=load_runs(folder / runs) if runs else {},
        )

    def fingerprints(self) -> dict[str, str]:
        """What each scenario and run depends on, named by all that it says and all that its files say."""
        named = {f"scenario/{name}": scenario for name, scenario in self.scenarios.items()}
        named |= {f"run/{name}": scenario for name, scenario in self.runs.items()}
        return {key: fingerprint(scenario) for key, scenario in named.items()}

    def predictions(self) -> dict[str, float]:
        """Headline figures of all, and the numbers of their stacks and models, in SI."""
        found: dict[str, float] = {}
        for name, scenario in self.scenarios.items():
            found |= {f"scenario/{name}/{key}": value for key, value in scenario_figures(scenario).items()}
        for name, scenario in self.runs.items():
            found |= {f"run/{name}/{key}": value for key, value in run_figures(scenario).items()}
        return found | input_figures([*self.scenarios.values(), *self.runs.values()])


def load_runs(path: Path) -> dict[str, Scenario]:
    """Read the runs of a baseline: one scenario, and by name the keys that each run changes.

    Raises
    ------
    BaselineError
        The file cannot be read, or lacks one of its two parts.
    """
    table = read_toml(path, BaselineError)
    try:
        base = Scenario.from_mapping(table["scenario"], path.stem)
        return {name: base.override(*keys) for name, keys in table["runs"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise BaselineError(f"{path}: not a file of runs ({error}); it needs [scenario] and [runs]") from None


def device_figures(devices: Sequence[str]) -> dict[str, float]:
    """Predict each device's kernels on the grid of :mod:`validation.kernels.grids` [s], beside its profile."""
    found: dict[str, float] = {}
    for device in devices:
        hardware = load_hardware(device)
        found |= {f"kernel/{device}/{key}": seconds for key, seconds in predict_grid(hardware).items()}
        found |= {f"profile/{device}/{key}": value for key, value in profile_figures(hardware).items()}
    return found


def finite(figures: Mapping[str, float]) -> dict[str, float]:
    """Leave out figures that are not defined."""
    return {key: value for key, value in figures.items() if math.isfinite(value)}


def input_figures(scenarios: Iterable[Scenario]) -> dict[str, float]:
    """Numbers of the stacks and parameters of the models that scenarios use, in SI, by name."""
    found: dict[str, float] = {}
    for scenario in scenarios:
        stack, model = read_stack(scenario.stack.name)[0], read_model(scenario.model)[0]
        found |= {f"stack/{scenario.stack.name}/{key}": stack.number(key) for key in stack.numbers}
        found |= {f"model/{scenario.model.name}/{part}": float(count) for part, count in parameters(model).items()}
    return found


def run_figures(scenario: Scenario) -> dict[str, float]:
    """Headline figures and the breakdown of a run of events, in SI."""
    result = api.simulate(scenario)
    found = {name: float(getattr(result.summary, name)) for name in (*_SUMMARY, *_RUN)}
    found |= {f"{name}_s": getattr(result.summary, f"{name}_s").mean for name in ("ttft", "tpot", "e2el")}
    return found | {f"{component}_s": seconds for component, seconds in result.breakdown.items() if seconds}


def profile_figures(hardware: Hardware) -> dict[str, float]:
    """Coefficients of a device's own kernels and what its datasheet says, in SI.

    A grid of calls cannot be in every regime; the numbers themselves show what changed, and what did not matter.
    """
    silicon, fabric = hardware.silicon, hardware.fabric
    found = {f"peak/{dtype}": rate for dtype, rate in silicon.peak.items()}
    found |= {name: getattr(silicon, name) for name in ("units", "clock", "memory_bandwidth", "cache", "sustained")}
    found |= {f.name: float(getattr(fabric, f.name)) for f in dataclasses.fields(fabric)}
    for table, coefficients in hardware.device.main.kernels.items():
        for name, quantity in coefficients.items():
            # A word is a key of its own, which comes and goes.
            word = quantity.unit == "choice"
            found[f"{table}/{name}={quantity.text}" if word else f"{table}/{name}"] = 1.0 if word else quantity.value
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
