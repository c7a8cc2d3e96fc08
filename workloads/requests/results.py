"""Which tool wrote a result file, and the benchmark runs in it, for ``simulate`` and ``validate serving`` alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hardware_profiles.edge import json_lines, parse_json, read_text, shown, shown_path, understanding
from workloads.errors import TraceFormatError
from workloads.requests.bench import BenchRun, run_trace
from workloads.requests.lines import dialect_of
from workloads.requests.rows import fail
from workloads.requests.tool_results import aiperf_records, guidellm_runs, inferencex_run, perf_summary
from workloads.requests.trace import RequestTrace
from workloads.requests.vllm_results import vllm_run, vllm_trace

#: Tools by the name of their format.
TOOLS: Mapping[str, str] = {
    "vllm": "vllm bench serve",
    "sglang": "SGLang bench_serving",
    "aiperf": "aiperf records",
    "perf": "summary of aiperf or genai-perf",
    "guidellm": "GuideLLM",
    "inferencex": "InferenceX",
}
#: Metrics of which a summary of aiperf or genai-perf has one.
_PERF = ("request_latency", "request_throughput", "input_sequence_length")
#: Keys of which a result of vLLM or SGLang has at least two.
_VLLM = {"completed", "request_rate", "max_concurrency", "total_input_tokens", "total_output_tokens", "duration"}


def tool_of(record: Mapping[str, Any]) -> str | None:
    """Tell which tool wrote an object by its keys; ``None`` if none is known."""
    keys = record.keys()
    if isinstance(record.get("metadata"), dict) and "metrics" in record:
        return "aiperf"
    if isinstance(record.get("benchmarks"), list):
        return "guidellm"
    if {"isl", "osl", "conc"} <= keys:
        return "inferencex"
    figures = record["records"] if isinstance(record.get("records"), dict) else record
    if any(isinstance(figures.get(key), dict) for key in _PERF):
        return "perf"
    if len(keys & _VLLM) >= 2:
        return "sglang" if "sglang" in str(record.get("backend")) else "vllm"
    return None


def documents(file: Path) -> list[Any]:
    """Read the JSON documents of a file: one, the entries of a list, or one a line."""
    text = read_text(file, TraceFormatError)
    head = text.lstrip()[:1]
    try:
        found = parse_json(text, shown_path(file), TraceFormatError)
    except TraceFormatError:
        # Two objects after each other are no document; if the first line is one, every line is.
        first = text.lstrip().partition("\n")[0]
        if head != "{" or not _parses(first) or len(first) == len(text.strip()):
            raise
        return [record for _, record in json_lines(file, TraceFormatError)]
    return found if isinstance(found, list) else [found]


def _parses(line: str) -> bool:
    try:
        parse_json(line, "", TraceFormatError)
    except TraceFormatError:
        return False
    return True


def read_bench_runs(file: Path, tool: str | None = None) -> list[BenchRun]:
    """Read the benchmark runs of a result file.

    Parameters
    ----------
    file : Path
        A JSON document, or JSON lines.
    tool : str, optional
        Key of :data:`TOOLS`; told by the keys of the file where absent.

    Raises
    ------
    TraceFormatError
        No tool writes such a file, or a figure in it cannot be.
    """
    with understanding(shown_path(file), TraceFormatError):
        found = documents(file)
        tool = tool or _tool(file, found)
        if tool == "aiperf":
            return [aiperf_records(file)]
        return [run for each in found for run in _runs(file, each, tool)]


def result_trace(file: Path, tool: str) -> RequestTrace:
    """Read the requests of the one run in a result file.

    Parameters
    ----------
    file : Path
        The file.
    tool : str
        Key of :data:`TOOLS`.

    Raises
    ------
    TraceFormatError
        It holds several runs, or none that can be played.
    """
    with understanding(shown_path(file), TraceFormatError):
        if tool in ("vllm", "sglang"):
            found = documents(file)
            if len(found) > 1 and isinstance(found[0], dict):
                fail(file, f"holds {len(found)} runs; keep the one to play in a file of its own")
            return vllm_trace(found[0] if len(found) == 1 and isinstance(found[0], dict) else found, file)
        runs = read_bench_runs(file, tool)
        if len(runs) != 1:
            fail(file, f"holds {len(runs)} runs; keep the one to play in a file of its own")
        trace = run_trace(runs[0], file)
        return replace(trace, source=str(file))


def _tool(file: Path, found: list[Any]) -> str:
    first = found[0] if found else None
    tool = tool_of(first) if isinstance(first, dict) else None
    if tool is None and isinstance(first, dict) and (dialect := dialect_of(first)) is not None:
        fail(file, f"holds requests ({dialect}) and nothing measured; simulate plays it (requests.trace)")
    if tool is None:
        what = f"keys {', '.join(map(str, list(first)[:8]))}" if isinstance(first, dict) else shown(first)
        fail(file, f"is no result of {', '.join(TOOLS.values())}: got {shown(what)[1:-1]}")
    return tool


def _runs(file: Path, document: Any, tool: str) -> list[BenchRun]:
    if not isinstance(document, dict):
        fail(file, f"got {shown(document)}, expected an object of {TOOLS[tool]}")
    if tool == "guidellm":
        return guidellm_runs(document, file)
    if tool == "perf":
        return [perf_summary(document, file)]
    if tool == "inferencex":
        return [inferencex_run(document, file)]
    return [vllm_run(document, file, TOOLS[tool])]
