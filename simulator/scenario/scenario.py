"""A scenario: everything that decides a result, as one frozen value that saves to and loads from TOML.

The sections mirror the questions: which model, on which hardware, split how, run by which serving stack, asked what.
Durations carry their unit in the file (``"50 ms"``); everything else is a count or a name.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

from pydantic import BaseModel, Field, ValidationError

from hardware_profiles.edge import exists, read_toml, shown, shown_path, toml_value
from simulator.errors import ScenarioError, nearest
from simulator.scenario.sections import (
    Disaggregation,
    ElasticChoice,
    Fault,
    HardwareChoice,
    Model,
    Offload,
    ParallelismChoice,
    PlacementChoice,
    PrefixCache,
    Requests,
    Routing,
    Run,
    Section,
    Served,
    Slo,
    Speculation,
    Stack,
)
from simulator.scenario.title import retitled
from simulator.scenario.unmodelled import unmodelled

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

#: The sections, and keys outside of sections, that a price can depend on; a deployment sees no others.
PRICING = ("seed", "model", "hardware", "parallelism", "placement", "stack", "routing", "speculation", "offload")

#: Longest name [characters]: that of a file and a few words.
_LONGEST_NAME = 300
#: Likeness above which a key that is not modelled is a slip all the same [1].
_SLIP = 0.85


class Scenario(Section):
    """A model on hardware, split and run by a stack, under a load.

    Examples
    --------
    >>> s = Scenario.from_mapping({"model": {"name": "mixtral-8x7b"}, "hardware": {"device": "a100-sxm"},
    ...                            "parallelism": {"tp": 2}, "requests": {"concurrency": 8, "count": 80}})
    >>> s.parallelism.tp
    2
    """

    name: str = Field("scenario", max_length=_LONGEST_NAME, description="what to call it")
    seed: int = Field(0, ge=0, strict=True, description="seed of every random stream")
    model: Model
    hardware: HardwareChoice
    parallelism: ParallelismChoice = Field(default_factory=ParallelismChoice)
    placement: PlacementChoice = Field(default_factory=PlacementChoice)
    stack: Stack = Field(default_factory=Stack)
    requests: Requests = Field(default_factory=Requests)
    routing: Routing = Field(default_factory=Routing)
    slo: Slo = Field(default_factory=Slo)
    disaggregation: Disaggregation = Field(default_factory=Disaggregation)
    prefix_cache: PrefixCache = Field(default_factory=PrefixCache)
    speculation: Speculation = Field(default_factory=Speculation)
    offload: Offload = Field(default_factory=Offload)
    faults: Annotated[tuple[Fault, ...], Served(most=100_000)] = Field((), description="what breaks and when")
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

        Relative paths inside the file are taken from the file's folder, those of overrides from the working one. Where
        overrides change what the file's name may state, and not the name, the title is made from the content.

        Raises
        ------
        ScenarioError
            The file is missing or malformed, or an override names no key.
        """
        file = Path(path)
        if not os.path.lexists(file):
            msg = f"{shown_path(file)}: no such scenario file; 'moesim list presets' shows those that ship"
            raise ScenarioError(msg)
        data = read_toml(file, ScenarioError)
        _anchor_paths(data, file.parent)
        if not overrides:
            return cls.from_mapping(data, str(file))
        plain = deepcopy(data)
        for override in overrides:
            _apply_override(data, override)
        changed = cls.from_mapping(data, str(file))
        if "name" in _named_sections(overrides):
            return changed
        try:
            return retitled(cls.model_validate(plain), changed)
        except ValidationError:
            # The file alone is no scenario, so that its name states nothing of one.
            return changed

    def override(self, *assignments: str) -> Scenario:
        """Return a copy changed by ``section.key=value`` assignments, checked and titled like a file."""
        # Sections that nobody names are good as they are: a sweep makes thousands of scenarios that differ in one.
        named = _named_sections(assignments)
        data = self.model_dump(include=named, exclude_none=True, exclude_defaults=True)
        for assignment in assignments:
            _apply_override(data, assignment)
        kept = {name: getattr(self, name) for name in Scenario.model_fields if name not in named}
        changed = Scenario.from_mapping({**kept, **data}, self.name)
        return changed if "name" in named else retitled(self, changed)

    def to_mapping(self) -> dict[str, Any]:
        """Return nested plain values, defaults and absent keys left out."""
        return self.model_dump(exclude_none=True, exclude_defaults=True)

    def to_toml(self) -> str:
        """Return the scenario as TOML that :meth:`load` reads back to an equal value."""
        import tomli_w

        return tomli_w.dumps(self.to_mapping())

    def pricing(self) -> Scenario:
        """Return a copy with what prices one instance alone; all else is as if the file did not mention it."""
        return self.model_copy(
            update={**_NOT_PRICING, "parallelism": self.parallelism.model_copy(update={"instances": 1})}
        )

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that change when any value changes.

        Files count by their names here; the fingerprint of an answer knows what they say.
        """
        text = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


#: Findings about keys that are phrased: as many as anybody mends at a time [1].
_FINDINGS = 30
#: Values that leave everything unsaid which does not price; built once, as sections are frozen.
_NOT_PRICING = {
    name: field.get_default(call_default_factory=True)
    for name, field in Scenario.model_fields.items()
    if name not in PRICING
}


def _anchor_paths(data: dict[str, Any], folder: Path) -> None:
    """Make the file's relative paths relative to the file; names of catalogues and samples stay."""
    paths = (
        ("model", "name"),
        ("stack", "name"),
        ("requests", "trace"),
        ("routing", "trace"),
        ("routing", "fit"),
        ("hardware", "profiles"),
        ("elastic", "startup"),
        ("offload", "router"),
    )
    for section, key in paths:
        values = data.get(section)
        value = values.get(key) if isinstance(values, dict) else None
        if isinstance(value, str) and not value.startswith("sample:") and not Path(value).is_absolute():
            candidate = folder / value
            is_path = key not in ("name", "startup", "router") or value.endswith((".json", ".toml"))
            if is_path and (exists(candidate) or not exists(value)):
                cast("dict[str, Any]", values)[key] = str(candidate)


