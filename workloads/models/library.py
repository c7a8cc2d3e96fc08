"""Models by name: the built-in library, folders of your own, model files and Hugging Face configurations.

The library is data: one TOML file per model in ``workloads/models``, with its aliases and its quantised variants.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware_profiles.edge import is_file, is_folder, shown
from hardware_profiles.errors import nearest, nearest_product
from hardware_profiles.files import stamp
from workloads.errors import ModelError
from workloads.models.checks import check, checked
from workloads.models.file import read_toml, save_model, spec_from_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workloads.models.spec import DType, ModelSpec

__all__ = ["check", "known_names", "load_model", "model_names", "save_model", "with_dtypes"]

_BUILT_IN = Path(__file__).parent / "catalogue"


def load_model(name: str | Path, folder: str | Path | None = None) -> ModelSpec:
    """Load a model by name, or from a file.

    Parameters
    ----------
    name : str or Path
        A name of :func:`model_names`, an alias or a variant of one (case and a leading ``organisation/`` do not
        matter), or the path of a model TOML, of a Hugging Face ``config.json``, or of a folder that holds one.
    folder : str or Path, optional
        A folder of further model TOML files, searched before the built-in ones.

    Returns
    -------
    ModelSpec
        The model, checked.

    Raises
    ------
    ModelError
        The name is unknown (the nearest names are given), or the file cannot be used.

    Examples
    --------
    >>> load_model("deepseek-ai/DeepSeek-V3").hidden
    7168
    >>> load_model("Qwen3-235B-A22B-FP8").dtypes.experts
    'fp8_block'
    """
    path = Path(name)
    stamp(path / "config.json")
    config = path / "config.json" if is_file(path / "config.json") else path
    if config.suffix == ".json":
        # Not imported above: most models are named, and their files say all themselves.
        from workloads.models.hf.config import from_hf_config

        return from_hf_config(config)
    if path.suffix == ".toml":
        return _load_file(path, (path.parent, _BUILT_IN))
    wanted = _normal(str(name))
    folders = _folders(folder)
    for place in folders:
        stamp(place / f"{wanted}.toml")
        if is_file(place / f"{wanted}.toml"):
            return _load_file(place / f"{wanted}.toml", folders)
    known: set[str] = set()
    for place in folders:
        stamp(place)
        for file in sorted(place.glob("*.toml")):
            table = read_toml(file)
            if wanted in (names := _other_names(table, file)):
                return _variant(_load_file(file, folders), names[wanted], f"{file.name}: variants")
            known |= {file.stem, *names}
    hint = nearest_product(wanted, known) or (
        "none of that name ships ('moesim list models' shows those that do); give the path of its config.json"
    )
    raise ModelError(f"unknown model {shown(str(name))}; {hint}")


def model_names(folder: str | Path | None = None) -> tuple[str, ...]:
    """List the names of the built-in models and of those in ``folder``, in order of the alphabet."""
    return tuple(sorted({file.stem for place in _folders(folder) for file in place.glob("*.toml")}))


def known_names(folder: str | Path | None = None) -> dict[str, str]:
    """Map every name, alias and variant, in lower case and without its organisation, to the name to show for it.

    An alias stands for the model; a variant keeps its own name, as its file spells it.

    Examples
    --------
    >>> known_names()["qwen3-235b-a22b-fp8"]
    'Qwen3-235B-A22B-FP8'
    """
    found: dict[str, str] = {}
    for place in _folders(folder):
        stamp(place)
        for file in sorted(place.glob("*.toml")):
            table = read_toml(file)
            spelled = {_normal(name): name.rsplit("/", 1)[-1] for name in table.get("variants", {})}
            others = {name: spelled.get(name, file.stem) for name in _other_names(table, file)}
            found = {file.stem: file.stem, **others} | found
    return found


def with_dtypes(
    spec: ModelSpec,
    *,
    weights: DType | None = None,
    attention: DType | None = None,
    experts: DType | None = None,
    dense_ffn: DType | None = None,
    embedding: DType | None = None,
    kv_cache: DType | None = None,
) -> ModelSpec:
    """Quantise a model.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    weights : str, optional
        Dtype of attention, experts and dense FFNs at once; embedding, LM head, router and norms stay as they are.
    attention, experts, dense_ffn, embedding, kv_cache : str, optional
        Dtype of one part; goes before ``weights``. Shared experts follow the routed ones.

    Returns
    -------
    ModelSpec
        The same shapes with other dtypes.

    Raises
    ------
    ModelError
        A dtype is unknown.
    """
    parts = {"attention": attention, "experts": experts, "dense_ffn": dense_ffn}
    parts = {part: dtype or weights for part, dtype in parts.items()} | {"embedding": embedding, "kv_cache": kv_cache}
    changes: dict[str, Any] = {part: dtype for part, dtype in parts.items() if dtype is not None}
    # What is quantised anew is no longer stored as the file said.
    anew = {"routed_experts" if part == "experts" else part for part in changes}
    anew |= {"shared_experts"} if "experts" in changes else set()
    changes["stored"] = tuple(pair for pair in spec.dtypes.stored if pair[0] not in anew)
    changes["blocks"] = tuple(pair for pair in spec.dtypes.blocks if pair[0] not in anew)
    if "experts" in changes:
        changes["shared_experts"] = None
    method = "" if anew & {"attention", "routed_experts", "dense_ffn"} else spec.quant_method
    quantised = dataclasses.replace(spec, dtypes=dataclasses.replace(spec.dtypes, **changes), quant_method=method)
    return checked(quantised, spec.name)


def _normal(name: str) -> str:
    return name.rsplit("/", 1)[-1].lower()


def _folders(folder: str | Path | None) -> tuple[Path, ...]:
    if folder is None:
        return (_BUILT_IN,)
    if not is_folder(folder):
        msg = f"{folder}: not a folder of models"
        raise ModelError(msg)
    return (Path(folder), _BUILT_IN)


def _load_file(path: Path, folders: tuple[Path, ...]) -> ModelSpec:
    table = read_toml(path)
    if "base" not in table:
        return spec_from_table({"name": path.stem, **table}, path.name)
    for place in folders:
        stamp(place)
    bases = {file.stem: file for place in reversed(folders) for file in place.glob("*.toml") if file != path}
    if not isinstance(table["base"], str) or table["base"] not in bases:
        msg = f"{path.name}: base = {shown(table['base'])}; {nearest(str(table['base'])[:60], bases)}"
        raise ModelError(msg)
    base = read_toml(bases[table["base"]])
    if "base" in base:
        msg = f"{path.name}: base = {table['base']!r} has a base of its own; expected a complete model"
        raise ModelError(msg)
    return spec_from_table({**base, "name": path.stem, **table}, path.name)


def _other_names(table: Mapping[str, Any], file: Path) -> dict[str, Mapping[str, Any]]:
    """Map each alias and variant of a model file to what it changes."""
    aliases, variants = table.get("aliases", []), table.get("variants", {})
    if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
        msg = f"{file.name}: aliases = {aliases!r}; expected a list of names"
        raise ModelError(msg)
    if not isinstance(variants, dict) or not all(isinstance(changes, dict) for changes in variants.values()):
        msg = f"{file.name}: variants = {variants!r}; expected a table per name"
        raise ModelError(msg)
    nothing: Mapping[str, Any] = {}
    return {_normal(alias): nothing for alias in aliases} | {
        _normal(name): changes for name, changes in variants.items()
    }


def _variant(spec: ModelSpec, changes: Mapping[str, Any], where: str) -> ModelSpec:
    """Apply what a variant changes: dtypes by part, and ``max_context``."""
    allowed = [field.name for field in dataclasses.fields(spec.dtypes)]
    dtypes = {key: value for key, value in changes.items() if key != "max_context"}
    for key in dtypes:
        if key not in allowed:
            msg = f"{where}: unknown key '{key}'; {nearest(key, [*allowed, 'max_context'])}"
            raise ModelError(msg)
    changed = dataclasses.replace(spec, dtypes=dataclasses.replace(spec.dtypes, **dtypes))
    return checked(dataclasses.replace(changed, max_context=changes.get("max_context", spec.max_context)), where)
