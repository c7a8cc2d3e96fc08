"""Start the dashboard: for this machine alone, or under the one name that it was told."""

from __future__ import annotations

import errno
import os
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

from simulator.errors import MoesimError

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_LOCAL = "127.0.0.1"
#: Addresses that stand for every one of this machine.
_WILD = ("0.0.0.0", "::")  # noqa: S104 - recognised, and bound to only where the user says so

#: What nobody's own settings of Streamlit may change: its files and environment variables give way to the command line.
_FIXED = {
    "server.headless": "true",
    "server.enableCORS": "true",
    "server.enableXsrfProtection": "true",
    "server.maxUploadSize": "200",
    "server.enableStaticServing": "false",
    "server.enableAgentApi": "false",
    "server.baseUrlPath": "",
    "server.fileWatcherType": "none",
    "server.runOnSave": "false",
    "client.showErrorDetails": "none",
    "browser.gatherUsageStats": "false",
    "global.developmentMode": "false",
}


class DashboardError(MoesimError):
    """The dashboard cannot be started."""


def serve_dashboard(port: int, host: str = _LOCAL) -> None:
    """Replace this process by Streamlit, so that signals and the exit code are its own."""
    _require_free(host, port)
    if host not in _LOOPBACK:
        open_to = f"whoever reaches {host}:{port} can use the dashboard: it has no users, no passwords, no encryption"
        print(f"warning: {open_to}. Simulations run, and uploads are kept, on this machine", file=sys.stderr)
    command = dashboard_command(port, host)
    os.execv(command[0], command)  # noqa: S606 - our own interpreter, with arguments that no shell sees


def dashboard_command(port: int, host: str = _LOCAL) -> list[str]:
    """Return the command that serves the dashboard under a name or address of this machine."""
    spec = find_spec("dashboard")
    folders = spec.submodule_search_locations if spec else None
    server = Path(next(iter(folders))) / "server.py" if folders else None
    if server is None or not server.is_file():
        raise DashboardError("the dashboard is not installed")
    return [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        str(server),
        f"--server.address={host}",
        f"--server.port={port}",
        *(f"--server.allowedHosts={name}" for name in _names(host)),
        *(f"--{option}={value}" for option, value in _FIXED.items()),
    ]


def _names(host: str) -> tuple[str, ...]:
    """Return the names that requests may ask for: those of this machine for itself, and the one that it was told."""
    told = (socket.gethostname(), socket.getfqdn()) if host in _WILD else (host,)
    return tuple(dict.fromkeys((*_LOOPBACK, *told)))


def _require_free(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, ValueError) as error:  # a ValueError where the name cannot be one
        if isinstance(error, socket.gaierror | ValueError) or error.errno == errno.EADDRNOTAVAIL:
            msg = f"{host[:100]!r} is no name or address of this machine; choose one with --host"
            raise DashboardError(msg) from None
        raise DashboardError(f"port {port} of {host} cannot be used; choose another with --port") from None
