"""Write results for other tools: an output folder, a Perfetto trace, a ``vllm bench serve`` result.

The writers know frames and plain values; nothing here knows the engine.
"""

from __future__ import annotations

from simulator.export.bundle import Manifest, library_versions, write_bundle
from simulator.export.files import check_output_folder, encode_json, output_folder, write_atomically
from simulator.export.perfetto import Counter, Flow, check_nesting, encode_trace
from simulator.export.result import write_result
from simulator.export.vllm_bench import vllm_bench_result

__all__ = [
    "Counter",
    "Flow",
    "Manifest",
    "check_nesting",
    "check_output_folder",
    "encode_json",
    "encode_trace",
    "library_versions",
    "output_folder",
    "vllm_bench_result",
    "write_atomically",
    "write_bundle",
    "write_result",
]
