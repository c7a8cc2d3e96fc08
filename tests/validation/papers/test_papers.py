"""Published figures: what is computed, what counts as met, and what must be explained."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from simulator.cli.app import app
from validation.papers import papers
from validation.papers.papers import CaseError, Check, Verdict, case_names, load_case, run_case, validate_papers

PUBLISHED_IDS = Path(__file__).parents[2] / "data" / "published_ids.txt"
CHECK = Check(check_id="X-01", quantity="size", figure="model.total", published=10.0, unit="B")


def verdict(predicted: float, **changes: object) -> Verdict:
    return Verdict(case="x", paper="X", check=dataclasses.replace(CHECK, **changes), predicted=predicted)


def is_system(name: str) -> bool:
    """Whether a case predicts a serving system: steps and loads, which no arithmetic fixes."""
    return "points" in load_case(name).inputs


@pytest.mark.parametrize("name", case_names())
def test_every_figure_is_met_or_the_case_says_why_not(name: str, paper_verdicts) -> None:
    missed = [v.check for v in paper_verdicts(name) if v.outcome == "outside"]
    assert [check.check_id for check in missed] == []


@pytest.mark.parametrize("name", case_names())
def test_a_reason_is_given_only_for_figures_that_are_missed(name: str, paper_verdicts) -> None:
    assert [v.check.check_id for v in paper_verdicts(name) if v.within and v.check.off] == []


def test_arithmetic_is_within_a_percent_or_the_note_says_why() -> None:
    names = [name for name in case_names() if not is_system(name)]
    loose = [c for name in names for c in load_case(name).checks if c.tolerance > 0.01 and not c.fitted]
    assert [c.check_id for c in loose if not c.note and not c.off and c.unit not in {"us", "GB/s"}] == []


def test_every_check_is_one_of_the_published_ones() -> None:
    known = set(PUBLISHED_IDS.read_text(encoding="utf-8").split())
    # A letter behind a number marks a further figure of the same paper.
    used = {(name, c.check_id.rstrip("abc")) for name in case_names() for c in load_case(name).checks}
    # Serving systems publish more than the tables list; such figures are named after their system.
    assert {name for case, name in used if not is_system(case) or name.startswith("M0")} <= known


def test_sizes_follow_from_the_stated_shape() -> None:
    figures = papers.model_figures(load_case("minicpm").models)
    assert figures["moe.total_inside"] == pytest.approx(13.59e9, rel=1e-3)
    assert figures["moe.total"] - figures["moe.total_inside"] == pytest.approx(2 * 2304)


def test_a_changed_input_misses_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    case = load_case("qmoe")
    changed = dataclasses.replace(case, inputs={**case.inputs, "zeros": 0.8})
    monkeypatch.setattr(papers, "load_case", lambda _: changed)
    assert [v.check.check_id for v in run_case("qmoe") if v.outcome == "outside"] == ["QMoE-05"]


@pytest.mark.parametrize(
    ("predicted", "kind", "within"),
    [
        (10.09, "equal", True),
        (9.91, "equal", True),
        (10.2, "equal", False),
        (12.0, "at_least", True),
        (9.8, "at_least", False),
        (8.0, "at_most", True),
        (10.2, "at_most", False),
    ],
)
def test_a_bound_is_met_from_its_side(predicted: float, kind: str, within: bool) -> None:
    assert verdict(predicted, kind=kind).within is within


def test_a_missed_figure_is_explained_only_with_a_reason() -> None:
    assert verdict(20.0).outcome == "outside"
    assert verdict(20.0, off="a misprint").outcome == "explained"
    assert verdict(20.0, missed="no such term").outcome == "missed"
    assert "a misprint" in verdict(20.0, off="a misprint").document()["note"]


def test_an_unknown_case_names_the_nearest_one() -> None:
    with pytest.raises(CaseError, match="'slimmoe'"):
        validate_papers(["slimoe"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('paper = "X"\nsource = "Y"\n', "'checks'"),
        ("paper = \n", "case.toml"),
        (
            'paper = "X"\nsource = "Y"\nchecks = [{ check_id = "X-1", quantity = "q", figure = "f", '
            'published = 1, unit = "furlong" }]\n',
            "unknown unit 'furlong'",
        ),
        (
            'paper = "X"\nsource = "Y"\nchecks = [{ check_id = "X-1", quantity = "q", figure = "f", '
            'published = 1, unit = "B" }]\n',
            "unknown figure 'f'",
        ),
    ],
)
def test_a_malformed_case_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, told: str
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "case.toml").write_text(text + '[library]\nm = "mixtral-8x7b"\n' * ("furlong" not in text))
    monkeypatch.setattr(papers, "CASES", tmp_path)
    with pytest.raises(CaseError, match=told):
        run_case("x")


def test_a_case_names_the_function_that_derives_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_case("deepep").compute == "validation.papers.published_exchange.case_figures"
    assert load_case("bam").compute == "validation.cases.bam.compute.figures"
    assert load_case("minicpm").compute == ""
    lost = dataclasses.replace(load_case("bam"), compute="validation.papers.systems.no_such_figures")
    monkeypatch.setattr(papers, "load_case", lambda _: lost)
    with pytest.raises(CaseError, match=r"bam/case\.toml: compute: .*no_such_figures"):
        run_case("bam")


def test_the_command_answers_in_json() -> None:
    answer = CliRunner().invoke(app, ["validate", "papers", "slimmoe", "qmoe", "--json"])
    document = json.loads(answer.stdout)
    assert answer.exit_code == 0
    keys = {"paper", "check_id", "published", "predicted", "unit", "tolerance", "within", "note"}
    assert all(keys <= check.keys() for check in document["checks"])
    assert document["summary"]["papers"] == 2


def test_the_command_fails_when_a_figure_is_missed_without_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    case = load_case("bam")
    changed = dataclasses.replace(case, inputs={**case.inputs, "ffn_flops": 1})
    monkeypatch.setattr(papers, "load_case", lambda _: changed)
    answer = CliRunner().invoke(app, ["validate", "papers", "bam"])
    assert answer.exit_code == 1
    assert "1 outside" in answer.stdout
