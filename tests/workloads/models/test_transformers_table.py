"""Sizes of the models that transformers builds from the defaults of its classes, and of a few published ones.

The table was recorded with the version in its name by building each class without weights and counting its tensors:
parameters of the language model (with an LM head where the class has none and ties nothing), those of its encoders,
those that one token meets, and the bytes that the projections of keys, values and latents put into a bfloat16 cache (an
index key is one byte per element and four of scale).
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from workloads.errors import ModelError
from workloads.models.hf.config import FAMILIES, from_hf_config
from workloads.models.sizes import total_active_parameters, total_parameters
from workloads.models.work import kv_bytes_per_token

TABLE = Path(__file__).parents[2] / "data" / "transformers-5.24.0.csv"
with TABLE.open(encoding="utf-8", newline="") as file:
    ROWS = {row["name"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("name", ROWS)
def test_sizes_are_those_of_the_class_that_transformers_builds(name: str) -> None:
    row = ROWS[name]
    spec = from_hf_config(json.loads(row["config"]))
    encoders = int(row["encoder_parameters"])
    assert total_parameters(spec) - spec.encoders == pytest.approx(int(row["parameters"]), rel=1e-4)
    assert spec.encoders == pytest.approx(encoders, rel=1e-3)
    if row["active_parameters"]:
        assert total_active_parameters(spec) == pytest.approx(int(row["active_parameters"]), rel=2e-4)
    if row["kv_bytes_per_token"]:
        assert kv_bytes_per_token(spec) == int(row["kv_bytes_per_token"])


@pytest.mark.parametrize("name", ROWS)
def test_no_key_of_a_class_is_unknown_to_its_reader(name: str) -> None:
    assert not [note for note in from_hf_config(json.loads(ROWS[name]["config"])).notes if "does not know" in note]


ODD = (None, 0, -1, 1, 2.5, True, "", "x", [], [1], ["a"], {}, {"a": 1}, 10**12, float("nan"), [0] * 3, ["sparse"] * 4)


def said_of(config: dict[str, Any]) -> str:
    """Return the message that refuses a configuration; empty where it is read."""
    try:
        total_parameters(from_hf_config(config))
    except ModelError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ROWS)
def test_an_odd_value_of_any_key_is_a_model_or_one_short_message(name: str) -> None:
    config = json.loads(ROWS[name]["config"])
    tables = [config, *(config[key] for key in ("text_config", "vision_config", "audio_config") if key in config)]
    for turn, (place, key) in enumerate((table, key) for table in tables for key in list(table)):
        kept, place[key] = place[key], ODD[turn % len(ODD)]
        assert len(said_of(config)) < 500
        place[key] = kept


def test_most_families_with_experts_are_in_the_table() -> None:
    configs = [json.loads(row["config"]) for row in ROWS.values()]
    types = {config.get("text_config", config)["model_type"] for config in configs}
    assert len(types & set(FAMILIES)) > 50
