"""The outcome of a comparison as text, Markdown and JUnit XML."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from validation.regression.regress import FAILURES, Outcome

_MEANING = {
    "moved": "prediction moved by more than its tolerance",
    "gone": "prediction is no longer made",
    "new": "prediction is not in the baseline",
    "worse": "accuracy left its band",
    "misstated": "a document states another figure",
}
_SECONDS = "_s"


def failures(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Outcomes that make the comparison fail, the largest moves first."""
    failed = [outcome for outcome in outcomes if outcome.status in FAILURES]
    return sorted(failed, key=lambda o: (FAILURES.index(o.status), -abs(o.change) if o.change == o.change else 0.0))


def summary_line(outcomes: Sequence[Outcome]) -> str:
    """Sum up a comparison in one line."""
    counts = Counter(outcome.status for outcome in outcomes)
    told = [f"{counts['same']:,} figures unchanged"]
    told += [f"{counts[status]:,} {status}" for status in FAILURES if counts[status]]
    counts["unchecked"] -= sum(o.status == "unchecked" and bool(o.where) for o in outcomes)
    if counts["unchecked"]:
        told.append(f"{counts['unchecked']:,} not checked, because no measurements were given")
    if inputs := [o.key for o in outcomes if o.status == "input"]:
        told.append(f"inputs changed of {', '.join(inputs)}")
    told += [f"not checked: {o.where}" for o in outcomes if o.status == "unchecked" and o.where]
    return ", ".join(told)


def figure_text(key: str, value: float) -> str:
    """Write a figure in the unit that its key tells: times in ms or us, accuracy in percent."""
    if math.isnan(value):
        return "-"
    statistic = key.rpartition("/")[2]
    if statistic in {"median_ape", "p90_ape", "bias", "coverage_80"}:
        return f"{100 * value:.2f} %"
    if key.startswith("kernel/") or statistic.endswith(_SECONDS):
        return f"{value * 1e3:.4g} ms" if value >= 1e-3 else f"{value * 1e6:.4g} us"
    return f"{value:.5g}"


def change_text(outcome: Outcome) -> str:
    """Write a relative move in percent, or where a figure is misstated."""
    if outcome.where:
        return outcome.where
    return "" if math.isnan(outcome.change) else f"{100 * outcome.change:+.2f} %"


def markdown(outcomes: Sequence[Outcome]) -> str:
    """Write the comparison as Markdown: one table of before and after for each kind of failure."""
    failed = failures(outcomes)
    lines = ["# Predictions against the baseline", "", ("**Failed.** " if failed else "**Passed.** ")]
    lines[-1] += summary_line(outcomes) + "."
    for status in FAILURES:
        rows = [o for o in failed if o.status == status]
        if rows:
            lines += ["", f"## {_MEANING[status].capitalize()}", "", "| figure | before | after | change |"]
            lines.append("|---|--:|--:|--:|")
            for o in rows:
                before, after = figure_text(o.key, o.before), figure_text(o.key, o.after)
                lines.append(f"| {o.key} | {before} | {after} | {change_text(o)} |")
    return "\n".join(lines) + "\n"


def junit(outcomes: Sequence[Outcome]) -> str:
    """Write the comparison as JUnit XML: one suite for each kind of figure, one case for each figure."""
    suites = ET.Element("testsuites", name="moesim regress")
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        first, _, rest = outcome.key.partition("/")
        group = "documents" if outcome.where else f"{first}/{rest.partition('/')[0]}"
        groups.setdefault(group, []).append(outcome)
    for group, members in sorted(groups.items()):
        failed = sum(o.status in FAILURES for o in members)
        skipped = sum(o.status == "unchecked" for o in members)
        counts = {"name": group, "tests": str(len(members)), "failures": str(failed), "skipped": str(skipped)}
        suite = ET.SubElement(suites, "testsuite", counts)
        for o in members:
            name = f"{o.key} in {o.where}" if o.where else o.key
            case = ET.SubElement(suite, "testcase", classname=f"moesim.{group}", name=name)
            if o.status in FAILURES:
                told = f"{figure_text(o.key, o.before)} -> {figure_text(o.key, o.after)} {change_text(o)}"
                ET.SubElement(case, "failure", message=f"{_MEANING[o.status]}: {told}", type=o.status)
            elif o.status == "unchecked":
                ET.SubElement(case, "skipped", message=o.where or "no measurements were given")
    ET.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suites, encoding="unicode") + "\n"
