"""``moesim place``: what it prints, draws and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from simulator.cli.app import app
from workloads.routing.files import save_routing_trace
from workloads.routing.generators import generate_routing

SAMPLE = ("--routing", "sample:routing_24x32_top4.npz", "--device", "h100-sxm")
QUICK = ("--policies", "linear,refined", "--windows", "2", "--batch", "8")


def place(*words: str) -> Result:
    return CliRunner().invoke(app, ["place", *words])


def document(*words: str) -> dict[str, object]:
    done = place(*words, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_trace_and_a_device_are_enough() -> None:
    done = place(*SAMPLE, *QUICK, "--ep", "8")
    assert done.exit_code == 0, done.output
    assert "EP 8 on one node" in done.stdout
    for word in ("refined", "oracle", "bound", "gain", "layer"):
        assert word in done.stdout


def test_the_document_has_every_degree_and_policy() -> None:
    found = document(*SAMPLE, *QUICK, "--ep", "4,16", "--redundant", "1")
    studies = found["studies"]
    assert isinstance(studies, list)
    assert [(study["ep"], study["nodes"], study["redundant_slots"]) for study in studies] == [(4, 1, 4), (16, 2, 16)]
    for study in studies:
        rows = {row["policy"]: row for row in study["policies"]}
        assert list(rows) == ["linear", "refined", "oracle"]
        assert rows["linear"]["gain"] == 0.0
        assert rows["oracle"]["rank_imbalance_held_out"] <= rows["refined"]["rank_imbalance_held_out"]
        for row in rows.values():
            assert row["step_s"] == pytest.approx(sum(row["parts_s"].values()))
            assert row["rank_imbalance_held_out"] >= row["lower_bound"] * (1 - 1e-9)
            assert len(row["heat"]) == 24
            assert sum(row["heat"][0]) == pytest.approx(study["ep"], abs=1e-2)


def test_a_lasting_skew_is_won_back_on_what_was_held_out(tmp_path: Path) -> None:
    trace = generate_routing(
        "zipf", tokens=4000, layers=24, num_experts=32, top_k=4, seed=1, exponent=1.0, sequence_tokens=100
    )
    file = tmp_path / "skewed.npz"
    save_routing_trace(trace, file)
    found = document("--routing", str(file), "--device", "h100-sxm", "--ep", "8", "--redundant", "1", *QUICK)
    linear, refined, _ = found["studies"][0]["policies"]  # type: ignore[index]
    assert refined["rank_imbalance_held_out"] < 1.1 < linear["rank_imbalance_held_out"]
    assert refined["gain"] > 0.01


def test_a_picture_has_a_cell_per_layer_and_rank(tmp_path: Path) -> None:
    file = tmp_path / "load.svg"
    assert place(*SAMPLE, *QUICK, "--ep", "4", "--out", str(file)).exit_code == 0
    root = ElementTree.fromstring(file.read_text(encoding="utf-8"))  # noqa: S314 - our own picture
    rects = root.findall("{http://www.w3.org/2000/svg}rect")
    assert len(rects) == 1 + 2 * 24 * 4 + 41


def test_a_page_holds_the_picture_and_the_scores(tmp_path: Path) -> None:
    file = tmp_path / "load.html"
    assert place(*SAMPLE, *QUICK, "--ep", "4", "--out", str(file)).exit_code == 0
    text = file.read_text(encoding="utf-8")
    assert "<svg" in text
    assert text.count("<tr>") == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name a scenario, or give --routing TRACE or --loads TABLE and --device NAME"),
        ((*SAMPLE, "--policies", "lnear"), "unknown policy 'lnear'; did you mean 'linear'?"),
        ((*SAMPLE, "--ep", "1"), "expected whole numbers of at least 2"),
        ((*SAMPLE, "--ep", "x"), "expected whole numbers of at least 2"),
        ((*SAMPLE,), "placing experts needs at least 2 expert-parallel ranks, got 1"),
        ((*SAMPLE, "--ep", "5"), "3 more redundant slots (placement.redundant_slots) would do"),
        ((*SAMPLE, "--ep", "8", "--model", "deepseek-v3"), "does not fit"),
        ((*SAMPLE, "--ep", "8", "--model", "gpt-oss-120b"), "the model has 36 MoE layers of 128 experts"),
        (
            (*SAMPLE, "--ep", "4", "--redundant", "400"),
            "redundant slots (placement.redundant_slots) instead of 1600 fit",
        ),
        ((*SAMPLE, "--ep", "4", "--out", "map.png"), "a picture is .svg or .html"),
        (("--routing", "sample:routing_4x8_top2.parquet", "--device", "h100-sxm"), "fit none of the catalogue"),
    ],
)
def test_what_cannot_be_placed_is_refused_in_one_message(words: tuple[str, ...], message: str) -> None:
    done = place(*words)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
    assert "Traceback" not in done.output
