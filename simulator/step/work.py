"""The work of one step of an instance, and the time that it takes."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.schedule import Overlap


@dataclass(slots=True)
class StepWork:
    """What one step of an instance does; a single value that the scheduler fills anew for every step.

    ``rows`` are the tokens of the busiest data-parallel rank, drafted ones included, ``decode_rows`` its decoded
    sequences with mean KV length ``decode_context``. Prompt chunks of the busiest rank: their tokens, number, and mean
    cached prefix. ``prompt_total`` and ``decode_total`` are tokens of all ranks; ``logits`` rows of the LM head there.
    """

    rows: int = 0
    decode_rows: int = 0
    decode_context: float = 0.0
    prompt_rows: int = 0
    prompt_sequences: int = 0
    prompt_prefix: float = 0.0
    prompt_total: int = 0
    decode_total: int = 0
    logits: int = 0
    running: int = 0


@dataclass(slots=True)
class StepTime:
    """Duration of a step and the parts that only the step itself knows [s].

    ``imbalance`` is max/mean over ranks. All parts are those of one batch whose ops follow each other; ``saved`` is
    what ``overlap`` takes off their sum.
    """

    duration: float = 0.0
    attention: float = 0.0
    prompt_projections: float = 0.0
    experts: float = 0.0
    imbalance_wait: float = 0.0
    gap: float = 0.0
    imbalance: float = 1.0
    saved: float = 0.0
    overlap: Overlap = "none"
