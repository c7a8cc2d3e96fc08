"""What each physical term of the kernel models buys: accuracy with the term, and without it.

Run as ``python -m validation.kernels.ablation DEVICE MEASUREMENTS``. A term is taken away by setting its coefficients
to the value at which it vanishes; the others keep their fitted values, so a loss is what the term carries, not what a
fit without it would lose.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from hardware_profiles.schema import Quantity
from simulator.hardware import Hardware, load_hardware
from validation.accuracy import accuracy
from validation.kernels.compare import compare_op
from validation.kernels.formats import measured_files, read_measured

#: Coefficients and the value at which their term vanishes, by op and by what the term stands for.
TERMS: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "gemm": {
        "launch": {"launch": 0.0},
        "tile prologue and epilogue": {"tile": 0.0},
        "operand feed of the SMs": {"feed": 1e9, "cache_feed": 1e9},
        "splitting of a deep k": {"split_depth": 1e12},
        "memory efficiency": {"memory": 1.0, "write": 1.0},
        "clock under load": {"throttle": 0.0},
        "cold first wave": {"first_wave": 0.0},
        "epilogue of short tiles": {"epilogue": 0.0},
        "quantising row by row": {"quantise_row": 0.0},
    },
    "attention_prefill": {
        "launch": {"launch": 0.0},
        "time per tile": {"tile": 0.0},
        "softmax beside the matrix units": {"softmax": 0.0},
        "waves of uneven tiles": {"balance": 0.0},
    },
    "mla_prefill": {
        "launch": {"launch": 0.0, "host": 0.0},
        "keys and values in pages": {"gather": 1.0},
    },
    "attention_decode": {
        "launch": {"launch": 0.0},
        "time per tile": {"tile": 0.0},
        "merging of splits": {"combine": 0.0, "merge": 0.0},
        "stream rate of one SM": {"stream": 1e9},
        "time per block of keys": {"block": 0.0},
    },
    "mla_decode": {
        "launch": {"launch": 0.0, "host": 0.0},
        "merging of splits": {"combine": 0.0, "merge": 0.0},
        "stream rate of one SM": {"stream": 1e9},
    },
    "moe": {
        "launch": {"launch": 0.0},
        "pipeline fill of tiles": {"fill_depth": 0.0},
        "least rows of a tile": {"minimum_rows": 1.0},
        "wave quantisation": {"tail": 0.0},
        "small kernels' traffic": {"hidden_traffic": 0.0, "intermediate_traffic": 0.0, "token_traffic": 0.0},
        "work on foreign tokens": {"foreign_share": 0.0},
        "memory efficiency": {"memory_efficiency": 1.0},
        "unaligned widths": {"unaligned": 1.0},
    },
}
#: Rows of an op that are compared at most, drawn by a fixed seed [1].
ROWS = 20_000


def without(hardware: Hardware, family: str, changes: Mapping[str, float]) -> Hardware:
    """Return the hardware with coefficients of every table of a family set to other values."""
    kernels: dict[str, Mapping[str, Quantity]] = {}
    for name, table in hardware.kernels.items():
        mine = name.split(".")[0] == family
        kernels[name] = {
            key: replace(quantity, value=changes[key]) if mine and key in changes else quantity
            for key, quantity in table.items()
        }
    return replace(hardware, kernels=kernels)


def ablate(device: str, folder: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """Median and p90 absolute error [1] by op: of the whole model, and without each term."""
    hardware = load_hardware(device)
    files, _ = measured_files(folder)
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for op, terms in TERMS.items():
        if op not in files:
            continue
        frame = read_measured(files[op])
        frame = frame.sample(min(ROWS, len(frame)), random_state=0).reset_index(drop=True)
        variants = {"the whole model": hardware, **{t: without(hardware, op, c) for t, c in terms.items()}}
        found[op] = {}
        for label, changed in variants.items():
            compared = compare_op(op, frame, changed)
            good = np.isfinite(compared["predicted_us"]) & (compared["predicted_us"] > 0)
            result = accuracy(compared["predicted_us"][good], compared["measured_us"][good])
            found[op][label] = (result.median_ape, result.p90_ape)
    return found


def main() -> None:
    """Print the table."""
    device, folder = sys.argv[1], Path(sys.argv[2])
    table = Table("op", "without", "median error", "p90", title=f"{device}: what each term carries")
    for op, variants in ablate(device, folder).items():
        for label, (median, p90) in variants.items():
            table.add_row(op, "" if label == "the whole model" else label, f"{median:.1%}", f"{p90:.1%}")
    Console().print(table)


if __name__ == "__main__":
    main()