def _named_sections(assignments: Sequence[str]) -> set[str]:
    """Return the sections, and keys outside of sections, that ``section.key=value`` assignments name."""
    return {assignment.partition("=")[0].partition(".")[0].strip() for assignment in assignments}


def _apply_override(data: dict[str, Any], assignment: str) -> None:
    """Set one dotted key of nested mappings, or take it away; values are TOML, bare words are strings."""
    key, separator, text = assignment.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        msg = f"--set {shown(assignment)}: expected section.key=value, as in parallelism.tp=8"
        raise ScenarioError(msg)
    value = toml_value(text, f"--set {shown(assignment)}", ScenarioError)
    if value is None:
        value = text.strip()
    if isinstance(value, float) and not math.isfinite(value):
        msg = f"--set {shown(assignment)}: the value must be finite"
        raise ScenarioError(msg)
    section = data
    for part in parts[:-1]:
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            msg = f"--set {shown(assignment)}: {part} is not a section"
            raise ScenarioError(msg)
    if text.strip() or parts[-1] not in _keys(parts[:-1]):
        section[parts[-1]] = value
    else:
        section.pop(parts[-1], None)


def _findings(error: ValidationError, data: Mapping[str, Any], where: str) -> str:
    """Phrase pydantic's findings one per line: where, what was given, what is allowed."""
    lines: list[str] = []
    found = error.errors()
    for finding in found[:_FINDINGS]:
        path = [str(part) for part in finding["loc"]]
        key = ".".join(path)
        if finding["type"] == "extra_forbidden":
            lines.append(f"{where}: {key}: unknown key; {_instead(path)}")
        elif finding["type"] == "missing":
            lines.append(f"{where}: {key}: is required")
        else:
            lines.append(f"{where}: {key}: got {_given(data, path)}; {_allowed(finding, path)}")
    if len(found) > _FINDINGS:
        lines.append(f"{where}: {len(found) - _FINDINGS:,} more")
    return "\n".join(lines)


def _instead(path: Sequence[str]) -> str:
    """Name the key that was probably meant, or say that what it asks for is not modelled."""
    allowed, sentence = _keys(path[:-1]), unmodelled(path)
    slip = difflib.get_close_matches(path[-1], allowed, n=1, cutoff=_SLIP)
    if sentence is None or slip:
        return nearest(path[-1], allowed)
    return f"{sentence} (see docs/not-modelled.md)"


def _allowed(finding: ErrorDetails, path: Sequence[str]) -> str:
    """Say what a value may be, with the nearest of several names."""
    if finding["type"] == "tuple_type":
        return _expected_list(path)
    text = finding["msg"].removeprefix("Value error, ")
    text = text[0].lower() + text[1:]
    given = finding["input"]
    if finding["type"] != "literal_error" or not isinstance(given, str):
        return text
    hint = nearest(given, re.findall(r"'([^']*)'", str(finding["ctx"]["expected"])))
    return f"{text}; {hint}" if hint.startswith("did you mean") else text


def _expected_list(path: Sequence[str]) -> str:
    """Say how the list at ``path`` is written: tables, numbers or names."""
    field = _fields(path[:-1])[path[-1]]
    if _section(field) is not None:
        return f"expected tables in double brackets, as in [[{'.'.join(path)}]]"
    names = get_args(get_args(field.annotation)[0])
    if names and isinstance(names[0], str):
        return f"expected a list of names, as in [{names[0]!r}]"
    return "expected a list of numbers, as in [0.5, 0.3]"


def _given(data: Mapping[str, Any], path: Sequence[str]) -> str:
    value: Any = data
    for part in path:
        if isinstance(value, Sequence) and not isinstance(value, str) and part.isdigit():
            value = value[int(part)]
        elif isinstance(value, Mapping) and part in value:
            value = value[part]
        else:
            break
    return repr(value)


def _keys(path: Sequence[str]) -> list[str]:
    """List the keys that the section at ``path`` allows."""
    return list(_fields(path))


def _fields(path: Sequence[str]) -> dict[str, FieldInfo]:
    """Return the keys that the section at ``path`` allows, with what they hold."""
    section: type[BaseModel] | None = Scenario
    for part in path:
        if section is not None and not part.isdigit():
            section = _section(section.model_fields[part])
    return {} if section is None else section.model_fields


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """Return the section that a key holds, alone or as the rows of a table."""
    inner = [each for each in (field.annotation, *get_args(field.annotation)) if isinstance(each, type)]
    return next((each for each in inner if issubclass(each, BaseModel)), None)


def served(key: str) -> Served:
    """Return what a server takes of a key; of a row, what it takes of any number of the table.

    Examples
    --------
    >>> served("requests.count").most, served("parallelism.tp").most, served("faults.0.rank").most
    (1000000.0, 16384, 100000)
    """
    section: type[BaseModel] | None = Scenario
    most, least = math.inf, 0.0
    for part in key.split("."):
        if section is None or part.isdigit():
            continue
        field = section.model_fields[part]
        for bound in field.metadata:
            most = min(most, getattr(bound, "most", math.inf), getattr(bound, "le", math.inf))
            least = max(least, getattr(bound, "least", 0.0))
        section = _section(field)
    return Served(most=most, least=least)
