"""Small traces of each format, made up for demonstrations and tests, and fits to recorded ones."""

from __future__ import annotations

from pathlib import Path

from hardware_profiles.errors import nearest
from workloads.errors import WorkloadError

SAMPLES = (
    "agents_like.jsonl",
    "azure_like.csv",
    "burstgpt_like.csv",
    "mooncake_like.jsonl",
    "requests.csv",
    "routing_24x32_top4.npz",
    "routing_4x8_top2.parquet",
    "vllm_bench_like.json",
)
#: Routing models fitted to recorded traces; each file states its source.
FITS = ("fit_gpt_oss_20b.toml",)


def sample_path(name: str) -> Path:
    """Find a sample that ships with the project.

    Parameters
    ----------
    name : str
        One of ``SAMPLES`` or ``FITS``.

    Examples
    --------
    >>> sample_path("azure_like.csv").name
    'azure_like.csv'
    """
    if name not in SAMPLES + FITS:
        msg = f"sample: unknown name {name!r}; {nearest(name, SAMPLES + FITS)}"
        raise WorkloadError(msg)
    return Path(__file__).parent / name
