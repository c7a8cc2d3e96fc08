"""Microbenchmarks of this machine with PyTorch, in the table format that kernels are fitted to.

Needs PyTorch and numpy to measure and pandas with pyarrow to write; nothing else, so that the folder of this project
can be taken to a bare GPU machine and run there: ``python -m validation.measure --device cuda --out DIR``.
"""

from __future__ import annotations

from validation.measure.machine import Machine, MicrobenchmarkError, describe_machine
from validation.measure.suite import OPS, SIZES, Report, run_microbenchmarks

__all__ = [
    "OPS",
    "SIZES",
    "Machine",
    "MicrobenchmarkError",
    "Report",
    "describe_machine",
    "run_microbenchmarks",
]
