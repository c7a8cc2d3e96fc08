"""Start the dashboard, reachable from this machine only."""

from __future__ import annotations

import os
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

from simulator.errors import MoesimError

_HOST = "127.0.0.1"


class DashboardError(MoesimError):
    """The dashboard cannot be started."""


def serve_dashboard(port: int) -> None:
    """Replace this process by Streamlit, so that signals and the exit code are its own."""
    _require_free(port)
    command = dashboard_command(port)
    os.execv(command[0], command)  # noqa: S606 - our own interpreter, with arguments that no shell sees


def dashboard_command(port: int) -> list[str]:
    """Return the command that serves the dashboard."""
    spec = find_spec("dashboard")
    folders = spec.submodule_search_locations if spec else None
    app = Path(next(iter(folders))) / "app.py" if folders else None
    if app is None or not app.is_file():
        raise DashboardError("the dashboard is not installed")
    return [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        str(app),
        f"--server.address={_HOST}",
        f"--server.port={port}",
        "--server.headless=true",
        "--browser.gatherUsageStats=false",
    ]


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            raise DashboardError(f"port {port} of {_HOST} cannot be used; choose another with --port") from None
