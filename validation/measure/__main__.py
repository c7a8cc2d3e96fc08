"""Run the microbenchmarks without the rest of the project: ``python -m validation.measure --out DIR``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hardware_profiles.errors import MoesimError
from validation.measure.suite import OPS, SIZES, run_microbenchmarks


def main() -> int:
    """Measure, write, and print what was measured."""
    parser = argparse.ArgumentParser(prog="python -m validation.measure", description=__doc__)
    parser.add_argument("--device", help="cuda or cpu; the first GPU where there is one")
    parser.add_argument("--ops", nargs="*", default=[], help=", ".join(OPS))
    parser.add_argument("--dtypes", nargs="*", default=[], help="bfloat16, fp8, float32")
    parser.add_argument("--size", help=", ".join(SIZES))
    parser.add_argument("--seconds", type=float, help="time in all, instead of that of the size")
    parser.add_argument("--threads", type=int, help="cores of a CPU to use")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables and the manifest")
    options = parser.parse_args()
    try:
        report = run_microbenchmarks(
            device=options.device,
            ops=options.ops,
            dtypes=options.dtypes,
            size=options.size,
            out=options.out,
            seconds=options.seconds,
            threads=options.threads,
            progress=_show if sys.stderr.isatty() else None,
        )
    except MoesimError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{report.machine.name}: {report.rows} rows in {report.manifest['seconds']} s, written to {options.out}")
    for name, rows in report.tables.items():
        print(f"  {name:18s} {len(rows):5d} rows")
    for reason in report.left_out:
        print(f"  left out: {reason}")
    return 0


def _show(share: float, what: str) -> None:
    print(f"\r{share:4.0%} {what:18s}", end="\n" if share >= 1.0 else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
