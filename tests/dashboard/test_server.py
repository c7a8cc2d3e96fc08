"""The guard before the page: who may ask, under which name, and who may frame it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dashboard.server import Guard, refusal

OWN = ["localhost", "127.0.0.1", "::1", "box.example"]


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost", None),
        ("127.0.0.1:8501", "http://127.0.0.1:8501"),
        ("LocalHost:9000", "http://localhost:9000"),
        ("[::1]:8501", "http://[::1]:8501"),
        ("box.example", "https://box.example"),
    ],
)
def test_a_page_of_the_server_s_own_is_answered(host: str, origin: str | None) -> None:
    assert refusal({"host": host} | ({} if origin is None else {"origin": origin}), OWN) == ""


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example:8501",
        "localhost.evil.example",
        "evil.example@localhost",
        "localhost@evil.example",
        "localhost/evil",
        "localhost:80:80",
        "localhost:none",
        "[::1",
        "*",
        "0.0.0.0:8501",
    ],
)
def test_a_foreign_name_is_refused(host: str) -> None:
    assert "not called that" in refusal({"host": host, "origin": f"http://{host}"}, OWN)


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://localhost:9999",
        "http://127.0.0.1:8501",
        "null",
        "",
        "file://",
        "ftp://localhost:8501",
    ],
)
def test_a_page_from_elsewhere_is_refused(origin: str) -> None:
    assert "from elsewhere" in refusal({"host": "localhost:8501", "origin": origin}, OWN)


def asked(kind: str, host: str, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, list[dict[str, Any]]]:
    """Send a request; return whether the application saw it, and what was sent back."""
    monkeypatch.setattr("streamlit.get_option", lambda _: OWN)
    seen, sent = [], []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        if kind == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x-frame-options", b"ALLOW")]})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "websocket.accept"})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"} if kind == "http" else {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": kind, "headers": [(b"host", host.encode())]}
    asyncio.run(Guard(application)(scope, receive, send))
    return bool(seen), sent


def test_a_web_socket_under_a_foreign_name_is_closed_before_it_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked("websocket", "evil.example", monkeypatch) == (False, [{"type": "websocket.close", "code": 1008}])
    assert asked("websocket", "localhost:8501", monkeypatch) == (True, [{"type": "websocket.accept"}])


@pytest.mark.parametrize(("host", "status"), [("localhost", 200), ("evil.example", 403)])
def test_no_other_page_may_frame_an_answer(host: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, sent = asked("http", host, monkeypatch)
    assert seen == (status == 200)
    assert sent[0]["status"] == status
    headers = dict(sent[0]["headers"])
    assert headers[b"content-security-policy"] == b"frame-ancestors 'none'"
    assert headers[b"x-frame-options"] == b"DENY"
