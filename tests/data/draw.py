"""Draw the samples of this folder from the tables that they come from: ``python tests/data/draw.py MEASUREMENTS``.

MEASUREMENTS holds ``kernels/<device>/<op>.parquet``, ``serving_points.csv``, a folder of results of ``vllm bench
serve`` and tables of published figures, and has configurations of models beside it; README.md beside this file says
where these were published.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from hardware_profiles.loader import load_device
from validation.kernels.formats import FORMATS, measured_files, read_measured
from validation.kernels.held_out import fitted_together, held_out

HERE = Path(__file__).parent
SEED = 20261128
#: Rows up to which an op's table is taken whole, most rows of a kernel table of a larger one, and serving points of a
#: model on a device and stack [1].
WHOLE, ROWS, POINTS = 700, 600, 2
#: Models whose publishers put their configuration under the Apache License 2.0 or the MIT License.
MODELS = (
    "DeepSeek-R1",
    "DeepSeek-V3.2",
    "GLM-5",
    "Mixtral-8x22B-v0.1",
    "Mixtral-8x7B-v0.1",
    "Qwen3-235B-A22B",
    "Qwen3-30B-A3B",
    "Qwen3-32B",
    "Qwen3-Coder-480B-A35B-Instruct",
    "Qwen3.5-397B-A17B",
    "gpt-oss-120b",
    "gpt-oss-20b",
)
#: Most requests in flight of these [1].
CONCURRENCY = 16


def sample(op: str, frame: pd.DataFrame, *, unseen: bool) -> pd.DataFrame:
    """Draw rows of an op, at most :data:`ROWS` of each kernel table, from those that no fit has seen or from all."""
    random = np.random.default_rng(np.random.SeedSequence(SEED))
    allowed = held_out(op, frame) if unseen else np.ones(len(frame), dtype=bool)
    chosen = np.arange(len(frame))
    if len(frame) > WHOLE:
        drawn = [random.permutation(rows[allowed[rows]])[:ROWS] for rows in fitted_together(op, frame)]
        chosen = np.sort(np.concatenate(drawn))
    known = FORMATS[op]
    columns = {*known.names, *known.sizes, *known.counts, *known.optional, *known.figures.values()}
    return frame.iloc[chosen][[c for c in frame.columns if c in columns]].reset_index(drop=True)


def main() -> None:
    """Write the samples of kernels and serving beside this file."""
    given = Path(sys.argv[1])
    for folder in sorted(p for p in (given / "kernels").iterdir() if p.is_dir()):
        fitted = bool(load_device(folder.name.replace("_", "-")).main.kernels)
        (HERE / "kernels" / folder.name).mkdir(parents=True, exist_ok=True)
        for op, path in measured_files(folder)[0].items():
            drawn = sample(op, read_measured(path), unseen=fitted)
            drawn.to_parquet(HERE / "kernels" / folder.name / path.name, index=False, compression="zstd")
    (HERE / "serving").mkdir(exist_ok=True)
    points = pd.read_csv(given / "serving_points.csv", dtype=str, keep_default_na=False)
    # Short runs, which tests can play.
    points = points[(points["mode"] == "agg") & (pd.to_numeric(points["concurrency"]) <= CONCURRENCY)]
    drawn = points.sample(frac=1.0, random_state=SEED).groupby(["stack", "model", "device"]).head(POINTS)
    drawn.sort_index().to_csv(HERE / "serving" / "points.csv", index=False, lineterminator="\n")
    (folder,) = given.glob("serving_*vllm*")
    results = HERE / "serving" / folder.name.removeprefix("serving_")
    results.mkdir(exist_ok=True)
    for path in sorted(folder.glob("*_isl1024_osl128_conc[48].json")):
        shutil.copyfile(path, results / path.name)
    published = [("seed_checks.csv", "check_id"), ("published.csv", "id")]
    known = {name for file, column in published for name in pd.read_csv(given / file, dtype=str)[column]}
    (HERE / "published_ids.txt").write_text("\n".join(sorted(known)) + "\n", encoding="utf-8")
    hardware = pd.read_csv(given / "hardware.csv", dtype=str, keep_default_na=False)
    hardware[["device", "quantity", "value", "unit", "source"]].to_csv(
        HERE / "hardware.csv", index=False, lineterminator="\n"
    )
    for name in MODELS:
        (HERE / "models").mkdir(exist_ok=True)
        shutil.copyfile(given.parent / "models" / f"{name}.json", HERE / "models" / f"{name}.json")


if __name__ == "__main__":
    main()
