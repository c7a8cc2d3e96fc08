"""A scenario: everything that decides a result, as one frozen value that saves to and loads from TOML.

The sections mirror the questions: which model, on which hardware, split how, run by which serving stack, asked what.
Durations carry their unit in the file (``"50 ms"``); everything else is a count or a name.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from hardware_profiles.units import parse_quantity_text
from simulator.errors import MoesimError, ScenarioError, nearest


def _seconds(value: object, *, zero_allowed: bool = False) -> float:
    """Read a duration with its unit; a bare number is refused because nobody knows what it means."""
    if isinstance(value, str):
        try:
            return parse_quantity_text(value, "time", "duration", zero_allowed=zero_allowed)
        except MoesimError as error:
            raise ValueError(str(error)) from None
    msg = "a duration needs its unit, as in '50 ms' or '2 s'"
    raise ValueError(msg)


Seconds = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(gt=0, allow_inf_nan=False),
    PlainSerializer(lambda value: f"{value!r} s", return_type=str),
]
Delay = Annotated[
    float,
    BeforeValidator(partial(_seconds, zero_allowed=True)),
    Field(ge=0, allow_inf_nan=False),
    PlainSerializer(lambda value: f"{value!r} s", return_type=str),
]
Count = Annotated[int, Field(ge=1, strict=True)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)


class Model(_Section):
    """Which model: a built-in name, a Hugging Face ``config.json`` or a model TOML."""

    name: str = Field(description="built-in model, or path of a config.json or model TOML")
    weights: str | None = Field(None, description="dtype of all linear weights; the model's own where absent")
    kv_cache: str | None = Field(None, description="dtype of the KV cache; the model's own where absent")


class HardwareChoice(_Section):
    """Where: a device, and optionally the node and cluster that it sits in."""

    device: str = Field(description="device profile")
    node: str | None = Field(None, description="node profile; the device's usual node where absent")
    cluster: str | None = Field(None, description="cluster profile; needed where an instance spans nodes")
    profiles: str | None = Field(None, description="folder of user profiles")
    price: str | None = Field(None, description="price offer; the device's default where absent")


class ParallelismChoice(_Section):
    """How an instance is split. It has tp x dp x pp devices; experts are split ep ways, and tp*dp/ep ways inside."""

    tp: Count = Field(1, description="tensor parallelism of attention")
    dp: Count = Field(1, description="data parallelism of attention inside the instance")
    pp: Count = Field(1, description="pipeline stages")
    ep: Count = Field(1, description="expert parallelism; tp*dp/ep ranks share each expert")
    instances: Count = Field(1, description="identical instances behind the load balancer")


PlacementPolicy = Literal["linear", "random", "balanced", "lpt", "eplb", "eplb_global", "refined", "affinity"]


class Rebalance(_Section):
    """Placing experts anew while serving: how often, from what, and what moving them disturbs."""

    every: Seconds | None = Field(None, description="time between two rebalances; none without a time or steps")
    every_steps: Count | None = Field(None, description="engine steps between two rebalances, instead of a time")
    window: Count = Field(32_768, description="last tokens served whose load decides")
    policy: PlacementPolicy | None = Field(None, description="policy of new placements; placement.policy if absent")
    mode: Literal["stall", "overlap"] = Field("stall", description="whether serving waits for the experts that move")
    bandwidth_share: float = Field(
        0.2, gt=0, lt=1, allow_inf_nan=False, description="overlap: share of the links that moving experts takes"
    )

    @property
    def active(self) -> bool:
        """Whether the placement changes at all."""
        return self.every is not None or self.every_steps is not None


class PlacementChoice(_Section):
    """Which expert sits on which rank."""

    policy: PlacementPolicy = Field("linear", description="expert placement policy")
    redundant_slots: int = Field(0, ge=0, strict=True, description="extra expert slots per layer over all ranks")
    replica_routing: Literal["round_robin", "local", "least_loaded"] = Field(
        "round_robin", description="which replica of an expert serves a token"
    )
    rebalance: Rebalance = Field(default_factory=Rebalance, description="placing experts anew while serving")


class Stack(_Section):
    """The serving stack and what of its defaults to change."""

    name: str = Field("sglang", description="serving-stack profile, or path of a TOML file of one's own")
    scheduler: Literal["mixed", "prefill_first"] | None = Field(None, description="batching policy")
    token_budget: Count | None = Field(None, description="tokens a rank may take in one step")
    max_running: Count | None = Field(None, description="requests that a rank may run at once")
    memory_fraction: Share | None = Field(None, description="share of device memory that the stack may use")
    cpu_gap: Seconds | None = Field(None, description="host time between two steps")
    exchange: Literal["all_to_all", "all_gather", "deepep_low_latency", "deepep_normal", "deepep"] | None = Field(
        None, description="how tokens travel to experts when attention is data parallel"
    )
    balancer: Literal["round_robin", "least_loaded"] = Field("least_loaded", description="load balancer")


class Lengths(_Section):
    """Prompt and answer lengths of generated requests."""

    kind: Literal["fixed", "uniform", "lognormal"] = Field("fixed", description="distribution")
    input: Count = Field(1024, description="prompt tokens: the value, the largest (uniform) or the mean (lognormal)")
    output: Count = Field(1024, description="answer tokens, likewise")
    range_ratio: Share = Field(1.0, description="uniform: the smallest length over the largest")
    cv: Positive = Field(1.0, description="lognormal: standard deviation over mean")


class Requests(_Section):
    """What is asked: a recorded trace, or generated arrivals and lengths."""

    kind: Literal["closed_loop", "poisson", "gamma", "diurnal", "constant", "trace"] = Field(
        "closed_loop", description="how requests arrive"
    )
    trace: str | None = Field(None, description="trace file (kind = trace), or 'sample:NAME' of those that ship")
    concurrency: Count | None = Field(None, description="closed loop: requests in flight")
    rate: Positive | None = Field(None, description="open loop: requests per second; a trace is rescaled to it")
    cv: Positive = Field(1.0, description="gamma: coefficient of variation of the gaps")
    period: Seconds | None = Field(None, description="diurnal: length of a day")
    amplitude: float = Field(0.5, ge=0, lt=1, description="diurnal: swing of the rate over its mean")
    count: Count | None = Field(None, description="requests; all of a trace where absent")
    repeat: Count = Field(1, description="times a trace is played")
    lengths: Lengths = Field(default_factory=Lengths, description="lengths of generated requests")


class Routing(_Section):
    """Which experts the tokens choose: a recorded trace, or a generator."""

    kind: Literal["balanced", "uniform", "zipf", "dirichlet", "power_law", "domain", "sticky", "drifting", "trace"] = (
        Field("zipf", description="recorded trace or generator; balanced = every expert the same")
    )
    trace: str | None = Field(None, description="routing trace file (kind = trace), or 'sample:NAME'")
    tokens: Count = Field(8192, description="tokens to generate; replay repeats them")
    skew: float = Field(0.5, ge=0, allow_inf_nan=False, description="zipf and power law: exponent")
    alpha: Positive = Field(1.0, description="dirichlet: concentration")


class Slo(_Section):
    """The service-level objective that goodput counts."""

    ttft: Seconds | None = Field(None, description="time to first token")
    tpot: Seconds | None = Field(None, description="time per output token")
    e2el: Seconds | None = Field(None, description="end-to-end latency")


class ScalingEvent(_Section):
    """A change of size at a time."""

    at: Delay = Field(description="when, after the start of the run")
    size: Count = Field(description="attention ranks of all instances together from then on")


class ElasticChoice(_Section):
    """How the deployment changes its size while it serves. Sizes count attention ranks (dp) over all instances."""

    mechanism: Literal["none", "cold_restart", "horizontal", "vertical_new", "colocated", "elastic", "ideal"] = Field(
        "none", description="how a change is carried out"
    )
    without: tuple[Literal["ipc_alloc", "p2p", "preinit", "zero_copy"], ...] = Field(
        (), description="elastic: what of the mechanism is switched off"
    )
    startup: str = Field("vllm-ascend", description="start-up profile, or path of a TOML file of one's own")
    policy: Literal["schedule", "queue", "slo", "utilisation", "predictive"] = Field(
        "schedule", description="when to change"
    )
    events: tuple[ScalingEvent, ...] = Field((), description="schedule: what to change when")
    min_size: Count | None = Field(None, description="smallest size; that of the start where absent")
    max_size: Count | None = Field(None, description="largest size; that of the start where absent")
    step: Count = Field(1, description="ranks by which a size may differ from another; horizontal: whole replicas")
    interval: Seconds = Field(5.0, description="between two looks at the load")
    window: Seconds = Field(30.0, description="span over which attainment and load are judged")
    up: Positive | None = Field(
        None, description="grow above this many waiting per rank (queue, 4), below this attainment (slo, 0.9)"
    )
    target: Share = Field(0.7, description="load per capacity to aim at, and not to exceed by shrinking")
    band: float = Field(0.1, ge=0, lt=1, description="utilisation, predictive: deviation from the target to tolerate")
    patience: Count = Field(1, description="looks in a row that must agree")
    cooldown_up: Seconds = Field(10.0, description="after a change, until the next growth")
    cooldown_down: Seconds = Field(60.0, description="after a change, until the next shrinking")
    lookahead: Seconds = Field(30.0, description="predictive: how far ahead the trace is read")


class Run(_Section):
    """What of the run is measured."""

    warmup_requests: int = Field(0, ge=0, strict=True, description="first requests that metrics leave out")
    drain: bool = Field(True, description="count the tail after the last arrival; false = steady state only")
    traced_steps: int = Field(50, ge=0, strict=True, description="steps drawn in the Perfetto trace")


class Scenario(_Section):
    """A model on hardware, split and run by a stack, under a load.

    Examples
    --------
    >>> s = Scenario.from_mapping({"model": {"name": "mixtral-8x7b"}, "hardware": {"device": "a100-sxm"},
    ...                            "parallelism": {"tp": 2}, "requests": {"concurrency": 8, "count": 80}})
    >>> s.parallelism.tp
    2
    """

    name: str = Field("scenario", description="what to call it")
    seed: int = Field(0, ge=0, strict=True, description="seed of every random stream")
    model: Model
    hardware: HardwareChoice
    parallelism: ParallelismChoice = Field(default_factory=ParallelismChoice)
    placement: PlacementChoice = Field(default_factory=PlacementChoice)
    stack: Stack = Field(default_factory=Stack)
    requests: Requests = Field(default_factory=Requests)
    routing: Routing = Field(default_factory=Routing)
    slo: Slo = Field(default_factory=Slo)
    elastic: ElasticChoice = Field(default_factory=ElasticChoice)
    run: Run = Field(default_factory=Run)

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any], where: str = "scenario") -> Scenario:
        """Build from nested mappings as TOML gives them.

        Raises
        ------
        ScenarioError
            Keys or values are wrong; the message lists all of them.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ScenarioError(_findings(error, data, where)) from None

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Scenario:
        """Read a TOML file, changed by ``section.key=value`` overrides.

        Relative paths inside the file are taken from the file's folder, those of overrides from the working one.

        Raises
        ------
        ScenarioError
            The file is missing or malformed, or an override names no key.
        """
        file = Path(path)
        try:
            data = tomllib.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            msg = f"{file}: no such scenario file; 'moesim list presets' shows those that ship"
            raise ScenarioError(msg) from None
        except (OSError, UnicodeDecodeError) as error:
            msg = f"{file}: cannot be read: {error}"
            raise ScenarioError(msg) from None
        except tomllib.TOMLDecodeError as error:
            msg = f"{file}: not valid TOML: {error}"
            raise ScenarioError(msg) from None
        _anchor_paths(data, file.parent)
        for override in overrides:
            _apply_override(data, override)
        return cls.from_mapping(data, str(file))

    def override(self, *assignments: str) -> Scenario:
        """Return a copy changed by ``section.key=value`` assignments, checked like a file."""
        data = self.to_mapping()
        for assignment in assignments:
            _apply_override(data, assignment)
        return Scenario.from_mapping(data, self.name)

    def to_mapping(self) -> dict[str, Any]:
        """Return nested plain values, defaults and absent keys left out."""
        return self.model_dump(exclude_none=True, exclude_defaults=True)

    def to_toml(self) -> str:
        """Return the scenario as TOML that :meth:`load` reads back to an equal value."""
        import tomli_w

        return tomli_w.dumps(self.to_mapping())

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that change when any value changes."""
        text = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _anchor_paths(data: dict[str, Any], folder: Path) -> None:
    """Make the file's relative paths relative to the file; names of catalogues and samples stay."""
    paths = (
        ("model", "name"),
        ("stack", "name"),
        ("requests", "trace"),
        ("routing", "trace"),
        ("hardware", "profiles"),
        ("elastic", "startup"),
    )
    for section, key in paths:
        values = data.get(section)
        value = values.get(key) if isinstance(values, dict) else None
        if isinstance(value, str) and not value.startswith("sample:") and not Path(value).is_absolute():
            candidate = folder / value
            is_path = key not in ("name", "startup") or value.endswith((".json", ".toml"))
            if is_path and (candidate.exists() or not Path(value).exists()):
                cast("dict[str, Any]", values)[key] = str(candidate)


