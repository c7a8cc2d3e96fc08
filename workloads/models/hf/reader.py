"""A Hugging Face configuration with typed access: a missing or mistyped key is one clear error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardware_profiles.edge import parse_json, read_text, shown, shown_path
from hardware_profiles.files import stamp
from workloads.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class HfConfig:
    """The keys of a ``config.json`` (or of its ``text_config``) and the file's name, for messages.

    ``asked`` collects the keys that were looked at, so that those which nobody understands can be told.
    """

    keys: Mapping[str, Any]
    where: str
    asked: set[str] = field(default_factory=set, compare=False, repr=False)

    @property
    def model_type(self) -> str:
        """The configuration's ``model_type``."""
        self.asked.add("model_type")
        return str(self.keys.get("model_type"))

    def has(self, key: str) -> bool:
        """Tell whether a key is present and not null."""
        self.asked.add(key)
        return self.keys.get(key) is not None

    def integer(self, *names: str, default: int | None = None) -> int:
        """Return the integer under the first of ``names`` that is present, else ``default``, else raise."""
        self.asked.update(names)  # all of them are spellings of one thing
        for name in names:
            if self.has(name):
                value = self.keys[name]
                if isinstance(value, bool) or not isinstance(value, int):
                    msg = f"{self.where}: {name} = {shown(value)}; expected an integer"
                    raise ModelError(msg)
                return value
        if default is None:
            raise self.missing(" or ".join(f"'{name}'" for name in names))
        return default

    def maybe_integer(self, name: str) -> int | None:
        """Return the integer under ``name``, or None where it is absent, null or 0."""
        return self.integer(name, default=0) or None

    def period(self, *names: str, default: int | None = None) -> int:
        """Return the integer under the first of ``names`` that is present: once in so many layers, so at least 1."""
        found = self.integer(*names, default=default)
        if found < 1:
            name = next(name for name in names if self.has(name))
            msg = f"{self.where}: {name} = {found}; expected at least 1: one in so many layers"
            raise ModelError(msg)
        return found

    def flag(self, name: str, *, default: bool) -> bool:
        """Return the boolean under ``name``, else ``default``."""
        value = self.keys[name] if self.has(name) else default
        if not isinstance(value, bool):
            msg = f"{self.where}: {name} = {shown(value)}; expected true or false"
            raise ModelError(msg)
        return value

    def text(self, name: str) -> str:
        """Return the text under ``name``, or raise."""
        if not self.has(name):
            msg = f"'{name}'"
            raise self.missing(msg)
        value = self.keys[name]
        if not isinstance(value, str):
            msg = f"{self.where}: {name} = {shown(value)}; expected text"
            raise ModelError(msg)
        return value

    def names(self, name: str, count: int) -> Sequence[str]:
        """Return the list of ``count`` texts under ``name`` (one per layer), or raise."""
        if not self.has(name):
            msg = f"'{name}'"
            raise self.missing(msg)
        value = self.keys[name]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            msg = f"{self.where}: {name} = {shown(value)}; expected a list of names"
            raise ModelError(msg)
        if len(value) != count:
            msg = f"{self.where}: {name} has {len(value)} entries; expected one per layer, {count}"
            raise ModelError(msg)
        return value

    def integers(self, name: str) -> Sequence[int]:
        """Return the list of integers under ``name``; empty where it is absent."""
        value = self.keys[name] if self.has(name) else []
        if not isinstance(value, list) or not all(isinstance(i, int) and not isinstance(i, bool) for i in value):
            msg = f"{self.where}: {name} = {shown(value)}; expected a list of integers"
            raise ModelError(msg)
        return value

    def layer_numbers(self, name: str, count: int, *, first: int = 0) -> Sequence[int]:
        """Return the list of layers under ``name``, counted from ``first``; empty where it is absent."""
        found = self.integers(name)
        if wrong := [index for index in found if not first <= index < count + first]:
            msg = f"{self.where}: {name} has layer {wrong[0]}; expected {first} to {count + first - 1}"
            raise ModelError(msg)
        return found

    def listed(self, name: str) -> Sequence[Any]:
        """Return the list under ``name``; empty where it is absent."""
        value = self.keys[name] if self.has(name) else []
        if not isinstance(value, list):
            msg = f"{self.where}: {name} = {shown(value)}; expected a list of names"
            raise ModelError(msg)
        return value

    def within(self, keys: Mapping[str, Any], name: str) -> HfConfig:
        """Return other keys as a table ``name`` of this one."""
        return HfConfig(keys=keys, where=f"{self.where}: {name}")

    def section(self, name: str) -> HfConfig:
        """Return the table under ``name``, or raise."""
        if not self.has(name):
            msg = f"'{name}'"
            raise self.missing(msg)
        value = self.keys[name]
        if not isinstance(value, Mapping):
            msg = f"{self.where}: {name} = {shown(value)}; expected an object"
            raise ModelError(msg)
        return HfConfig(keys=value, where=f"{self.where}: {name}")

    def missing(self, keys: str) -> ModelError:
        """Make the error of a missing key."""
        return ModelError(f"{self.where}: missing key {keys} (model_type '{self.model_type}' needs it)")


def read_config(source: str | Path | Mapping[str, Any]) -> HfConfig:
    """Read a ``config.json``, or wrap a mapping that was read elsewhere.

    Raises
    ------
    ModelError
        The file cannot be read, is not JSON, is truncated, or is not an object.
    """
    if isinstance(source, Mapping):
        return HfConfig(keys=source, where=str(source.get("_name_or_path") or "configuration"))
    where = shown_path(source)
    stamp(Path(source))
    text = read_text(source, ModelError)
    if not text.strip():
        msg = f"{where}: the file is empty; expected a Hugging Face config.json"
        raise ModelError(msg)
    keys = parse_json(text, where, ModelError)
    if not isinstance(keys, dict):
        msg = f"{where}: holds a JSON {type(keys).__name__}; expected an object"
        raise ModelError(msg)
    return HfConfig(keys=keys, where=where)
