"""The command as a process of its own: what it imports, and what reaches the two streams."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("module", ["typer", "simulator.cli.app", "numpy", "simulator.run.play"])
def test_a_signal_ends_the_command_cleanly_even_while_modules_are_loaded(
    tmp_path: Path, number: int, code: int, module: str
) -> None:
    stop = (
        "import os, sys, simulator.cli\n"
        "class Stop:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        f"            os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Stop())\n"
        "simulator.cli.main()\n"
    )
    answer = run(stop, "simulate", "mixtral-8x7b-a100", "--out", str(tmp_path / "run"))
    assert answer.returncode == code
    assert "Traceback" not in answer.stderr
    assert answer.stderr.startswith(("interrupted", "terminated"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("command", ["list devices", "list devices --json", "list keys", "version", "--help"])
def test_a_disk_that_is_full_is_one_message(command: str) -> None:
    code = "import simulator.cli; simulator.cli.main()"
    with Path("/dev/full").open("w") as full:
        answer = subprocess.run(
            [sys.executable, "-c", code, *command.split()], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert answer.returncode == 2
    assert answer.stderr == "error: the answer cannot be written: No space left on device\n"


def test_a_reader_that_has_read_enough_hears_nothing_more() -> None:
    code = "import simulator.cli; simulator.cli.main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "list", "keys"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.readline()
        command.stdout.close()
        assert command.stderr.read() == ""
