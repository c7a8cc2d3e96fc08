"""The dashboard command: this machine only, and a clear word where it cannot start."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from simulator.cli import serve


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Commands that would have replaced this process."""
    commands: list[list[str]] = []
    (tmp_path / "server.py").write_text("")
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(serve, "find_spec", lambda _: spec)
    monkeypatch.setattr("os.execv", lambda _, command: commands.append(command))
    return commands


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_the_dashboard_listens_on_this_machine_only(started: list[list[str]], moesim: Any) -> None:
    port = free_port()
    assert moesim("dashboard", "--port", port).exit_code == 0
    command = started[0]
    assert command[:4] == [sys.executable, "-m", "streamlit", "run"]
    assert Path(command[4]).name == "server.py"
    assert {"--server.address=127.0.0.1", f"--server.port={port}"} <= set(command)


@pytest.mark.parametrize("option", ["server.enableXsrfProtection", "server.enableCORS"])
def test_nobody_s_own_settings_weaken_the_server(option: str, started: list[list[str]], moesim: Any) -> None:
    assert moesim("dashboard", "--port", free_port()).exit_code == 0
    # Streamlit lets its command line prevail over its files and over environment variables.
    assert f"--{option}=true" in started[0]
    assert {f"--server.allowedHosts={name}" for name in ("localhost", "127.0.0.1", "::1")} <= set(started[0])


def test_a_name_of_this_machine_is_served_with_a_warning(started: list[list[str]], moesim: Any) -> None:
    answer = moesim("dashboard", "--port", free_port(), "--host", "127.0.0.2")
    assert answer.exit_code == 0
    assert {"--server.address=127.0.0.2", "--server.allowedHosts=127.0.0.2"} <= set(started[0])
    assert "no passwords" in answer.stderr


@pytest.mark.parametrize("host", ["", "a b", "192.0.2.1", "x" * 300])
def test_what_is_no_name_of_this_machine_is_refused(host: str, started: list[list[str]], moesim: Any) -> None:
    answer = moesim("dashboard", "--port", free_port(), "--host", host)
    assert answer.exit_code == 2
    assert "no name or address of this machine" in answer.stderr
    assert len(answer.stderr) < 500
    assert started == []


def test_a_taken_port_is_named(started: list[list[str]], moesim: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = moesim("dashboard", "--port", port)
    assert answer.exit_code == 2
    assert f"port {port}" in answer.stderr
    assert started == []


def test_a_missing_dashboard_is_said(started: list[list[str]], moesim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda _: None)
    answer = moesim("dashboard", "--port", free_port())
    assert answer.exit_code == 2
    assert "not installed" in answer.stderr
