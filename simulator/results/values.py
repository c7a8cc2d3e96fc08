"""What comes out: summaries, findings, explanations and the result that carries them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from simulator.results.columns import Columns
from simulator.results.setup import Setup
from simulator.scenario import Scenario
from simulator.scenario.title import title
from workloads.models.spec import Phase

if TYPE_CHECKING:
    import pandas as pd

    from simulator.results.trace import Slice, TokenGaps


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that :func:`simulator.check` found.

    ``error`` means that the scenario cannot run, or that its server refuses it, ``warning`` that its answer needs care,
    ``note`` that a default was chosen. ``where`` is the scenario key, ``remedy`` what would mend it. ``source`` says
    where a condition of the server stands; nothing else has one, so that an error with a source can still be simulated.
    """

    level: Literal["error", "warning", "note"]
    where: str
    message: str
    remedy: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Mean and percentiles of a latency [s]; NaN where nothing was measured."""

    mean: float
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The headline numbers of a run; latencies in seconds, rates per second; all of the same window of its time.

    ``offered_rps`` is the rate of arrivals, NaN in a closed loop; ``slo_share`` the share of requests that meet every
    objective, NaN where none is set; ``measured_steps`` the engine steps in the window, of ``engine_steps`` in all.
    ``imbalance_*`` is the load of the most loaded rank over the mean rank, mean over layers; ``expert_imbalance_mean``
    the load of the most loaded expert over the mean expert, and ``active_experts_mean`` the share of experts that are
    touched, both in decode batches of the mean size; 1 for a dense model.
    ``prefix_hits`` is the share of prompt tokens that were cached, NaN without a cache; ``retries`` how often a request
    was sent in again after a failure. ``interval_80`` gives low and high factors on times from the calibration errors
    of the kernels that made them. ``devices_mean`` are the devices that rates per GPU are over, on average of the
    measured time; rates in all are those times it.
    """

    ttft_s: Distribution
    tpot_s: Distribution
    itl_s: Distribution
    e2el_s: Distribution
    input_tokens_per_s_per_gpu: float
    output_tokens_per_s_per_gpu: float
    total_tokens_per_s_per_gpu: float
    requests_completed: int
    engine_steps: int
    simulated_s: float
    wall_s: float
    goodput_rps: float
    usd_per_million_output_tokens: float
    request_throughput_rps: float
    batch_size_mean: float
    queue_length_mean: float
    kv_use_mean: float
    kv_use_max: float
    preemptions: int
    mfu: float
    mbu: float
    rank_imbalance_mean: float
    rank_imbalance_p99: float
    expert_imbalance_mean: float = float("nan")
    active_experts_mean: float = float("nan")
    prefix_hits: float = float("nan")
    retries: int = 0
    interval_80: tuple[float, float] = (float("nan"), float("nan"))
    offered_rps: float = float("nan")
    slo_share: float = float("nan")
    measured_steps: float = float("nan")
    devices_mean: float = float("nan")

    @property
    def output_tokens_per_s(self) -> float:
        """Answer tokens per second of all devices together [1/s]."""
        return self.output_tokens_per_s_per_gpu * self.devices_mean

    @property
    def input_tokens_per_s(self) -> float:
        """Prompt tokens per second of all devices together [1/s]."""
        return self.input_tokens_per_s_per_gpu * self.devices_mean

    @property
    def total_tokens_per_s(self) -> float:
        """Prompt and answer tokens per second of all devices together [1/s]."""
        return self.total_tokens_per_s_per_gpu * self.devices_mean

    @property
    def output_tokens_per_s_per_user(self) -> float:
        """Tokens per second that one user is sent while an answer comes: the inverse of the mean TPOT [1/s]."""
        return 1.0 / self.tpot_s.mean if self.tpot_s.mean > 0.0 else float("nan")

    def document(self) -> dict[str, Any]:
        """Return the JSON document, rates of all devices and per user included."""
        rates = ("output_tokens_per_s", "input_tokens_per_s", "total_tokens_per_s", "output_tokens_per_s_per_user")
        return {**asdict(self), **{name: getattr(self, name) for name in rates}}


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSummary:
    """What users of conversations see; latencies in seconds.

    ``sessions`` are those that begin in the measured window, ``turns_mean`` the requests of a session,
    ``ttft_first_s`` and ``ttft_later_s`` the time to first token of first turns and of all others, ``session_s`` the
    time from the first request of a session to its last token, think times included. ``late_turns`` counts those that
    were sent later than the trace has them, as the answer before them had not ended.
    """

    sessions: int
    turns_mean: float
    ttft_first_s: Distribution
    ttft_later_s: Distribution
    session_s: Distribution
    late_turns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImbalanceCost:
    """What uneven routing costs a step, against the same step under balanced routing.

    Attributes
    ----------
    phase : {"prefill", "decode"}
        Which kind of step.
    step_s, balanced_step_s : float
        The step under the routing that is given, and under balanced routing: ops one after the other, without what an
        overlap would hide [s].
    waiting_s : float
        What the busiest rank adds over the mean one, in experts and in messages [s].
    messages_s : float
        Part of ``waiting_s``: what dispatch and combine of the busiest rank take longer [s].
    experts_s : float
        What the mean rank's experts take longer, less than zero where they take less [s]. Adds up with ``waiting_s`` to
        ``step_s - balanced_step_s``.
    unread_s : float
        Part of ``experts_s``, never above zero: weights that are not read, as far as fewer are touched [s]. The rest is
        kernels whose tiles the rows fill otherwise.
    active, balanced_active : float
        Share of expert slots that are touched [1].
    """

    phase: Phase
    step_s: float
    balanced_step_s: float
    waiting_s: float
    messages_s: float
    experts_s: float
    unread_s: float
    active: float
    balanced_active: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolTime:
    """Where the time of one pool of two goes, within the measured window.

    ``steps`` are its engine steps [1], ``breakdown`` the seconds by component of all its instances.
    """

    steps: float
    breakdown: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeRun:
    """What the client of a benchmark measures: all from the first request to the last answer.

    Names and units as those of :class:`Summary`; ``duration_s`` is the length of the run [s].
    """

    duration_s: float
    requests_completed: int
    request_throughput_rps: float
    input_tokens_per_s_per_gpu: float
    output_tokens_per_s_per_gpu: float
    total_tokens_per_s_per_gpu: float
    usd_per_million_output_tokens: float
    ttft_s: Distribution
    tpot_s: Distribution
    e2el_s: Distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Which part of a run its summary is of, and how well that says what a longer one would.

    Attributes
    ----------
    kind : {"asked", "steady", "transient", "overloaded", "whole"}
        What the scenario asks for; the steady state; a run that changes in time, from its first to its last arrival;
        the time in which a queue grows; all of a run that has none of these.
    begin_s, end_s : float
        Between which times [s].
    latencies : float
        Its length in mean E2EL [1].
    filling : float
        Share of the time from the first to the last arrival that is left out before it [1].
    served_error : float
        Half of the 95 % confidence interval of the rate of requests over that rate, from means over batches [1]; NaN in
        a closed loop.
    """

    kind: str
    begin_s: float
    end_s: float
    latencies: float
    filling: float
    served_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Overload:
    """A load that comes faster than it is served.

    Attributes
    ----------
    offered_rps, capacity_rps : float
        Requests that come, and that the deployment can serve [1/s].
    pool : {"", "prefill", "decode"}
        Which pool is short, where prompts have one of their own.
    instances, needed : int
        Its instances, and how many would hold the load [1].
    """

    offered_rps: float
    capacity_rps: float
    pool: Literal["", "prefill", "decode"]
    instances: int
    needed: int

    @property
    def key(self) -> str:
        """The scenario key of the instances."""
        return "disaggregation.prefill.instances" if self.pool == "prefill" else "parallelism.instances"

    def text(self) -> str:
        """Say so in one sentence."""
        short = f"the {self.pool} pool is short and " if self.pool else ""
        return (
            f"overloaded: offered {_rate(self.offered_rps)} requests/s, capacity about {_rate(self.capacity_rps)}/s: "
            f"{short}the queue grows without bound; {self._remedy('it')}"
        )

    def peak_text(self) -> str:
        """Say so of a load that exceeds what can be served while its rate is highest."""
        whose = f" of the {self.pool} pool" if self.pool else ""
        return (
            f"overloaded at the peak: {_rate(self.offered_rps)} requests/s are offered there, capacity{whose} about "
            f"{_rate(self.capacity_rps)}/s: the queue grows for as long; {self._remedy('the peak')}"
        )

    def suspicion(self) -> str:
        """Say that a longer run may show it, as part of a sentence."""
        whose = f" of the {self.pool} pool" if self.pool else ""
        return (
            f"; by the closed form the capacity{whose} is about {_rate(self.capacity_rps)} of the "
            f"{_rate(self.offered_rps)} requests/s offered, so that in a longer run the queue may grow without bound; "
            f"{self._remedy('them')}"
        )

    def _remedy(self, load: str) -> str:
        part = ", as far as this pool goes" if self.pool else ""
        return f"about {self.needed} instances instead of {self.instances} ({self.key}) would hold {load}{part}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A closed-form answer: the steady state without events.

    ``summary`` holds means in its distributions; percentiles, wall time and step count are NaN or 0. ``setup`` says
    what answered, as in :class:`Result`; ``overload`` by how much the load exceeds what can be served, where it does.
    """

    scenario: Scenario
    summary: Summary
    breakdown: Mapping[str, float]
    warnings: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    setup: Setup | None = None
    overload: Overload | None = None

    def document(self) -> dict[str, Any]:
        """Return the JSON document of the CLI, with the keys of a run."""
        exceeded = None if self.overload is None else asdict(self.overload)
        # Without events there is no run of which this could be a part.
        return {**_document(self), "measured": None, "whole_run": None, "overload": exceeded, "imbalance_cost": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One step, op by op.

    ``ops`` has one row per op: name, kind, component, repeat [1/step], time_s (all repeats), share, bound, flops,
    bytes, message_bytes, kernel, kernel_of (the device that its coefficients are of), equation, inputs, source,
    evidence, error (relative, 1 sigma). Where the stack overlaps, ops stand as one batch would run them in turn, and
    the row ``overlap`` takes off what that saves; ``hidden`` then has one row per kind of exchange and of computing
    beside it: message, beside, time_s.
    """

    scenario: Scenario
    phase: Phase
    batch: int
    context: int
    step_s: float
    ops: pd.DataFrame
    warnings: tuple[str, ...] = ()
    hidden: pd.DataFrame | None = None
    setup: Setup | None = None
    imbalance_cost: ImbalanceCost | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingSummary:
    """Headline numbers of a run that changed its size.

    Attributes
    ----------
    mechanism, policy : str
        How, and why, sizes changed.
    changes : int
        How often [1].
    latency_mean_s, latency_max_s : float
        From a command until the new instance could serve [s]; NaN where nothing changed.
    downtime_s : float
        Time in which no instance served [s].
    attainment : float
        Share of all requests that met the objective; 1 where there is none [1].
    requests_per_s : float
        Answered requests over the whole run [1/s].
    size_mean, devices_mean : float
        Ranks that take requests, and devices that are held, over time [1].
    devices_peak : int
        Most devices held at once [1].
    memory_peak_bytes : float
        Most device memory held at once, over all devices [bytes].
    moved_bytes : float
        Weights that travelled between devices or were read from disk [bytes].
    device_hours : float
        Devices times the hours for which they were held [h].
    cost_usd : float
        What they cost [USD]; NaN where the device has no price.
    """

    mechanism: str
    policy: str
    changes: int
    latency_mean_s: float
    latency_max_s: float
    downtime_s: float
    attainment: float
    requests_per_s: float
    size_mean: float
    devices_mean: float
    devices_peak: int
    memory_peak_bytes: float
    moved_bytes: float
    device_hours: float
    cost_usd: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scaling:
    """What changed when.

    Attributes
    ----------
    summary : ScalingSummary
        Headline numbers.
    changes : DataFrame
        One row per change: before, after [ranks], command_s, ready_s, switched_s, released_s, latency_s, downtime_s,
        devices, memory_bytes (peaks until released), moved_bytes.
    phases : DataFrame
        One row per phase of a change: change (row of ``changes``), phase, start_s, end_s, memory_bytes.
    instances : DataFrame
        One row per state of an instance: instance, size [ranks], state (starting, serving, draining), start_s, end_s.
    timeline : DataFrame
        One row per bin of time: start_s, end_s, size, devices, memory_bytes (means over the bin), arrivals_per_s,
        requests_per_s, tokens_per_s (output), attainment (of requests that arrived in the bin).
    """

    summary: ScalingSummary
    changes: pd.DataFrame
    phases: pd.DataFrame
    instances: pd.DataFrame
    timeline: pd.DataFrame

    def document(self) -> dict[str, Any]:
        """Return the summary and the changes as JSON."""
        return {"summary": asdict(self.summary), "changes": self.changes.to_dict("records")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A simulated run.

    Attributes
    ----------
    request_columns, requests : Columns, DataFrame
        One row per request; the frame is made when it is first asked for: request_id, session and turn (from
        0 and from 1, where requests follow others), instance, rank, arrival_s,
        admitted_s, computed_s and sent_s (prompts on instances of their own: when the prompt was computed and its KV
        cache set off), first_token_s, finish_s, input_tokens, output_tokens, preemptions, cached_tokens (of the prompt,
        not computed), retries (after a failure), measured (inside the measured window).
    step_columns, steps : Columns, DataFrame
        One row per engine step, likewise: instance, start_s, duration_s, prefill_tokens, decode_tokens, running,
        queue_length, kv_use (share of the pool), rank_imbalance (mean over layers).
    breakdown : Mapping of str to float
        Seconds by component (see ``COMPONENTS``) of all instances within the measured window.
    pool_times : Mapping of str to PoolTime
        The same of each pool, where prompts have one of their own.
    measured : Measured, optional
        Which window that is.
    whole_run : WholeRun, optional
        The same run from its first request to its last answer.
    overload : Overload, optional
        By how much the load exceeds what can be served, where it does.
    slices : tuple of Slice
        A sample of steps for the Perfetto trace.
    token_gaps : TokenGaps, optional
        Inter-token latencies of all requests.
    scaling : Scaling, optional
        What changed when, where the deployment changed its size.
    sessions : SessionSummary, optional
        First tokens by turn, and how long sessions take, where requests follow others.
    rebalances : tuple of Mapping
        One row per change of placement: instance, at_s, experts moved, near_bytes, far_bytes, staging_bytes, move_s on
        idle links, cost_s to serving, saved_s over the placement before and saved_in_all_s over the first one by the
        steps until the next change, and how many steps these are.
    setup : Setup, optional
        Devices, nodes, pools, price, load and objectives.
    imbalance_cost : ImbalanceCost, optional
        What uneven routing costs a decode step of the mean batch and context; ``None`` for a dense model.
    """

    scenario: Scenario
    summary: Summary
    breakdown: Mapping[str, float]
    request_columns: Columns
    step_columns: Columns
    slices: tuple[Slice, ...] = ()
    token_gaps: TokenGaps | None = None
    scaling: Scaling | None = None
    sessions: SessionSummary | None = None
    warnings: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    rebalances: tuple[Mapping[str, float], ...] = ()
    setup: Setup | None = None
    imbalance_cost: ImbalanceCost | None = None
    measured: Measured | None = None
    whole_run: WholeRun | None = None
    overload: Overload | None = None
    pool_times: Mapping[str, PoolTime] = field(default_factory=dict)

    @property
    def requests(self) -> pd.DataFrame:
        """One row per request."""
        return self.request_columns.frame()

    @property
    def steps(self) -> pd.DataFrame:
        """One row per engine step."""
        return self.step_columns.frame()

    def document(self) -> dict[str, Any]:
        """Return the JSON document of the CLI."""
        document = _document(self)
        parts = {
            "measured": self.measured,
            "whole_run": self.whole_run,
            "overload": self.overload,
            "imbalance_cost": self.imbalance_cost,
        }
        document |= {name: None if part is None else asdict(part) for name, part in parts.items()}
        if self.pool_times:
            document["pool_times"] = {role: asdict(time) for role, time in self.pool_times.items()}
        if self.scaling is not None:
            document["scaling"] = self.scaling.document()
        if self.sessions is not None:
            document["sessions"] = asdict(self.sessions)
        return {**document, "rebalances": [dict(row) for row in self.rebalances]} if self.rebalances else document


def _rate(value: float) -> str:
    """Write a rate with three significant digits, as the rows beside it are."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100.0 else f"{value:.3g}"


def _document(answer: Estimate | Result) -> dict[str, Any]:
    return {
        "scenario_hash": answer.scenario.hash,
        "scenario": title(answer.scenario),
        "setup": None if answer.setup is None else answer.setup.document(),
        "summary": answer.summary.document(),
        "breakdown": dict(answer.breakdown),
        "warnings": list(answer.warnings),
        "provenance": dict(answer.provenance),
    }
