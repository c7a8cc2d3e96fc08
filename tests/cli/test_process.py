"""The command as a process of its own: what it imports, and what reaches the two streams."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

#: What no answer about the command itself may load.
HEAVY = ("pandas", "pydantic", "pyarrow", "plotly", "streamlit", "networkx", "simpy", "numpy", "rich")


def run(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, simulator.cli\n"
        "sys.argv = ['moesim', '--help']\n"
        "try:\n    simulator.cli.main()\n"
        f"finally:\n    print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    answer = run(code)
    assert answer.returncode == 0
    assert "simulate" in answer.stdout
    assert answer.stderr.strip() == "[]"


def test_an_error_reaches_standard_error_alone(tmp_path: Path) -> None:
    answer = run("import simulator.cli; simulator.cli.main()", "show", "h100-smx")
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert "did you mean 'h100-sxm'" in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_json_of_a_failure_is_one_document() -> None:
    answer = run("import simulator.cli; simulator.cli.main()", "show", "h100-smx", "--json")
    assert answer.returncode == 2
    assert json.loads(answer.stdout)["error"]["kind"] == "ScenarioError"


def test_a_narrow_ascii_terminal_still_gets_an_answer() -> None:
    command = [sys.executable, "-c", "import simulator.cli; simulator.cli.main()", "list", "keys"]
    environment = {"COLUMNS": "30", "PYTHONIOENCODING": "ascii"}
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert answer.returncode == 0
    assert max(len(line) for line in answer.stdout.splitlines()) <= 30
    assert "\x1b" not in answer.stdout, "no colours where there is no terminal"
