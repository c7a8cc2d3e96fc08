"""Published figures: what is computed, what counts as met, and what must be explained."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from simulator.cli.app import app
from validation.papers import papers, run
from validation.papers.papers import Case, CaseError, Check, NotExpressible, case_names, load_case
from validation.papers.report import PaperReport, Verdict, case_rows
from validation.papers.run import run_case, validate_papers

ROOT = Path(__file__).parents[3]
PUBLISHED_IDS = ROOT / "tests" / "data" / "published_ids.txt"
#: The tables of figures that the rows of all cases repeat; beside a checkout that has them.
SEED_CHECKS = ROOT.parent / "shared" / "measurements" / "seed_checks.csv"
CHECK = Check(check_id="X-01", quantity="size", figure="model.total", published=10.0, unit="B", evidence="identity")


def verdict(predicted: float, **changes: Any) -> Verdict:
    return Verdict(case="x", paper="X", check=dataclasses.replace(CHECK, **changes), predicted=predicted)


def outcome_of_row(*verdicts: Verdict, left_out: bool = False) -> str:
    without = (NotExpressible(rows=("X-01",), reason="half of it", needs="more"),) if left_out else ()
    case = Case(
        name="x", paper="X", source="x", models={}, inputs={}, checks=(), rows=("X-01",), not_expressible=without
    )
    (row,) = case_rows(case, verdicts)
    return row.outcome


def is_system(name: str) -> bool:
    """Whether a case predicts a serving system: steps and loads, which no arithmetic fixes."""
    return "points" in load_case(name).inputs


@pytest.mark.parametrize("name", case_names())
def test_what_is_known_of_a_miss_stands_in_the_case(name: str, paper_verdicts) -> None:
    silent = [v.check for v in paper_verdicts(name) if v.outcome == "missed" and not v.check.missed]
    assert [check.check_id for check in silent] == []


@pytest.mark.parametrize("name", case_names())
def test_only_a_figure_that_is_missed_contradicts_its_paper(name: str, paper_verdicts) -> None:
    assert [v.check.check_id for v in paper_verdicts(name) if v.within and v.check.off] == []


@pytest.mark.parametrize("name", case_names())
def test_a_check_of_the_engine_has_a_scenario_beside_its_case(name: str) -> None:
    engine = [c.check_id for c in load_case(name).checks if c.evidence == "engine"]
    files = (papers.CASES / name).glob("*.toml")
    assert not engine or any("requests" in tomllib.loads(file.read_text(encoding="utf-8")) for file in files), engine


@pytest.mark.parametrize("name", case_names())
def test_a_check_that_counts_does_not_say_that_its_input_was_set_to_the_paper(name: str) -> None:
    told = re.compile(r"\b(was|were|are) (set to|fitted|derived|chosen)|rests? on the|taken to meet this|taken after")
    assert [c.check_id for c in load_case(name).checks if c.counted and told.search(c.note)] == []


def test_figures_that_rest_on_inputs_set_to_their_own_table_are_not_counted() -> None:
    # Host time, batch and memory; spread and window; loads; experts in use.
    for name in ("elasticmoe", "expert_statistics", "adamoe"):
        assert [c.check_id for c in load_case(name).checks if c.counted] == []
    hits = [c for c in load_case("readme").checks if c.figure.startswith("hits.")]
    assert {(c.evidence, c.fitted) for c in hits} == {("cost", True)}


def test_arithmetic_is_within_a_percent_or_the_note_says_why() -> None:
    checks = [c for name in case_names() for c in load_case(name).checks if c.evidence in {"identity", "quoted"}]
    loose = [c for c in checks if c.tolerance > 0.01 and not c.fitted]
    assert [c.check_id for c in loose if not c.note and not c.off] == []


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
    monkeypatch.setattr(run, "load_case", lambda _: changed)
    assert [v.check.check_id for v in run_case("qmoe") if v.outcome == "missed"] == ["QMoE-05"]


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


def test_what_is_said_of_a_miss_does_not_make_it_less_of_one() -> None:
    assert verdict(20.0).outcome == verdict(20.0, missed="no such term", note="hard").outcome == "missed"
    assert verdict(20.0, off="the parts make 20").outcome == "off"
    assert verdict(10.0, off="the parts make 20").outcome == "within"
    assert "no such term" in verdict(20.0, missed="no such term").document()["note"]


def test_quoted_and_fitted_figures_are_listed_and_never_counted() -> None:
    listed = (verdict(10.0, evidence="quoted"), verdict(10.0, fitted=True), verdict(20.0, fitted=True))
    report = PaperReport(verdicts=(*listed, verdict(10.0, evidence="cost"), verdict(10.0, evidence="engine")))
    assert [v.check.evidence for v in report.counted] == ["cost", "engine"]
    summary = report.summary()
    assert (summary["counted"], summary["counted_within"], summary["fitted"], summary["quoted"]) == (2, 2, 2, 1)
    assert report.passed


@pytest.mark.parametrize(
    ("verdicts", "left_out", "outcome"),
    [
        ((verdict(10.0),), False, "within"),
        ((verdict(10.0), verdict(20.0)), False, "missed"),
        ((verdict(10.0), verdict(20.0, off="the parts make 20")), False, "off"),
        ((verdict(10.0), verdict(20.0, fitted=True)), False, "within"),
        ((verdict(10.0, fitted=True),), False, "fitted"),
        ((verdict(10.0, evidence="quoted"),), False, "quoted"),
        ((), True, "not_expressible"),
        ((verdict(10.0),), True, "not_expressible"),
        ((verdict(20.0),), True, "missed"),
    ],
)
def test_a_row_is_met_only_by_checks_that_count_and_only_whole(
    verdicts: tuple[Verdict, ...], left_out: bool, outcome: str
) -> None:
    assert outcome_of_row(*verdicts, left_out=left_out) == outcome


def test_the_rows_of_all_cases_are_those_of_the_tables_of_figures() -> None:
    if not SEED_CHECKS.is_file():
        pytest.skip("the tables of figures are not beside this checkout")
    with SEED_CHECKS.open(encoding="utf-8", newline="") as file:
        stated = [row["check_id"] for row in csv.DictReader(file)]
    assert sorted(row for name in case_names() for row in load_case(name).rows) == sorted(stated)


def test_every_row_stands_in_one_case() -> None:
    rows = [row for name in case_names() for row in load_case(name).rows]
    assert len(rows) == len(set(rows)) == 331


def test_an_unknown_case_names_the_nearest_one() -> None:
    with pytest.raises(CaseError, match="'slimmoe'"):
        validate_papers(["slimoe"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('paper = "X"\nsource = "Y"\n', "'rows'"),
        ("paper = \n", "case.toml"),
        (
            'paper = "X"\nsource = "Y"\nrows = []\nchecks = [{ check_id = "X-1", quantity = "q", figure = "f", '
            'published = 1, unit = "furlong", evidence = "cost" }]\n',
            "unknown unit 'furlong'",
        ),
        (
            'paper = "X"\nsource = "Y"\nrows = []\nchecks = [{ check_id = "X-1", quantity = "q", figure = "f", '
            'published = 1, unit = "B", evidence = "hearsay" }]\n',
            "unknown evidence 'hearsay'",
        ),
        ('paper = "X"\nsource = "Y"\nrows = ["X-1"]\n', "row X-1 has neither a check nor a reason"),
        (
            'paper = "X"\nsource = "Y"\nrows = []\nnot_expressible = [{ rows = ["X-2"], reason = "r", needs = "n" }]\n',
            "unknown row 'X-2'",
        ),
        (
            'paper = "X"\nsource = "Y"\nrows = []\nchecks = [{ check_id = "X-1", quantity = "q", figure = "f", '
            'published = 1, unit = "B", evidence = "cost" }]\n',
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
    monkeypatch.setattr(run, "load_case", lambda _: lost)
    with pytest.raises(CaseError, match=r"bam/case\.toml: compute: .*no_such_figures"):
        run_case("bam")


def test_the_command_answers_in_json() -> None:
    answer = CliRunner().invoke(app, ["validate", "papers", "slimmoe", "qmoe", "--json"])
    document = json.loads(answer.stdout)
    assert answer.exit_code == 1
    keys = {"paper", "check_id", "published", "predicted", "unit", "tolerance", "within", "note"}
    keys |= {"evidence", "fitted", "counted", "outcome"}
    assert all(keys <= check.keys() for check in document["checks"])
    summary = document["summary"]
    assert (summary["papers"], summary["rows"], summary["rows_missed"]) == (2, 13, 1)
    assert len(document["rows"]) == 13


def test_the_command_tells_rows_without_a_check_and_what_counts() -> None:
    answer = CliRunner().invoke(app, ["validate", "papers", "d2moe", "hunyuan_turbos"])
    assert answer.exit_code == 0
    text = " ".join(answer.stdout.split())
    assert "no check: D2MoE: D2MoE-12: an input: the bandwidth of a disk; needs: nothing" in text
    assert "1 of 15 rows are met; 1 of 1 checks that count are within tolerance" in text


@pytest.mark.parametrize(("change", "code"), [({}, 1), ({"fitted": True}, 0), ({"evidence": "quoted"}, 0)])
def test_the_command_fails_when_a_figure_that_counts_is_missed_whatever_is_said_of_it(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], code: int
) -> None:
    case = load_case("minicpm")
    check = dataclasses.replace(case.checks[0], published=1.0, missed="known", note="hard", **change)
    monkeypatch.setattr(run, "load_case", lambda _: dataclasses.replace(case, checks=(check,)))
    answer = CliRunner().invoke(app, ["validate", "papers", "minicpm"])
    assert answer.exit_code == code
