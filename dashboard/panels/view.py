"""What a tab is given to draw: the page's state, and the answers that there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dashboard.state import PageState
from simulator.results.values import Estimate, Result
from simulator.scenario import Scenario

#: What the baseline is called beside an answer of the same kind.
BASELINE = "Baseline"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is known of a scenario and of the baseline.

    ``base`` is the preset as it ships; an answer is None where there is none yet, or can be none.
    """

    page: PageState
    base: Scenario
    estimate: Estimate | None
    result: Result | None
    baseline_estimate: Estimate | None
    baseline_result: Result | None

    @property
    def scenario(self) -> Scenario:
        """What the form shows."""
        return self.page.scenario

    def labelled(self) -> Mapping[str, Estimate | Result]:
        """Return the answers that there are, by what they are called."""
        named = {
            "Simulation": self.result,
            "Estimate": self.estimate,
            "Baseline, simulated": self.baseline_result,
            "Baseline, estimated": self.baseline_estimate,
        }
        return {label: answer for label, answer in named.items() if answer is not None}

    def compared(self) -> Mapping[str, Estimate | Result]:
        """Return two answers that compare: with the baseline's of the same kind, else simulation and estimate."""
        if self.result is not None and self.baseline_result is not None:
            return {"Simulation": self.result, BASELINE: self.baseline_result}
        if self.result is None and self.estimate is not None and self.baseline_estimate is not None:
            return {"Estimate": self.estimate, BASELINE: self.baseline_estimate}
        named = {"Simulation": self.result, "Estimate": self.estimate}
        return {label: answer for label, answer in named.items() if answer is not None}
