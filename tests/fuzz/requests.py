"""Kinds of request traces and of results of benchmarks, damaged, with a command that reads each."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.documents import ROOT, asked
from tests.fuzz.harness import Case
from tests.fuzz.hostile import (
    Draw,
    damaged,
    damaged_bytes,
    damaged_parquet,
    damaged_table,
    dumps,
)

_GUIDELLM_FIGURES = {
    "prompt_token_count": 100,
    "output_token_count": 10,
    "requests_per_second": 2.0,
    "request_concurrency": 3.9,
    "time_to_first_token_ms": 90.0,
    "inter_token_latency_ms": 11.0,
    "request_latency": 1.2,
}
_AIPERF = [
    {
        "metadata": {
            "session_num": at,
            "request_start_ns": 10**18 + at * 10**8,
            "request_end_ns": 10**18 + at * 10**8 + 10**9,
        },
        "metrics": {
            "input_sequence_length": {"value": 55, "unit": "tokens"},
            "output_sequence_length": {"value": 12, "unit": "tokens"},
            "time_to_first_token": {"value": 55.0, "unit": "ms"},
            "inter_token_latency": {"value": 8.1, "unit": "ms"},
        },
        "error": None,
    }
    for at in range(6)
]
_PERF = {
    "request_latency": {"unit": "ms", "avg": 900.0},
    "request_throughput": {"unit": "requests/sec", "avg": 4.0},
    "request_count": {"unit": "requests", "avg": 20},
    "input_sequence_length": {"unit": "tokens", "avg": 100},
    "output_sequence_length": {"unit": "tokens", "avg": 10},
    "time_to_first_token": {"unit": "ms", "avg": 50.0},
    "inter_token_latency": {"unit": "ms", "avg": 8.0},
    "input_config": {"perf_analyzer": {"stimulus": {"concurrency": 4}}, "model_names": ["m"]},
}
_GUIDELLM = {
    "benchmarks": [
        {
            "config": {"strategy": {"type_": "concurrent", "streams": 4}, "backend": {"model": "m"}},
            "metrics": {
                **{key: {"successful": {"mean": value}} for key, value in _GUIDELLM_FIGURES.items()},
                "request_totals": {"successful": 20},
            },
            "requests": {
                "successful": [
                    {"request_start_time": 1.76e9 + at, "prompt_tokens": 90 + at, "output_tokens": 7} for at in range(4)
                ]
            },
        }
    ]
}
_INFERENCEX = {
    "hw": "h100",
    "conc": 8,
    "model": "openai/gpt-oss-20b",
    "framework": "vllm",
    "precision": "fp8",
    "isl": 128,
    "osl": 64,
    "tp": 2,
    "ep": 1,
    "dp_attention": "false",
    "tput_per_gpu": 148.6,
    "mean_ttft": 0.33,
    "mean_tpot": 0.0128,
    "mean_e2el": 4.0,
}
VLLM = {
    "backend": "vllm",
    "model_id": "gpt-oss-20b",
    "request_rate": "inf",
    "max_concurrency": 4,
    "completed": 4,
    "total_input_tokens": 400,
    "total_output_tokens": 40,
    "duration": 3.5,
    "mean_ttft_ms": 20.0,
    "mean_tpot_ms": 5.0,
    "input_lens": [100, 100, 90, 110],
    "output_lens": [10, 10, 10, 10],
}
_SGLANG = {
    **{key: value for key, value in VLLM.items() if key != "model_id"},
    "backend": "sglang",
    "request_rate": 4.0,
    "start_times": [0.0, 0.1, 0.2, 0.5],
    "queue_times": [0.0, 0.0, 0.0, 0.1],
}
#: Traces and results by name: one record a line where there are several.
RECORDS: Mapping[str, list[dict[str, Any]]] = {
    "mooncake": [
        {"timestamp": at * 400, "input_length": 1200, "output_length": 9, "hash_ids": [0, at + 1, at + 2]}
        for at in range(5)
    ],
    "bailian": [
        {
            "chat_id": at,
            "parent_chat_id": -1,
            "timestamp": at * 0.5,
            "input_length": 40,
            "output_length": 9,
            "type": "text",
            "turn": 1,
            "hash_ids": [0, at + 1, at + 2],
        }
        for at in range(5)
    ],
    "llmservingsim": [{"arrival_time_ns": at * 10**8, "input_toks": 90, "output_toks": 7} for at in range(4)],
    "turns": [
        {"session_id": "a", "timestamp": 0, "input_length": 90, "output_length": 7, "hash_ids": [1]},
        {"session_id": "b", "timestamp": 90, "input_length": 80, "output_length": 7, "hash_ids": [2]},
        {"session_id": "a", "delay": 500, "input_length": 120, "output_length": 7, "hash_ids": [1]},
    ],
    "conversations": [
        {
            "arrival_time_ns": 0,
            "input_toks": 90,
            "output_toks": 7,
            "sub_requests": [
                {"input_toks": 90, "output_toks": 7},
                {"input_toks": 99, "output_toks": 7, "tool_duration_ns": 10**8},
            ],
        }
    ],
    "own": [{"arrival_s": at * 0.1, "input_tokens": 90, "output_tokens": 7} for at in range(4)],
    "aiperf": _AIPERF,
    "perf": [_PERF],
    "guidellm": [_GUIDELLM],
    "inferencex": [_INFERENCEX],
    "vllm": [VLLM],
    "sglang": [_SGLANG],
}
TABLES: Mapping[str, list[list[str]]] = {
    "azure": [
        ["TIMESTAMP", "ContextTokens", "GeneratedTokens"],
        *([f"2023-11-16 18:15:4{at}.6805900", "80", "7"] for at in range(5)),
    ],
    "burstgpt": [
        ["Timestamp", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type"],
        *([str(at * 2), "A", "90", str(at), str(90 + at), "Conversation log"] for at in range(5)),
    ],
    "vidur": [
        ["arrived_at", "num_prefill_tokens", "num_decode_tokens"],
        *([f"{at / 3}", "80", "7"] for at in range(5)),
    ],
    "own": [["arrival_s", "input_tokens", "output_tokens"], *([f"{at / 3}", "80", "7"] for at in range(5))],
}


def _read_as(draw: Draw, name: str, content: bytes) -> Case:
    """Play a trace, or compare with what is measured in it."""
    if name.endswith((".json", ".jsonl", ".csv")) and draw(st.integers(0, 2)) == 0:
        words = ["validate", "serving", "--measurements", "{}/" + name]
        if draw(st.booleans()):
            words += ["--device", "h100-sxm", "--model", "gpt-oss-20b", "--stack", "vllm", "--split", "tp2"]
        return Case(files={name: content}, words=tuple(words))
    requests = {"kind": "trace", "trace": name}
    if draw(st.integers(0, 4)) == 0:
        requests |= draw(
            st.sampled_from(({"time_unit": "ns"}, {"block_tokens": 512}, {"time_unit": "s"}, {"rate": 5.0}))
        )
    files = {name: content, **asked(requests=requests)}
    verb = draw(st.sampled_from(("check", "check", "check", "simulate")))
    return Case(files=files, words=(verb, "{}/s.toml"))


def request_records(draw: Draw) -> Case:
    """Damage a request trace or a result in JSON."""
    records = RECORDS[draw(st.sampled_from(sorted(RECORDS)))]
    at = draw(st.integers(0, len(records) - 1))
    lines = [
        dumps(damaged(draw, record, "json") if row == at else record, "json") for row, record in enumerate(records)
    ]
    whole = draw(st.sampled_from((b"\n".join(lines), b"\n".join(lines) + b"\n", b"[" + b", ".join(lines) + b"]")))
    return _read_as(draw, draw(st.sampled_from(("t.jsonl", "t.json"))), whole)


def request_bytes(draw: Draw) -> Case:
    """Damage the bytes of a request trace or a result."""
    if draw(st.booleans()):
        rows = TABLES[draw(st.sampled_from(sorted(TABLES)))]
        return _read_as(draw, "t.csv", damaged_bytes(draw, "\n".join(",".join(row) for row in rows).encode() + b"\n"))
    records = RECORDS[draw(st.sampled_from(sorted(RECORDS)))]
    content = b"\n".join(dumps(record, "json") for record in records)
    return _read_as(
        draw, draw(st.sampled_from(("t.jsonl", "t.json", "t.csv", "t.txt", "t"))), damaged_bytes(draw, content)
    )


@cache
def _points() -> list[list[str]]:
    text = (ROOT / "tests/data/serving/points.csv").read_text(encoding="utf-8")
    return [line.split(",") for line in text.splitlines()[:3]]


def request_tables(draw: Draw) -> Case:
    """Damage a request trace or measured points as a table."""
    if draw(st.integers(0, 5)) == 0:
        content = damaged_table(draw, _points()[:2])
        return Case(files={"t.csv": content}, words=("validate", "serving", "--measurements", "{}/t.csv"))
    return _read_as(draw, "t.csv", damaged_table(draw, TABLES[draw(st.sampled_from(sorted(TABLES)))]))


def request_parquet(draw: Draw) -> Case:
    """Damage a request trace in Parquet."""
    columns = {
        "arrival_s": [0.0, 0.5, 1.0],
        "input_tokens": [80, 1100, 90],
        "output_tokens": [7, 7, 7],
        "block_hashes": [[1], [1, 2, 3], [4]],
        "after": [-1, -1, 0],
        "delay_s": [0.0, 0.0, 1.0],
    }
    content = damaged_parquet(draw, columns)
    if draw(st.integers(0, 4)) == 0:
        content = damaged_bytes(draw, content)
    return _read_as(draw, "t.parquet", content)
