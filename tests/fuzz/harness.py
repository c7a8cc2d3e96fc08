"""A hostile case, and what may come of it: an answer or one short message, and never anything else."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from hardware_profiles.errors import MoesimError
from hardware_profiles.loader import load_cluster, load_device, load_node, load_price
from hardware_profiles.residuals import load_residuals
from simulator import Scenario
from simulator.cli.app import app
from simulator.stack import load_stack
from simulator.startup import load_startup
from validation.kernels.formats import read_measured
from validation.regression.regress import load_baseline
from workloads.models.library import load_model
from workloads.requests.files import read_request_trace
from workloads.requests.results import read_bench_runs
from workloads.routing.convert import read_recording
from workloads.routing.fit_files import read_routing_fit
from workloads.routing.loads import read_expert_loads

#: Longest message [characters].
LONGEST = 500
#: Cases of each kind beyond those of every day, and seconds that each may take, where somebody asks for a long run.
LONG, LIMIT = int(os.environ.get("MOESIM_FUZZ", "0")), 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Files to write into a folder, and the words of a command in which ``{}`` is that folder."""

    files: dict[str, bytes] = field(default_factory=dict)
    words: tuple[str, ...]
    ends: tuple[int, ...] = (0, 2)


class _TooLong(BaseException):
    """A case took longer than anybody waits for a message."""


@contextmanager
def _limited() -> Iterator[None]:
    """Stop what takes too long, in a long run alone: a machine under load is slow at times."""
    if not LONG:
        yield
        return

    def stop(*_: object) -> None:
        raise _TooLong

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def run(case: Case, folder: Path) -> str:
    """Run a case in an empty folder; say what is wrong with what came of it, or nothing."""
    for name, content in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    if any("{}/loop" in word or "{}/fifo" in word for word in case.words):
        os.mkfifo(folder / "fifo")
        (folder / "loop").symlink_to(folder / "loop")
    before = sorted(folder.rglob("*"))
    words = [word.replace("{}", str(folder)) for word in case.words]
    words += ["--json"] if words[0] == "check" else []
    with _limited():
        try:
            answer = CliRunner().invoke(app, words)
        except _TooLong:
            return "took too long"
    if isinstance(answer.exception, _TooLong):
        return "took too long"
    if answer.exception is not None and not isinstance(answer.exception, SystemExit):
        return _cause(answer.exception)
    if answer.exit_code not in case.ends:
        return f"exit code {answer.exit_code}: {answer.stderr[:200]}"
    if answer.exit_code:
        after = sorted(folder.rglob("*"))
        if after != before:
            return f"left {set(after) ^ set(before)}"
        if words[0] == "check" and answer.stdout:
            return _first_wrong([each["message"] for each in _findings(answer.stdout)])
        return _first_wrong([answer.stderr.removeprefix("error: ").removeprefix("infeasible: ")])
    return ""


def _findings(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(text)["findings"]
    return [each for each in found if each["level"] == "error"]


def _first_wrong(messages: list[str]) -> str:
    return next((wrong for message in messages if (wrong := wrong_message(message))), "")


def wrong_message(message: str) -> str:
    """Say what is wrong with a message: nothing in it, too long, or something that a terminal would obey."""
    text = message.strip()
    if not text:
        return "no message"
    if len(text) > LONGEST + 20:
        return f"message of {len(text)} characters: {text[:150]!r}"
    if any(not (c.isprintable() or c == "\n") for c in text):
        return f"control characters: {text[:150]!r}"
    return ""


def _cause(error: BaseException) -> str:
    """Name an error by its type and the place in our code that raised it."""
    root = Path(__file__).parents[2]
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if str(root) in f.filename and ".venv" not in f.filename
    ]
    at = frames[-1] if frames else None
    place = f"{Path(at.filename).relative_to(root)}:{at.lineno}" if at else "?"
    kind = "MoesimError outside of answering" if isinstance(error, MoesimError) else type(error).__name__
    return f"{kind} at {place}: {str(error)[:150]}"


class Causes:
    """What went wrong in a long run, counted, with the first case of each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, Case] = {}
        self.cases = 0

    def add(self, wrong: str, case: Case) -> None:
        """Count a case."""
        self.cases += 1
        if wrong:
            cause = wrong.split(": ")[0] if " at " in wrong.split(": ")[0] else wrong[:60]
            self.counts[cause] += 1
            self.first.setdefault(cause, case)

    def told(self) -> str:
        """Say how often each cause was met, with the words and files of its first case."""
        lines = [f"{sum(self.counts.values())} of {self.cases} cases are wrong"]
        for cause, count in self.counts.most_common():
            case = self.first[cause]
            files = {name: content[:300] for name, content in case.files.items()}
            lines.append(f"{count} x {cause}\n    {[word[:100] for word in case.words]} {files}")
        return "\n".join(lines)


def read(case: Case, folder: Path) -> str:
    """Give the files of a case to everything that reads such, without a command; say what is wrong, or nothing."""
    for name, content in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for name in case.files:
        for reader in _readers(folder / name, name):
            try:
                with _limited():
                    reader()
            except _TooLong:
                return "took too long"
            except MoesimError as error:
                if wrong := wrong_message(str(error).partition("\n")[0]):
                    return wrong
            except Exception as error:  # what this is about
                return _cause(error)
    return ""


def _readers(file: Path, name: str) -> list[Callable[[], object]]:
    """List what reads a file of a case, by the name that it has there."""
    profiles, stem = file.parent.parent, file.stem
    match name.partition("/")[0], file.suffix:
        case "s.toml", _:
            return [partial(Scenario.load, file)]
        case (("m.toml" | "m"), _):
            return [partial(load_model, str(file))] if file.name != "hf_quant_config.json" else []
        case "st.toml", _:
            return [partial(load_stack, str(file))]
        case "up.toml", _:
            return [partial(load_startup, str(file))]
        case "f.toml", _:
            return [partial(read_routing_fit, file)]
        case "b.json", _:
            return [partial(load_baseline, file)]
        case "k", _:
            return [partial(read_measured, file)]
        case "p", _:
            by_part: dict[str, Callable[[str, Path], object]] = {
                "devices": load_device,
                "nodes": load_node,
                "clusters": load_cluster,
                "prices": load_price,
                "kernels": load_device,
                "residuals": load_residuals,
            }
            return [partial(by_part[file.parent.name], stem.partition(".")[0], profiles)]
        case _, (".npz" | ".npy" | ".pt"):
            return [partial(read_recording, file), partial(read_expert_loads, file)]
        case _, (".csv" | ".json" | ".jsonl" | ".parquet"):
            return [
                partial(read_request_trace, file),
                partial(read_bench_runs, file),
                partial(read_recording, file),
                partial(read_expert_loads, file),
            ]
    return []
