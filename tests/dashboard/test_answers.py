"""Answers that the page keeps follow what the files say, as long as the server runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import hardware_profiles
from dashboard import answers
from simulator import Scenario

PROFILES = Path(hardware_profiles.__file__).parent


def scenario(folder: Path, name: str = "scenario") -> Scenario:
    return Scenario.from_mapping(
        {
            "name": name,
            "model": {"name": "mixtral-8x7b"},
            "hardware": {"device": "h200-sxm", "profiles": str(folder)},
            "parallelism": {"tp": 2},
            "requests": {"concurrency": 4, "count": 8, "lengths": {"input": 64, "output": 8}},
            "routing": {"kind": "balanced"},
        }
    )


def test_every_kept_answer_is_made_anew_when_a_profile_is_edited(tmp_path: Path) -> None:
    (tmp_path / "devices").mkdir()
    profile = Path(shutil.copy(PROFILES / "devices" / "h200-sxm.toml", tmp_path / "devices"))
    asked = scenario(tmp_path)

    def kept() -> list[float]:
        return [
            answers.estimate_of(asked).summary.tpot_s.mean,
            answers.explanation_of(asked, "decode").step_s,
            answers.timeline_of(asked, "decode").step_s,
        ]

    before, key = kept(), answers.key_of(asked)
    assert kept() == before
    text = profile.read_text(encoding="utf-8")
    profile.write_text(text.replace("{ value = 4800,", "{ value = 480,"), encoding="utf-8")
    assert all(slower > 2 * fast for slower, fast in zip(kept(), before, strict=True))
    assert answers.key_of(asked) != key


def test_the_key_tells_scenarios_of_other_names_apart_and_names_those_that_cannot_be_loaded(tmp_path: Path) -> None:
    assert answers.key_of(scenario(tmp_path)) != answers.key_of(scenario(tmp_path, "another"))
    unknown = scenario(tmp_path).override("model.name=nobody-knows")
    assert answers.key_of(unknown) == answers.key_of(unknown) != answers.key_of(scenario(tmp_path))
