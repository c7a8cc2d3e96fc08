"""Conditions of stacks: read from their files, refused where malformed, and listed in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from simulator.conditions import Condition, load_conditions
from simulator.errors import ProfileError
from simulator.export.catalogues import show_entry
from simulator.feasibility.rules import RULES, condition_words
from simulator.stack import load_stack, stack_names

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "what-servers-refuse.md").read_text(encoding="utf-8")
STACK = (ROOT / "simulator" / "stacks" / "vllm.toml").read_text(encoding="utf-8").split("\n# What vLLM refuses")[0]

GOOD = {"rule": '"context"', "effect": '"refuses"', "source": '"a page"', "status": '"published"'}


def stack_file(folder: Path, *tables: dict[str, str]) -> str:
    text = STACK.replace('id = "vllm"', 'id = "mine"')
    for table in tables:
        text += "\n[[conditions]]\n" + "\n".join(f"{key} = {value}" for key, value in table.items()) + "\n"
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("stack", stack_names())
def test_every_condition_of_the_stacks_that_ship_has_a_source(stack: str) -> None:
    conditions = load_conditions(stack).conditions
    assert conditions
    assert len(set(conditions)) == len(conditions)
    assert {condition.status for condition in conditions} == {"published"}
    assert all(re.search(r"[\w-]+/[\w.-]+#\d+|[\w-]+/[\w.-]+ [\w/]+\.\w+|docs\.|\.io/", c.source) for c in conditions)


def test_a_stack_without_conditions_refuses_nothing(tmp_path: Path) -> None:
    mine = stack_file(tmp_path)
    assert load_conditions(mine).conditions == ()
    assert load_stack(mine).id == "mine"


def test_a_stack_of_ones_own_may_have_conditions(tmp_path: Path) -> None:
    mine = stack_file(tmp_path, GOOD)
    assert load_conditions(mine).conditions == (
        Condition(rule="context", effect="refuses", source="a page", status="published"),
    )
    assert load_stack(mine).id == "mine"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({**GOOD, "rule": '"contxt"'}, "context"),
        ({**GOOD, "effect": '"stops"'}, "refuses"),
        ({**GOOD, "status": '"sure"'}, "published"),
        ({**GOOD, "source": '""'}, "source"),
        ({key: value for key, value in GOOD.items() if key != "source"}, "missing 'source'"),
        ({**GOOD, "dtypes": '["fp8"]'}, "unknown key 'dtypes'"),
        ({**GOOD, "rule": '"cache_dtypes"'}, "missing 'dtypes'"),
        ({**GOOD, "rule": '"cache_dtypes"', "dtypes": '["fp9"]'}, "unknown name 'fp9'"),
        ({**GOOD, "rule": '"cache_dtypes"', "dtypes": "[]"}, "expected a list"),
        ({**GOOD, "rule": '"cache_dtypes"', "dtypes": "[8]"}, "expected a list of names"),
        ({**GOOD, "rule": '"shard_multiple"', "dtypes": '["fp8"]', "parts": '["expert"]'}, "unknown name 'expert'"),
        ({**GOOD, "rule": '"weights_dtype"', "dtypes": '["fp8"]', "priced_as": '"int4"'}, "another size than fp8"),
        ({**GOOD, "rule": '"weights_dtype"', "dtypes": '["fp8"]', "priced_as": '"int5"'}, "unknown name 'int5'"),
        ({**GOOD, "rule": '"exchange_degree"', "exchanges": '["deepe"]'}, "unknown name 'deepe'"),
        ({**GOOD, "rule": '"pipeline_drafts"', "drafts": '["eagle"]'}, "unknown name 'eagle'"),
        ({**GOOD, "rule": '"cache_dtype_on"', "dtypes": '["fp8"]', "mixers": '["gqa"]'}, "unknown name 'gqa'"),
        ({**GOOD, "rule": '"cache_dtypes"', "dtypes": f'["{"x" * 1000}"]'}, "unknown name"),
        (
            {**GOOD, "rule": '"shard_multiple"', "dtypes": '["fp8"]', "parts": '["attention"]', "input": "0"},
            "whole number above 0",
        ),
        (
            {**GOOD, "rule": '"shard_multiple"', "dtypes": '["fp8"]', "parts": '["attention"]', "grouped": "1"},
            "expected true or false",
        ),
    ],
)
def test_a_malformed_condition_is_one_message_with_its_place(
    table: dict[str, str], message: str, tmp_path: Path
) -> None:
    mine = stack_file(tmp_path, table)
    for load in (load_conditions, load_stack):
        with pytest.raises(ProfileError, match=r"mine\.toml: conditions\.0") as caught:
            load(mine)
        assert message in str(caught.value)
        assert len(str(caught.value)) < 500


def test_conditions_are_tables(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    for value in ("3", "[3]"):
        path.write_text(f"conditions = {value}\n" + STACK, encoding="utf-8")
        with pytest.raises(ProfileError, match="conditions"):
            load_conditions(str(path))


def row(condition: Condition) -> str:
    """A condition as the page lists it: the rule's own words, its names and numbers, and where it was read."""
    said = condition_words(condition.rule)
    numbers = [
        *(
            ", ".join(names)
            for names in (condition.dtypes, condition.parts, condition.mixers, condition.drafts)
            if names
        ),
        *([f"outputs of {condition.output}"] if condition.output else []),
        *([f"inputs of {condition.input}"] if condition.input else []),
        *(["whole groups"] if condition.grouped else []),
        *([", ".join(condition.exchanges)] if condition.exchanges else []),
        *([f"sizes {', '.join(map(str, condition.sizes))}"] if condition.sizes else []),
        *([", ".join(condition.methods)] if condition.methods else []),
        *([f"at most {condition.most}"] if condition.most else []),
        *([f"on {', '.join(condition.architectures)}"] if condition.architectures else []),
    ]
    notes = "; ".join(part for part in (condition.note, condition.versions) if part)
    return f"| {condition.effect} | {said} | {'; '.join(numbers)} | {notes} | {condition.source} |"


@pytest.mark.parametrize("stack", stack_names())
def test_a_stack_is_shown_with_its_conditions(stack: str) -> None:
    shown = show_entry(stack, None)["conditions"]
    conditions = load_conditions(stack).conditions
    assert [(row["rule"], row["effect"], row["source"]) for row in shown] == [
        (each.rule, each.effect, each.source) for each in conditions
    ]
    assert all(row["says"] for row in shown)


def test_every_rule_says_what_it_asks() -> None:
    assert all(len(condition_words(rule)) > 20 for rule in RULES)


@pytest.mark.parametrize("stack", stack_names())
def test_the_page_lists_the_conditions_of_every_stack(stack: str) -> None:
    section = PAGE.split(f"\n### {load_stack(stack).name}\n")[1].split("\n### ")[0].split("\n## ")[0]
    listed = [line for line in section.splitlines() if line.startswith(("| refuses", "| warns"))]
    expected = [row(condition) for condition in load_conditions(stack).conditions]
    assert listed == expected, "the table should be:\n" + "\n".join(expected)


def test_a_fault_in_a_stack_file_is_told_with_its_path_as_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    stack_file(tmp_path / "mine", {**GOOD, "effect": '"stops"'})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProfileError, match=r"^mine/mine\.toml: conditions\.0"):
        load_stack("mine/mine.toml")