def _apply_override(data: dict[str, Any], assignment: str) -> None:
    """Set one dotted key of nested mappings; values are TOML, bare words are strings."""
    key, separator, text = assignment.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        msg = f"--set {assignment!r}: expected section.key=value, as in parallelism.tp=8"
        raise ScenarioError(msg)
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    if isinstance(value, float) and not math.isfinite(value):
        msg = f"--set {assignment!r}: the value must be finite"
        raise ScenarioError(msg)
    section = data
    for part in parts[:-1]:
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            msg = f"--set {assignment!r}: {part} is not a section"
            raise ScenarioError(msg)
    section[parts[-1]] = value


def _findings(error: ValidationError, data: Mapping[str, Any], where: str) -> str:
    """Phrase pydantic's findings one per line: where, what was given, what is allowed."""
    lines = []
    for finding in error.errors():
        path = [str(part) for part in finding["loc"]]
        key = ".".join(path)
        if finding["type"] == "extra_forbidden":
            lines.append(f"{where}: {key}: unknown key; {nearest(path[-1], _keys(path[:-1]))}")
        elif finding["type"] == "missing":
            lines.append(f"{where}: {key}: is required")
        else:
            text = finding["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: {key}: got {_given(data, path)}; {text[0].lower()}{text[1:]}")
    return "\n".join(lines)


def _given(data: Mapping[str, Any], path: Sequence[str]) -> str:
    value: Any = data
    for part in path:
        if not isinstance(value, Mapping) or part not in value:
            break
        value = value[part]
    return repr(value)


def _keys(path: Sequence[str]) -> list[str]:
    """List the keys that the section at ``path`` allows."""
    section: type[BaseModel] = Scenario
    for part in path:
        annotation = section.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        section = annotation
    return list(section.model_fields)
