"""What fails without being foreseen is said in its place, logged, and takes nothing else of the page down."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.edge import as_finding, attempt
from dashboard.panels.shown import plain
from dashboard.uploads import Uploads
from simulator.errors import MoesimError, WorkloadError
from workloads.samples import sample_path

SMALL = {"preset": "gpt-oss-20b-h100", "requests.count": "12"}
RANKS = {"preset": "qwen3-30b-a3b-ascend-910c", "requests.count": "12", "routing.tokens": "512"}
Open = Callable[..., AppTest]


def failing(*args: object, **kwargs: object) -> None:
    msg = "index 7 is out of bounds"
    raise IndexError(msg)


def faults(page: AppTest) -> list[str]:
    return [error.value.replace("\\", "") for error in page.error if "fault of moesim" in error.value]


@pytest.mark.parametrize(
    ("where", "link", "stays"),
    [
        ("simulator.api.check", SMALL, "form"),
        ("simulator.api.estimate", SMALL, "form"),
        ("simulator.api.simulate", {**SMALL, "simulated": "1"}, "numbers"),
        ("simulator.api.explain", {**SMALL, "tab": "why"}, "numbers"),
        ("dashboard.answers.timeline", {**SMALL, "tab": "step"}, "numbers"),
        ("dashboard.answers.study_placements", {**RANKS, "tab": "placement"}, "numbers"),
        ("dashboard.panels.run.breakdown_chart", SMALL, "numbers"),
        ("dashboard.snippets.as_python", {**SMALL, "tab": "share"}, "numbers"),
        ("dashboard.form.edit.unread_keys", {**SMALL, "parallelism.tp": "1"}, "form"),
        ("dashboard.views.what_if.to_params", SMALL, "numbers"),
        ("dashboard.catalogue.load_catalogue", SMALL, "title"),
    ],
)
def test_a_fault_is_said_in_its_place_and_logged(
    where: str,
    link: dict[str, str],
    stays: str,
    open_page: Open,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(where, failing)
    page = open_page(**link)
    if where.endswith("unread_keys"):
        page.number_input(key="form.requests.count").set_value(13).run()
    assert not page.exception
    assert page.title
    assert faults(page)
    assert "IndexError: index 7 is out of bounds" in faults(page)[0]
    assert any(record.exc_info for record in caplog.records if record.levelno == logging.ERROR)
    if stays in ("form", "numbers"):
        assert page.selectbox(key="form.model.name").value
    if stays == "numbers":
        assert page.metric


def test_a_page_that_fails_leaves_the_navigation(open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboard.views.what_if._form", failing)
    page = open_page(**SMALL)
    assert not page.exception
    assert "in this page" in faults(page)[0]


def test_what_the_user_can_mend_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    finding = as_finding(WorkloadError("row 3: the trace ends"), "requests")
    assert (finding.where, finding.message) == ("requests", "row 3: the trace ends")
    assert not caplog.records


def test_streamlit_can_still_stop_and_restart_the_script() -> None:
    with pytest.raises(KeyboardInterrupt):
        attempt(lambda: (_ for _ in ()).throw(KeyboardInterrupt()))


@pytest.mark.parametrize(
    "error", [WorkloadError("no"), ValueError("no"), RecursionError("no"), MemoryError("no"), OSError("no")]
)
def test_a_refused_upload_leaves_nothing_behind(error: Exception) -> None:
    def refuse(_: Path) -> None:
        raise error

    kept = Uploads()
    with pytest.raises(type(error)):
        kept.keep("requests.trace", "own.csv", b"1,2", refuse)
    assert kept.of("requests.trace") == ()
    assert kept._folder is not None
    assert [path for path in kept._folder.rglob("*") if path.is_file()] == []


def test_a_file_that_is_refused_for_one_key_stays_for_another() -> None:
    kept = Uploads()
    path = kept.keep("requests.trace", "own.csv", b"1,2", lambda _: None)
    with pytest.raises(IndexError):
        kept.keep("routing.trace", "own.csv", b"1,2", failing)
    assert Path(path).read_bytes() == b"1,2"


@pytest.mark.parametrize("name", ["", "..", "/", "a/..", "x" * 300, "ü" * 120, "a\0b.csv", "a\nb.csv"])
def test_a_name_that_no_file_can_have_is_refused(name: str) -> None:
    with pytest.raises(MoesimError, match="rename it"):
        Uploads().keep("requests.trace", name, b"", lambda _: None)


def test_a_server_keeps_so_many_files_and_no_more() -> None:
    kept = Uploads()
    for number in range(64):
        kept.keep("requests.trace", f"{number}.csv", b"1,2", lambda _: None)
    with pytest.raises(MoesimError, match="start it anew"):
        kept.keep("routing.trace", "one-more.npz", b"1,2", lambda _: None)
    assert kept.keep("requests.trace", "7.csv", b"1,2", failing)


def test_a_name_that_is_refused_is_shown_short_and_without_its_folders(quick: None, open_page: Open) -> None:
    page = open_page(preset="gpt-oss-20b-h100")
    page.file_uploader(key="upload.routing.trace").upload(f"/srv/own/{'x' * 300}.npz", b"PK").run()
    assert not page.exception
    assert page.error[0].value.startswith("x" * 60)
    assert "srv" not in page.error[0].value
    assert len(page.error[0].value) < 500


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("read /srv/moesim/traces/own.csv: row 3", "read own.csv\\: row 3"),
        ("'/home/a b/own c.csv' of 3 tok/s/GPU and/or 5 USD/h", "'own c.csv' of 3 tok/s/GPU and/or 5 USD/h"),
        ("a\x00b\u202ec\x1b[0m", "abc\\[0m"),
        ("*_www.evil.example_*", "\\*\\_www\u2060.evil.example\\_\\*"),
        ("-.@evil.example", "-.\u2060@evil.example"),
        ("_http://evil.example", "\\_http\u2060\\://evil.example"),
        ("![x](y) <b> $a$ `c`", "!\\[x\\](y) \\<b\\> \\$a\\$ \\`c\\`"),
    ],
)
def test_text_from_elsewhere_is_shown_as_it_is_and_does_nothing(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_text_without_end_is_cut() -> None:
    assert len(plain("x" * 10**6)) < 1_100


def test_an_uploaded_routing_is_read_once_whatever_is_asked_of_it(
    quick_estimate: None, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workloads.routing import files

    read, seen = files.read_routing_trace, []

    def counting(path: Path) -> object:
        seen.append(path)
        return read(path)

    page = open_page(preset="gpt-oss-20b-h100")
    content = sample_path("routing_24x32_top4.npz").read_bytes()
    monkeypatch.setattr(files, "read_routing_trace", counting)
    page.file_uploader(key="upload.routing.trace").upload("own.npz", content).run()
    page.number_input(key="form.requests.count").set_value(13).run()
    # Once more than once where the file is younger than a tick of the clock.
    assert len(seen) in (1, 2)
    seen.clear()
    for count in (14, 15):
        page.number_input(key="form.requests.count").set_value(count).run()
    assert not page.error
    assert str(page.selectbox(key="form.routing.trace").value).endswith("own.npz")
    assert not seen


def test_a_message_about_an_upload_does_not_say_where_it_is_kept() -> None:
    kept = Uploads()
    path = kept.keep("requests.trace", "own.csv", b"1,2", lambda _: None)
    assert kept.without_folder(f"{path}: row 3") == "own.csv: row 3"
    assert kept.without_folder(f"[Errno 5] input/output error: '{path}'") == "[Errno 5] input/output error: 'own.csv'"


def test_an_upload_that_fails_unforeseen_is_said_below_it(
    quick: None, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dashboard.form.edit.read_routing_trace", failing)
    page = open_page(preset="gpt-oss-20b-h100")
    page.file_uploader(key="upload.routing.trace").upload("own.npz", b"PK").run()
    assert not page.exception
    assert "fault of moesim" in page.error[0].value
    assert page.selectbox(key="form.routing.trace").value == "sample:routing_24x32_top4.npz"
    assert page.metric


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("requests.profile", "[" * 190),
        ("requests.profile", "[" * 3900),
        ("faults", "{a=" * 1300),
        ("seed", "9" * 199),
        ("requests.rate", "1e400"),
        ("routing.top_p", "5e-324"),
    ],
)
def test_a_hostile_value_costs_only_itself(key: str, text: str, quick: None, open_page: Open) -> None:
    page = open_page(**SMALL, **{key: text})
    assert not page.exception
    assert not faults(page)
    assert page.metric


@pytest.mark.parametrize("rate", ["inf", "nan", "1e400", "-1", "0", "fast"])
def test_a_refused_value_keeps_its_warning_beside_the_value_that_is_taken(
    rate: str, quick: None, open_page: Open
) -> None:
    page = open_page(**SMALL, **{"requests.kind": "poisson", "requests.trace": "", "requests.rate": rate})
    assert not page.exception
    assert any("requests.rate" in warning.value for warning in page.warning)
    assert page.number_input(key="form.requests.rate").value == 1.0
    page.run()
    assert any("requests.rate" in warning.value for warning in page.warning)
    page.number_input(key="form.requests.rate").set_value(2.0).run()
    assert not page.warning
