"""What one instance is asked on average, and how prompts that come at random fall on its ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray
from simulator.closed_form.numbers import Number, some
from simulator.scenario.sections import Requests
from workloads.requests.trace import RequestTrace
from workloads.requests.turns import mean_rate

#: Quantiles of prompt lengths that are kept, and cells of the distribution of prompt tokens on a rank [1].
QUANTILES = 64
_CELLS = 512
#: Generators whose arrivals have one rate all the time.
EVEN = ("poisson", "gamma", "constant")
#: Time in which requests come that all come at once [s].
_AT_ONCE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one instance is asked on average.

    ``inputs`` and ``outputs`` are mean lengths [tokens], ``prompts`` evenly spaced quantiles of the prompt lengths
    [tokens], ``context`` the mean KV length that a decoded token sees [tokens], ``concurrency`` the requests in flight
    of a closed loop and ``rate`` the arrivals of an open one [1/s]; one of the two is 0. ``equal_outputs`` tells that
    all answers have the same length. In a closed loop ``think`` is the mean time between an answer and the request
    after it [s], and ``equal_outputs`` tells that these are equal, too; the concurrency counts those who think.
    """

    inputs: float
    prompts: tuple[float, ...]
    outputs: float
    context: float
    concurrency: float
    rate: float
    equal_outputs: bool = False
    think: float = 0.0

    @property
    def decodes(self) -> float:
        """Decode steps of a mean answer, whose first token its prompt yields [1]."""
        return self.outputs - 1.0

    @property
    def in_lock_step(self) -> bool:
        """Whether requests keep to the rounds in which they started: a closed loop whose answers take equally long."""
        return self.concurrency > 0 and self.equal_outputs and self.think <= 0.0


def asked_rate(choice: Requests, trace: RequestTrace) -> float | None:
    """Return the rate at which a generator is asked to send requests all the time [1/s]; ``None`` for other loads.

    A sample of it comes a little faster or slower, and one request alone at no rate. Sessions come by their own.
    """
    return choice.rate if choice.kind in EVEN and trace.after is None else None


def mean_load(trace: RequestTrace, instances: int, rate: float | None = None) -> Load:
    """Reduce a request trace to what one instance sees on average.

    Parameters
    ----------
    trace : RequestTrace
        The load.
    instances : int
        Instances that share it [1].
    rate : float or None
        Requests of an open loop over all instances [1/s]; those of the trace where absent.
    """
    inputs, outputs = trace.input_tokens.astype(np.float64), trace.output_tokens.astype(np.float64)
    context = float((outputs * inputs + outputs**2 / 2).sum() / outputs.sum())
    # Where all come at once, as fast as can be.
    rate = rate or mean_rate(trace) or (len(trace) - 1) / _AT_ONCE
    delay, later = trace.delay, np.zeros(len(trace), np.bool_) if trace.after is None else trace.after >= 0
    thinks = trace.concurrency is not None and delay is not None and bool(delay.any())
    alike = bool(outputs.min() == outputs.max())
    if thinks and delay is not None:
        alike &= bool(delay[later].min() == delay[later].max())
    return Load(
        inputs=float(inputs.mean()),
        prompts=tuple(_quantiles(trace.input_tokens).tolist()),
        outputs=float(outputs.mean()),
        context=context,
        concurrency=(trace.concurrency or 0) / instances,
        rate=0.0 if trace.concurrency else rate / instances,
        equal_outputs=alike,
        think=float(delay.mean()) if thinks and delay is not None else 0.0,
    )


def _quantiles(lengths: NDArray[np.int64]) -> FloatArray:
    """Return evenly spaced quantiles, linear between lengths as ``numpy.quantile`` has them, in a tenth of its time."""
    ordered = np.sort(lengths).astype(np.float64)
    places = (np.arange(QUANTILES) + 0.5) / QUANTILES * (len(ordered) - 1)
    below = places.astype(np.int64)
    low, high, share = ordered[below], ordered[np.minimum(below + 1, len(ordered) - 1)], places - below
    return np.where(share < 0.5, low + (high - low) * share, high - (high - low) * (1.0 - share))


@dataclass(frozen=True, slots=True, kw_only=True)
class Loads:
    """Many loads, of one kind of loop: fields of :class:`Load` as arrays of shape (loads,) or (loads, quantiles)."""

    inputs: FloatArray
    prompts: FloatArray
    outputs: FloatArray
    context: FloatArray
    concurrency: FloatArray
    rate: FloatArray

    @classmethod
    def of(cls, loads: Sequence[Load]) -> Loads:
        """Put loads into arrays."""
        return cls(**{field.name: np.array([getattr(load, field.name) for load in loads]) for field in fields(cls)})

    def taken(self, chosen: NDArray[np.intp]) -> Loads:
        """Take some of them."""
        return Loads(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    @property
    def decodes(self) -> FloatArray:
        """As that of a load [1]."""
        return self.outputs - 1.0


def busiest_prompts(load: Load | Loads, dp: int, ends: Number) -> Number:
    """Prompt tokens on the rank with most of them, in a step that computes the prompts of one step [tokens].

    Parameters
    ----------
    load : Load or Loads
        Its prompt lengths.
    dp : int
        Ranks that prompts come to at random [1].
    ends : float or array, shape (loads,)
        Prompts that come in per step, over all ranks [1].

    Notes
    -----
    Each rank gets a compound Poisson load, whose distribution is the inverse transform of exp(rate (phi - 1)) for
    prompt lengths of transform phi; the expected largest of ``dp`` such loads is the sum of 1 - F^dp, divided by the
    probability that any prompt comes in.
    """
    prompts, rate = np.asarray(load.prompts), np.asarray(ends / dp)
    cell = prompts[..., -1] * (2.0 + rate + 6.0 * np.sqrt(rate)) / _CELLS
    places = np.maximum(np.rint(prompts / cell[..., None]), 1.0).astype(np.int64)
    loads = rate.size
    flat = (places.reshape(loads, -1) + _CELLS * np.arange(loads)[:, None]).reshape(-1)
    lengths = np.bincount(flat, minlength=_CELLS * loads).reshape(*rate.shape, _CELLS) / prompts.shape[-1]
    chance = np.fft.irfft(np.exp(rate[..., None] * (np.fft.rfft(lengths) - 1.0)), _CELLS)
    below = np.minimum(np.maximum(chance.cumsum(axis=-1), 0.0), 1.0)
    largest = (_CELLS - np.power(below, dp).sum(axis=-1)) * cell / some(ends)
    return largest if rate.ndim else float(largest)
