"""What validation finds, as text."""

from __future__ import annotations

import io

from rich.console import Console

from simulator.cli.validate_text import print_outcomes
from validation.regression.regress import Outcome


def test_numbers_of_a_comparison_are_read_whole_beside_keys_wider_than_the_terminal() -> None:
    key = "kernel/h100-sxm/mamba2/" + "axis=123," * 30
    stream = io.StringIO()
    print_outcomes(Console(file=stream, width=80), [Outcome(key=key, before=1e-3, after=1.5e-3, status="moved")])
    text = stream.getvalue()
    assert all(told in text for told in ("1 ms", "1.5 ms", "+50.00 %", "moved"))
