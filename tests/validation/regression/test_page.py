"""The validation page and its charts: made of recorded accuracy alone, and read as what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from validation.papers.papers import Check
from validation.papers.report import PaperReport, Row, Verdict
from validation.papers.run import validate_papers
from validation.regression.charts import Bar, coverage_chart, error_chart
from validation.regression.page import AIMS, page_text, write_page
from validation.regression.regress import load_baseline
from validation.regression.stated import stated_figures

ROOT = Path(__file__).parents[3]
BASELINE = ROOT / "validation" / "baselines" / "main.json"


def verdict(name: str, predicted: float, **changes: Any) -> Verdict:
    told = {"evidence": "identity", **changes}
    check = Check(check_id=name, quantity="size", figure="model.total", published=10.0, unit="B", **told)
    return Verdict(case="x", paper="X", check=check, predicted=predicted)


PAPERS = PaperReport(
    verdicts=(
        verdict("X-met", 10.0),
        verdict("X-off", 20.0, off="the parts make 20"),
        verdict("X-missed", 20.0, missed="no such term"),
        verdict("X-fitted", 10.0, fitted=True),
        verdict("X-quoted", 10.0, evidence="quoted"),
    ),
    rows=(
        Row(row="X-met", paper="X", outcome="within"),
        Row(row="X-none", paper="X", outcome="not_expressible", reason="an input", needs="nothing"),
    ),
)


def accuracy(subject: str, *ops: str, median: float = 0.04, coverage: float = 0.81) -> dict[str, float]:
    figures = {"rows": 1234.0, "median_ape": median, "p90_ape": 0.12, "bias": -0.01, "coverage_80": coverage}
    return {f"{subject}/{op}/{key}": value for op in ops for key, value in figures.items()}


def test_every_figure_of_the_page_is_marked_and_right(tmp_path: Path) -> None:
    recorded = accuracy("a-gpu", *AIMS) | accuracy("b-gpu<-a-gpu", "gemm", median=0.3)
    write_page(recorded, PAPERS, tmp_path / "validation.md")
    stated = stated_figures([tmp_path])
    assert len(stated) == len(recorded)
    assert all(figure.right(recorded) for figure in stated)


def test_the_page_tells_unseen_shapes_from_devices_never_fitted() -> None:
    text = page_text(accuracy("b-gpu<-a-gpu", "gemm") | accuracy("a-gpu", "gemm"), PAPERS)
    assert text.index("## a-gpu, unseen shapes") < text.index("## b-gpu, predicted with the kernels of a-gpu")
    assert "Fitted on" in text
    assert "Validated on" in text


def test_charts_say_in_words_what_they_show(tmp_path: Path) -> None:
    recorded = accuracy("a-gpu", "gemm", "mamba2", median=0.06, coverage=0.5)
    files = write_page(recorded, PAPERS, tmp_path / "validation.md")
    told = [ET.parse(file).getroot().get("aria-label") for file in files if file.suffix == ".svg"]  # noqa: S314
    assert told == [
        "a-gpu: the median error meets its aim for 1 of 2 ops",
        "a-gpu: 70 to 90 % of the rows lie in the 80 % interval for 0 of 2 ops",
    ]


def test_bars_grow_with_errors() -> None:
    def widths(p90: float) -> list[float]:
        bar = Bar(label="gemm & co", median=0.05, p90=p90, aim_median=0.1, aim_p90=0.5)
        chart = ET.fromstring(error_chart("t", [bar], "d"))  # noqa: S314
        return [float(rect.get("width", "nan")) for rect in chart.iter("{http://www.w3.org/2000/svg}rect")]

    small, large = widths(0.2), widths(0.4)
    assert large[0] == pytest.approx(2 * small[0], abs=0.2)
    assert large[1] == small[1]


def test_shares_outside_the_band_have_another_shape() -> None:
    chart = coverage_chart("t", [("in", 0.8), ("out", 0.5)], "d")
    assert chart.count("<circle") == 1
    assert chart.count("<path") == 1


def test_the_headline_counts_neither_what_was_fitted_nor_what_is_quoted() -> None:
    text = page_text({}, PAPERS)
    assert "**1 of 2 rows are met; 1 of 3 checks that count are within tolerance.**" in text
    assert "| identity | 1 | 1 | 1 | 1 |" in text
    assert "| quoted, not counted | 1 | 0 | 0 | 0 |" in text
    own, others = text.index("### Checks that count"), text.index("### Checks that do not count")
    assert own < text.index("| X-missed |") < others < text.index("| X-fitted |") < text.index("| X-quoted |")
    assert "* X-off, size: the parts make 20." in text
    assert "* X-missed, size: no such term." in text
    assert "| X | X-none | an input | nothing |" in text


def test_the_committed_page_is_the_one_that_the_baseline_makes(paper_verdicts) -> None:
    baseline = load_baseline(BASELINE)
    page = BASELINE.parent / baseline.page
    assert page.read_text(encoding="utf-8") == page_text(baseline.accuracy, validate_papers(run=paper_verdicts))
