"""How the samples were made: ``python -m workloads.samples.recipe`` writes them again."""

from __future__ import annotations

import csv
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads.requests.files import save_request_trace
from workloads.requests.generators import SessionShape, generate_requests
from workloads.requests.turns import session_columns
from workloads.routing.files import save_routing_trace
from workloads.routing.generators import generate_routing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from workloads.requests.trace import RequestTrace

SEED = 20260101
CHAT_INPUT = {"kind": "lognormal", "mean": 1100, "cv": 1.0, "minimum": 2, "maximum": 14000}
CHAT_OUTPUT = {"kind": "lognormal", "mean": 210, "cv": 0.8, "minimum": 7, "maximum": 1000}


def write_samples(folder: Path) -> None:
    """Write every sample.

    Parameters
    ----------
    folder : Path
        An existing folder.
    """
    _write_azure(folder / "azure_like.csv")
    _write_burstgpt(folder / "burstgpt_like.csv")
    _write_mooncake(folder / "mooncake_like.jsonl")
    _write_agents(folder / "agents_like.jsonl")
    _write_vllm(folder / "vllm_bench_like.json")
    save_request_trace(_chat(50, 4, {"kind": "poisson", "rate": 4.0}), folder / "requests.csv")
    save_routing_trace(
        generate_routing(
            "domain",
            tokens=600,
            layers=24,
            num_experts=32,
            top_k=4,
            seed=SEED,
            sequence_tokens=60,
            domains=8,
        ),
        folder / "routing_24x32_top4.npz",
    )
    save_routing_trace(
        generate_routing(
            "zipf", tokens=64, layers=4, num_experts=8, top_k=2, seed=SEED, sequence_tokens=16, exponent=0.7
        ),
        folder / "routing_4x8_top2.parquet",
    )


def _chat(requests: int, offset: int, arrivals: dict[str, Any]) -> RequestTrace:
    return generate_requests(
        requests=requests,
        seed=SEED + offset,
        arrivals=arrivals,
        input_tokens=CHAT_INPUT,
        output_tokens=CHAT_OUTPUT,
    )


def _write_azure(path: Path) -> None:
    """Dates with seven fractional digits, as Azure writes them."""
    trace = _chat(200, 1, {"kind": "gamma", "rate": 5.0, "cv": 1.5})
    start = datetime(2026, 1, 1, 9)
    rows = []
    for arrival, prompt, answer in zip(trace.arrival, trace.input_tokens, trace.output_tokens, strict=True):
        ticks = int(arrival * 1e7)
        when = start + timedelta(seconds=ticks // 10**7)
        rows.append((f"{when:%Y-%m-%d %H:%M:%S}.{ticks % 10**7:07d}", prompt, answer))
    _write_rows(path, ("TIMESTAMP", "ContextTokens", "GeneratedTokens"), rows)


def _write_burstgpt(path: Path) -> None:
    """Whole seconds, more columns than are read, and two failed requests."""
    trace = _chat(60, 2, {"kind": "poisson", "rate": 0.2})
    rows = []
    for i in range(len(trace)):
        prompt, answer = int(trace.input_tokens[i]), int(trace.output_tokens[i])
        answer = 0 if i in (20, 41) else answer
        rows.append((int(trace.arrival[i]), "ModelA", prompt, answer, prompt + answer, "Conversation log"))
    header = ("Timestamp", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type")
    _write_rows(path, header, rows)


def _write_mooncake(path: Path) -> None:
    """One shared first block (a system prompt), then conversations that resend what came before."""
    trace = _chat(100, 3, {"kind": "poisson", "rate": 3.0})
    conversations: dict[int, list[int]] = {}
    fresh = 1
    lines = []
    for i in range(len(trace)):
        history = conversations.setdefault(i % 25, [0])
        new = -(-int(trace.input_tokens[i]) // 512)
        history.extend(range(fresh, fresh + new))
        fresh += new
        record = {
            "timestamp": int(trace.arrival[i] * 1e3),
            "input_length": len(history) * 512 - 100,
            "output_length": int(trace.output_tokens[i]),
            "hash_ids": list(history),
        }
        lines.append(json.dumps(record) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def _write_agents(path: Path) -> None:
    """Sessions whose later turns come a tool's time after the answer before them, as aiperf and Dynamo write them."""
    trace = generate_requests(
        requests=80,
        seed=SEED + 6,
        arrivals={"kind": "poisson", "rate": 2.0},
        input_tokens={"kind": "lognormal", "mean": 3000, "cv": 0.4, "minimum": 200, "maximum": 12000},
        output_tokens=CHAT_OUTPUT,
        sessions=SessionShape(
            turns=4.0,
            spread="geometric",
            think_time=2.5,
            think_kind="exponential",
            added_tokens={"kind": "lognormal", "mean": 500, "cv": 1.0, "minimum": 5, "maximum": 6000},
        ),
    )
    session, turn = session_columns(trace)
    lines = []
    for i in range(len(trace)):
        first = turn[i] == 1
        when = {"timestamp": int(trace.arrival[i] * 1e3)} if first else {"delay": int(_delay_of(trace, i) * 1e3)}
        lengths = {"input_length": int(trace.input_tokens[i]), "output_length": int(trace.output_tokens[i])}
        lines.append(json.dumps({"session_id": f"agent-{session[i]}", **when, **lengths}) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def _delay_of(trace: RequestTrace, request: int) -> float:
    return 0.0 if trace.delay is None else float(trace.delay[request])


def _write_vllm(path: Path) -> None:
    """The fields of a result that describe its requests; no latencies, for nothing was measured."""
    lengths = {"kind": "uniform", "length": 1024, "ratio": 0.8}
    trace = generate_requests(
        requests=40,
        seed=SEED + 5,
        arrivals={"kind": "closed_loop", "concurrency": 8},
        input_tokens=lengths,
        output_tokens=lengths,
    )
    result = {
        "model_id": "made-up",
        "num_prompts": len(trace),
        "request_rate": "inf",
        "burstiness": 1.0,
        "max_concurrency": trace.concurrency,
        "completed": len(trace),
        "total_input_tokens": int(trace.input_tokens.sum()),
        "total_output_tokens": int(trace.output_tokens.sum()),
        "input_lens": trace.input_tokens.tolist(),
        "output_lens": trace.output_tokens.tolist(),
    }
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


if __name__ == "__main__":
    write_samples(Path(__file__).parent)
