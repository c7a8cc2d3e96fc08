"""What a command loads before it answers: counted in modules, as seconds differ from machine to machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Libraries that take a tenth of a second or more to load, and rooms that belong to other questions.
HEAVY = {"pandas", "pyarrow", "simpy", "plotly", "scipy", "networkx", "streamlit", "torch"}
OTHERS = {
    "simulator.serving.engine",
    "simulator.elastic.fleet",
    "simulator.explanation.explanation",
    "validation",
    "workloads.models.hf.config",
}


def loaded(*words: str) -> set[str]:
    """Names of the modules that are loaded once a command has answered."""
    script = (
        "import sys\n"
        "from simulator.cli import main\n"
        f"sys.argv = ['moesim', *{words!r}]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


SMALL = ("--set", "requests.count=4", "requests.concurrency=2", "routing.tokens=64")


def test_a_trace_of_requests_is_read_without_frames() -> None:
    assert "pandas" not in loaded("estimate", "gpt-oss-20b-h100", "--json")


@pytest.mark.parametrize("shown", [(), ("--json",)])
def test_an_estimate_loads_neither_frames_nor_the_engine(shown: tuple[str, ...]) -> None:
    assert loaded("estimate", "deepseek-v3-h200", *SMALL, *shown) & (HEAVY | OTHERS) == set()


def test_a_document_needs_nothing_that_draws_on_a_terminal() -> None:
    assert "rich.console" not in loaded("estimate", "deepseek-v3-h200", *SMALL, "--json")


def test_a_document_of_a_run_needs_no_frames() -> None:
    assert loaded("simulate", "deepseek-v3-h200", *SMALL, "--json") & {"pandas", "pyarrow", "rich.console"} == set()


def test_help_loads_the_commands_alone() -> None:
    assert loaded("--help") & (HEAVY | OTHERS | {"numpy", "pydantic", "rich.console", "simulator.api"}) == set()
