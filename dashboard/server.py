"""The server of the page: Streamlit behind a guard that knows by which names it may be asked.

``moesim dashboard`` runs this file. Streamlit itself looks at the names of WebSockets alone, and takes every page of
this machine for a friend; the guard refuses, before anything else sees them, requests under a foreign name (a name of
somebody's own that he lets point here, "DNS rebinding") and those that a page from elsewhere sends, and forbids other
pages to frame this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import streamlit as st
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


class Guard:
    """Let through what asks for this server by a name of its own, from a page of its own.

    Parameters
    ----------
    app : ASGI application
        What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        reason = refusal(Headers(scope=scope), st.get_option("server.allowedHosts"))
        if not reason:
            await self._app(scope, receive, send_guarded)
        elif scope["type"] == "http":
            await PlainTextResponse(reason, status_code=403)(scope, receive, send_guarded)
        else:
            await receive()  # the handshake; closed before it is accepted, it is answered with 403
            await send({"type": "websocket.close", "code": 1008})


def refusal(headers: Mapping[str, str], own: list[str]) -> str:
    """Say why a request is not answered; empty if it is.

    Parameters
    ----------
    headers : Mapping of str to str
        Its headers, in lower case.
    own : list of str
        Names and addresses of this server, without port.

    Examples
    --------
    >>> refusal({"host": "localhost:8501", "origin": "http://localhost:8501"}, ["localhost"])
    ''
    >>> refusal({"host": "evil.example:8501"}, ["localhost"])
    'This server is not called that: moesim dashboard --host NAME tells it a name.'
    """
    host = headers.get("host", "")
    if _name(f"//{host}") not in {name.strip("[]").lower() for name in own}:
        return "This server is not called that: moesim dashboard --host NAME tells it a name."
    origin = headers.get("origin")
    if origin is not None and _authority(origin) != host.lower():
        return "Pages from elsewhere may not ask this server."
    return ""


def _name(address: str) -> str | None:
    """Return the host of an address, None where it is none."""
    try:
        parts = urlsplit(address)
        port = parts.port  # raises where it is no number
    except ValueError:
        return None
    plain = parts.username is None and not (parts.path or parts.query or parts.fragment)
    return parts.hostname if plain and (port is None or port) else None


def _authority(origin: str) -> str | None:
    """Return host and port as a page's origin writes them, None where it is no page of a server."""
    scheme, found, authority = origin.lower().partition("://")
    return authority if found and scheme in ("http", "https") else None


app = st.App(Path(__file__).with_name("app.py"), middleware=[Middleware(Guard)])
