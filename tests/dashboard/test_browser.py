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
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from dashboard.panels.tabs import TABS
from simulator.cli.serve import dashboard_command

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

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
def page() -> Iterator[Page]:
    """Open a tab of Debian's chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists() and shutil.which("chromium") is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        executable = str(CHROMIUM) if CHROMIUM.exists() else shutil.which("chromium")
        browser = driver.chromium.launch(executable_path=executable, args=list(FLAGS))
        tab = browser.new_page(viewport={"width": 1500, "height": 1000})
        tab.set_default_timeout(1000 * PATIENCE_S)
        yield tab
        browser.close()


def metric(page: Page, label: str) -> Locator:
    return page.get_by_test_id("stMetric").filter(has_text=label).get_by_test_id("stMetricValue")


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
    metric(page, "TTFT, p99").wait_for()
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
    ("link", "absent"),
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
            {"scaling"},
        ),
        (
            {"preset": "elastic-day-ascend-910c", "requests.count": "60", "requests.period": "30 s"},
            {"pools", "cache", "drafts", "faults"},
        ),
    ],
    ids=["serving", "scaling"],
)
def test_axe_finds_nothing_new_on_any_tab(link: dict[str, str], absent: set[str], address: str, page: Page) -> None:
    page.goto(f"{address}/?{urlencode({**link, 'simulated': '1'})}")
    metric(page, "TTFT, p99").wait_for()
    found = {}
    for tab in TABS:
        if tab.name in absent:
            continue
        page.get_by_role("tab", name=tab.label).click()
        page.wait_for_timeout(500)  # until the click has reached the script
        settled(page)
        new = {rule: nodes for rule, nodes in faults(page).items() if rule not in KNOWN_FAULTS}
        if new:
            found[tab.name] = new
    assert found == {}
