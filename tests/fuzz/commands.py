"""Kinds of paths, options and tables that commands take, damaged."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.documents import ROOT, SAMPLES, asked
from tests.fuzz.harness import LONG, Case
from tests.fuzz.hostile import (
    Draw,
    damaged,
    damaged_bytes,
    damaged_parquet,
    damaged_table,
    dumps,
)
from tests.fuzz.requests import VLLM

_PATHS = (
    "a" * 300,
    "a\x00b",
    "",
    ".",
    "..",
    "/",
    "/dev/zero",
    "/dev/null",
    "/proc/self/mem",
    "{}",
    "{}/loop",
    "{}/fifo",
    "{}/s.toml/x",
    "{}/secret/x",
    "{}/nowhere/s.toml",
    "\x1b[31m.toml",
    "~root",
    "sample:",
    "sample:../../etc/passwd",
    "sample:" + "b" * 400,
    "/" * 3000,
    "x/" * 3000 + "s.toml",
    "-",
    "*",
)
_SUFFIXES = ("", ".toml", ".json", ".csv", ".jsonl", ".parquet", ".npz", ".npy", ".pt")


def paths(draw: Draw) -> Case:
    """Name files by paths that are none, in every place where a path goes."""
    path = draw(st.sampled_from(_PATHS))
    path += "" if path in ("{}/loop", "{}/fifo") and draw(st.booleans()) else draw(st.sampled_from(_SUFFIXES))
    place: tuple[str, ...] = draw(
        st.sampled_from(
            (
                ("check", path),
                ("simulate", path),
                ("show", path),
                ("show", "h100-sxm", "--profiles", path),
                ("check", "{}/s.toml", "--device", path),
                ("check", "{}/s.toml", "--profiles", path),
                ("check", "{}/s.toml", "--set", f"model.name={path}"),
                ("check", "{}/s.toml", "--set", f"stack.name={path}"),
                ("check", "{}/s.toml", "--set", f"hardware.profiles={path}"),
                ("check", "{}/s.toml", "--set", "requests.kind=trace", f"requests.trace={path}"),
                ("check", "{}/s.toml", "--set", "routing.kind=trace", f"routing.trace={path}"),
                ("check", "{}/s.toml", "--set", "routing.kind=fitted", f"routing.fit={path}"),
                ("check", "{}/s.toml", "--set", "elastic.mechanism=cold_restart", f"elastic.startup={path}"),
                ("check", "{}/s.toml", "--set", f"hardware.node={path}"),
                ("check", "{}/s.toml", "--set", f"offload.router={path}", "stack.scheduler=expert_aware"),
                ("routing", "stats", path),
                ("routing", "stats", "sample:routing_4x8_top2.parquet", "--token-ids", path),
                ("routing", "convert", path, "{}/o.npz"),
                ("routing", "convert", "sample:routing_4x8_top2.parquet", "{}/nowhere/o.npz"),
                ("routing", "generate", "--from", path, "--out", "{}/o.npz"),
                ("routing", "fit", path, "--out", "{}/o.toml"),
                ("place", "--routing", path, "--device", "h100-sxm"),
                ("place", "--loads", path, "--device", "h100-sxm"),
                ("place", path),
                ("exchange", "--device", path, "--ranks", "8"),
                ("exchange", "--device", "h800", "--ranks", "8", "--routing", path),
                ("exchange", "--device", "h800", "--ranks", "8", "--model", path),
                ("validate", "serving", "--measurements", path),
                ("validate", "kernels", "--device", "h100-sxm", "--measurements", path),
                ("calibrate", "fit", "--device", "h100-sxm", "--measurements", path, "--out", "{}/o"),
                ("regress", "--baseline", path),
            )
        )
    )
    return Case(files=asked(), words=place)


_NUMBERS = (
    "0",
    "-1",
    "1",
    "3",
    "7",
    "1000000000",
    str(2**63),
    "9" * 400,
    "1e308",
    "nan",
    "inf",
    "",
    "1.5",
    "x" * 2000,
    "\x1b[1m",
)


#: Commands, and options of each that take a value.
_COMMANDS: tuple[tuple[str, str], ...] = (
    (
        "exchange --device h800 --ranks 8",
        "ranks tokens model algorithm fidelity routing skew layer dtype expert-shards slow-link oversubscription node "
        "cluster seed",
    ),
    (
        "place --routing sample:routing_24x32_top4.npz --device h100-sxm --ep 8 --windows 1",
        "model ep redundant policies batch context seen windows device",
    ),
    ("routing stats sample:routing_4x8_top2.parquet", "experts ep batch concurrency seed"),
    (
        "routing generate --kind zipf --layers 2 --experts 8 --top-k 2 --tokens 64 --out {}/o.npz",
        "kind set tokens layers experts top-k router router-set capacity-factor batch seed out",
    ),
    ("explain {}/s.toml", "phase batch context device"),
    ("timeline {}/s.toml", "phase batch context ranks"),
    ("validate serving --measurements {}/v.json", "every split device stack model"),
    ("calibrate fit --measurements {} --out {}/o", "device"),
    ("list devices", "profiles"),
    ("list keys", "profiles"),
)


def arguments(draw: Draw) -> Case:
    """Give options of every command hostile values."""
    base, options = draw(st.sampled_from(_COMMANDS))
    words = base.split()
    for _ in range(draw(st.integers(1, 2))):
        option = f"--{draw(st.sampled_from(options.split()))}"
        texts = (
            *_NUMBERS,
            "zipf",
            "k=v",
            "=",
            "a=nan",
            "exponent=1e308",
            "vllm",
            "tp2",
            "0.5,0.5",
            "8,16",
            "node0/nic3 -> leaf0.3=0.25",
        )
        words += [option, draw(st.sampled_from(texts))]
    return Case(files={**asked(), "v.json": dumps(VLLM, "json")}, words=tuple(words))


_MEASURED: Mapping[str, dict[str, list[Any]]] = {
    "gemm": {
        "m": [1, 64, 512],
        "n": [64, 64, 64],
        "k": [64, 64, 64],
        "dtype": ["bfloat16"] * 3,
        "time_s": [1e-5, 2e-5, 3e-5],
    },
    "moe": {"tokens": [1, 2, 3], "hidden": [64, 64, 64], "time_s": [1e-5, 1e-5, 1e-5]},
}


def measured_kernels(draw: Draw) -> Case:
    """Damage tables of measured kernels."""
    op = draw(st.sampled_from(sorted(_MEASURED)))
    columns = _MEASURED[op]
    if draw(st.booleans()):
        name, content = f"k/{op}.parquet", damaged_parquet(draw, columns)
    else:
        rows = [list(columns), *([str(cell) for cell in row] for row in zip(*columns.values(), strict=True))]
        name, content = f"k/{op}.csv", damaged_table(draw, rows)
    words = draw(
        st.sampled_from(
            (
                ("validate", "kernels", "--device", "h100-sxm", "--measurements", "{}/k"),
                ("calibrate", "fit", "--device", "h100-sxm", "--measurements", "{}/k", "--out", "{}/o"),
            )
        )
    )
    return Case(files={name: content}, words=words)


_BASELINE = {"format": 1, "moesim": "0.1.0", "predictions": {}, "stated": {}}


def baselines(draw: Draw) -> Case:
    """Damage what ``regress`` compares with."""
    content = dumps(damaged(draw, _BASELINE, "json"), "json")
    if draw(st.booleans()):
        content = damaged_bytes(draw, content)
    return Case(files={"b.json": content}, words=("regress", "--baseline", "{}/b.json"), ends=(0, 1, 2))


@cache
def _recorded() -> tuple[Path, ...]:
    """List good files that are small; in a long run those of a shared folder beside the repository, too."""
    folders = [ROOT / "tests/data", SAMPLES, ROOT / "examples"]
    if LONG and (ROOT.parent / "shared/cases").is_dir():
        folders.append(ROOT.parent / "shared/cases")
    suffixes = (".toml", ".json", ".jsonl", ".csv", ".parquet", ".npz")
    found = [file for folder in folders for file in sorted(folder.rglob("*")) if file.suffix in suffixes]
    return tuple(file for file in found if file.stat().st_size < 100_000)


def recorded_files(draw: Draw) -> Case:
    """Damage the bytes of a recorded file, and give it to a command that may read such."""
    file = draw(st.sampled_from(_recorded()))
    name = "t" + file.suffix
    trace = asked(requests={"kind": "trace", "trace": name})
    routing = asked(routing={"kind": "trace", "trace": name})
    reads: tuple[tuple[dict[str, bytes], tuple[str, ...]], ...] = (
        ({}, ("check", "{}/" + name)),
        ({}, ("show", "{}/" + name)),
        (trace, ("check", "{}/s.toml")),
        (routing, ("check", "{}/s.toml")),
        ({}, ("routing", "stats", "{}/" + name)),
        ({}, ("validate", "serving", "--measurements", "{}/" + name, "--every", "100")),
        ({}, ("place", "--loads", "{}/" + name, "--device", "h100-sxm", "--ep", "2")),
    )
    fitting = {
        ".toml": (0, 0, 1),
        ".json": (1, 1, 2, 5, 6),
        ".jsonl": (2, 5),
        ".csv": (2, 2, 5, 6),
        ".parquet": (2, 3, 4),
    }
    more, words = reads[draw(st.sampled_from(fitting.get(file.suffix, (3, 4, 6))))]
    return Case(files={name: damaged_bytes(draw, file.read_bytes()), **more}, words=words)
