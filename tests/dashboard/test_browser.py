"""The page in a real browser: what only a browser shows is the address, the layout and its accessibility."""

from __future__ import annotations

import http.client
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

import pytest

from dashboard.panels.tabs import TABS
from simulator.cli.serve import dashboard_command

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_S = 120
#: Faults of Streamlit's own navigation and of where it takes files, which the page cannot mend.
KNOWN_FAULTS = {"list", "presentation-role-conflict"}

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the page as ``moesim dashboard`` does, on a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(dashboard_command(port), stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_until_healthy(server, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_until_healthy(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and server.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/_stcore/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.2)
        finally:
            connection.close()
    pytest.fail(f"the server did not start:\n{log.read_text()}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Debian's chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists() and shutil.which("chromium") is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        executable = str(CHROMIUM) if CHROMIUM.exists() else shutil.which("chromium")
        started = driver.chromium.launch(executable_path=executable, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture(scope="module")
def page(browser: Browser) -> Page:
    """Open a tab."""
    return opened(browser, "light")


def opened(browser: Browser, scheme: Literal["light", "dark"], width: int = 1500) -> Page:
    """Open a tab of a browser whose user prefers light or dark pages, with nothing remembered."""
    tab = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme).new_page()
    tab.set_default_timeout(1000 * PATIENCE_S)
    return tab


def metric(page: Page, label: str) -> Locator:
    return page.get_by_test_id("stMetric").filter(has_text=label).get_by_test_id("stMetricValue")


def simulated(page: Page) -> None:
    """Wait until the headline is that of a simulation, which alone knows percentiles."""
    metric(page, "TTFT, p99").filter(has_not_text="n/a").wait_for()


def settled(page: Page) -> None:
    """Wait until the script has run and nothing on the page is a placeholder or of the run before, which is faded."""
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')
    page.wait_for_selector('[data-testid="stSkeleton"]', state="detached")
    page.wait_for_selector('[data-stale="true"]', state="detached")


def faults(page: Page) -> dict[str, list[str]]:
    """Return what axe finds, by rule."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    found: list[dict[str, Any]] = axe.Axe().run(page).response["violations"]
    return {rule["id"]: [node["html"][:200] for node in rule["nodes"]] for rule in found}


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [("", "", 101), ("", "http://localhost:1", 403), ("evil.example", "http://evil.example", 403)],
)
def test_a_web_socket_opens_for_a_page_of_the_server_s_own_alone(
    host: str, origin: str, status: int, address: str
) -> None:
    own = address.removeprefix("http://")
    connection = http.client.HTTPConnection(own, timeout=20)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    named = {"Host": host or own, "Origin": origin or address, "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg=="}
    connection.request("GET", "/_stcore/stream", headers={**upgrade, **named})
    assert connection.getresponse().status == status
    connection.close()


def test_no_other_page_may_frame_the_page(address: str) -> None:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
    connection.request("GET", "/")
    assert connection.getresponse().headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    connection.close()


def test_a_link_opens_changes_simulates_and_reproduces(address: str, page: Page) -> None:
    page.goto(f"{address}/?preset=gpt-oss-20b-h100&requests.count=12")
    settled(page)
    estimate = metric(page, "TPOT, mean").inner_text()
    assert re.fullmatch(r"[\d.]+ (ms|s|µs)", estimate)
    assert page.get_by_label("Requests", exact=True).input_value() == "12"

    requests = page.get_by_label("Requests", exact=True)
    requests.fill("20")
    requests.press("Enter")
    page.wait_for_url(re.compile(r"requests\.count=20"))
    settled(page)

    page.wait_for_timeout(1000)  # the page takes an old address for a late click until half a second has gone by
    page.go_back()
    page.wait_for_function("document.querySelector('input[aria-label=Requests]').value === '12'")
    settled(page)
    assert "requests.count=12" in page.url

    page.get_by_role("button", name="Simulate").click()
    simulated(page)
    page.wait_for_url(re.compile(r"simulated=1"))
    page.get_by_role("tab", name="Latencies").click()
    page.wait_for_url(re.compile(r"tab=latency"))
    settled(page)
    shown = page.get_by_test_id("stMetricValue").all_inner_texts()

    page.goto(page.url)
    settled(page)
    assert page.get_by_test_id("stMetricValue").all_inner_texts() == shown
    assert page.get_by_role("tab", selected=True).inner_text() == "Latencies"


@pytest.mark.parametrize(
    ("link", "visited"),
    [
        (
            {
                "preset": "qwen3-30b-a3b-ascend-910c",
                "requests.count": "30",
                "requests.kind": "trace",
                "requests.rate": "",
                "requests.trace": "sample:mooncake_like.jsonl",
                "disaggregation.enabled": "true",
                "prefix_cache.kind": "instance",
                "speculation.draft_tokens": "2",
                "speculation.acceptance": "[0.8]",
                "faults": '[{at = "1 s", slowdown = 2.0, lasts = "1 s"}]',
            },
            {tab.name for tab in TABS} - {"scaling"},
        ),
        (
            {"preset": "elastic-day-ascend-910c", "requests.count": "60", "requests.period": "30 s"},
            {"scaling"},
        ),
    ],
    ids=["serving", "scaling"],
)
def test_axe_finds_nothing_new_on_any_tab(link: dict[str, str], visited: set[str], address: str, page: Page) -> None:
    page.goto(f"{address}/?{urlencode({**link, 'simulated': '1'})}")
    simulated(page)
    found = {}
    for tab in TABS:
        if tab.name not in visited:
            continue
        page.get_by_role("tab", name=tab.label).click()
        page.wait_for_timeout(500)  # until the click has reached the script
        settled(page)
        new = {rule: nodes for rule, nodes in faults(page).items() if rule not in KNOWN_FAULTS}
        if new:
            found[tab.name] = new
    assert found == {}


#: Contrast of small text against what lies behind it that WCAG 2.2 asks for at level AA.
LEGIBLE = 4.5
CHART_TEXT = """
() => [...document.querySelectorAll(".js-plotly-plot text")]
    .filter(text => text.textContent.trim() && text.getBoundingClientRect().width > 0)
    .map(text => [text.textContent, getComputedStyle(text).fill])
"""
BACKGROUND = "() => getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor"


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, by WCAG's definition."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("scheme", "width"), [("light", 420), ("dark", 1280)])
def test_every_page_is_as_the_browser_is_and_legible_at_once(
    scheme: Literal["light", "dark"], width: int, address: str, browser: Browser
) -> None:
    page = opened(browser, scheme, width)
    small = "?preset=gpt-oss-20b-h100&requests.count=12"
    for link, charts in (("catalogue?search=h100+bandwidth", 0), (small, 1), (f"{small}&tab=why", 2)):
        page.goto(f"{address}/{link}")
        page.get_by_role("heading", level=1).wait_for()
        page.wait_for_function(f"document.querySelectorAll('.js-plotly-plot .xtitle').length >= {charts}")
        settled(page)
        background, texts = page.evaluate(BACKGROUND), page.evaluate(CHART_TEXT)
        assert (luminance(background) < 0.2) == (scheme == "dark")
        assert len(texts) >= 5 * charts
        assert [text for text, fill in texts if contrast(fill, background) < LEGIBLE] == []
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        assert {rule: nodes for rule, nodes in faults(page).items() if rule not in KNOWN_FAULTS} == {}
    page.context.close()


def test_text_of_a_link_becomes_no_link(address: str, page: Page) -> None:
    hostile = "www.evil.example/login http://evil.example someone@evil.example [x](http://evil.example)"
    page.goto(f"{address}/?{urlencode({'preset': 'gpt-oss-20b-h100', 'requests.kind': hostile})}")
    settled(page)
    warning = page.get_by_test_id("stAlert").first
    assert "evil.example/login" in warning.inner_text()
    assert warning.get_by_role("link").count() == 0


def test_the_navigation_leads_to_the_catalogue_and_back_to_the_page_as_it_was(address: str, page: Page) -> None:
    page.goto(f"{address}/?preset=gpt-oss-20b-h100&requests.count=14&tab=numbers")
    settled(page)
    shown = page.url
    page.get_by_role("link", name="Catalogue").click()
    page.wait_for_url(re.compile(r"/catalogue"))
    page.get_by_role("heading", name="What the answers rest on").wait_for()
    page.get_by_role("textbox", name="Search").fill("mixtral-8x7b hidden")
    page.get_by_role("textbox", name="Search").press("Enter")
    page.wait_for_url(re.compile(r"search=mixtral"))
    page.get_by_role("link", name="What-if").click()
    page.wait_for_url(shown)
    settled(page)
    assert page.get_by_label("Requests", exact=True).input_value() == "14"
    assert page.get_by_role("tab", selected=True).inner_text() == "All numbers"
