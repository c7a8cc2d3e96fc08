"""Small traces of each format, made up for demonstrations and tests; recorded from nobody."""

from __future__ import annotations

from pathlib import Path

from hardware_profiles.errors import nearest
from workloads.errors import WorkloadError

SAMPLES = (
    "azure_like.csv",
    "burstgpt_like.csv",
    "mooncake_like.jsonl",
    "requests.csv",
    "routing_24x32_top4.npz",
    "routing_4x8_top2.parquet",
    "vllm_bench_like.json",
)


def sample_path(name: str) -> Path:
    """Find a sample that ships with the project.

    Parameters
    ----------
    name : str
        One of ``SAMPLES``.

    Examples
    --------
    >>> sample_path("azure_like.csv").name
    'azure_like.csv'
    """
    if name not in SAMPLES:
        msg = f"sample: unknown name {name!r}; {nearest(name, SAMPLES)}"
        raise WorkloadError(msg)
    return Path(__file__).parent / name
