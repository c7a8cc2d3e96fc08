"""Find profiles by name, in the built-in catalogue and in the user's folder, and load them.

A catalogue is a folder with ``devices``, ``nodes``, ``clusters``, ``prices`` and ``kernels``, one TOML file per id.
The user's folder is given as an argument or by the environment variable ``MOESIM_PROFILES``; its ids come before
the built-in ones. Names are ids or aliases, in any case.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from hardware_profiles.edge import is_file, is_folder, read_toml, shown_path
from hardware_profiles.errors import ProfileError, nearest_product
from hardware_profiles.files import Stamp, stamp
from hardware_profiles.parse import (
    Kernels,
    Table,
    parse_aliases,
    parse_cluster,
    parse_device,
    parse_kernels,
    parse_node,
    parse_price,
)
from hardware_profiles.schema import Cluster, Device, Node, Price, Processor, Quantity

#: Environment variable that names the user's folder of profiles.
FOLDER_VARIABLE = "MOESIM_PROFILES"

_BUILT_IN = Path(__file__).parent
_ID = re.compile(r"[a-z0-9][a-z0-9_-]*")
_Profile = TypeVar("_Profile")


def device_names(folder: Path | None = None) -> list[str]:
    """Ids of all devices, sorted."""
    return _ids("devices", folder)


def node_names(folder: Path | None = None) -> list[str]:
    """Ids of all nodes, sorted."""
    return _ids("nodes", folder)


def cluster_names(folder: Path | None = None) -> list[str]:
    """Ids of all clusters, sorted."""
    return _ids("clusters", folder)


def known_names(kind: str, folder: Path | None = None) -> dict[str, str]:
    """Map every id and alias of ``devices``, ``nodes`` or ``clusters``, in lower case, to the id.

    Examples
    --------
    >>> known_names("devices")["h100"]
    'h100-sxm'
    """
    found: dict[str, str] = {}
    for root in catalogue_folders(folder):
        index = _index(tuple(stamp(path) for path in _files(root / kind, "*.toml")))
        found = {name: Path(file).stem for name, file in index.items()} | found
    return found


def load_device(name: str, folder: Path | None = None) -> Device:
    """Load a device with the kernel coefficients of its main processor.

    Kernel tables come from the built-in ``kernels/<id>.toml`` and ``kernels/<id>.<part>.toml``, from the device file,
    and from the same places of the user's folder; per kernel, the last one counts.

    Parameters
    ----------
    name : str
        Id or alias, in any case.
    folder : Path or None
        The user's profiles; ``None`` looks at ``MOESIM_PROFILES``.

    Raises
    ------
    ProfileError
        No such device, or its file is malformed.

    Examples
    --------
    >>> load_device("H100-SXM").memory_capacity.stated
    80.0
    """
    path = _find("devices", name, folder)
    device = _load(parse_device, path)
    for processor in device.processors.values():
        if processor.kernels_from is not None:
            where = f"{shown_path(path)}: processors.{processor.name}.kernels_from: "
            _find("devices", processor.kernels_from, folder, where)
    *user, built_in = catalogue_folders(folder)
    kernels = {**_kernel_files(built_in, device.id), **device.main.kernels}
    for root in user:
        kernels.update(_kernel_files(root, device.id))
    main = dataclasses.replace(device.main, kernels=kernels)
    return dataclasses.replace(device, processors={**device.processors, main.name: main})


def load_node(name: str, folder: Path | None = None) -> Node:
    """Load a node by id or alias; its device and host are given by their ids."""
    path = _find("nodes", name, folder)
    node = _load(parse_node, path)
    device = _find("devices", node.device, folder, f"{shown_path(path)}: device: ").stem
    host = _find("devices", node.host, folder, f"{shown_path(path)}: host: ").stem if node.host else None
    return dataclasses.replace(node, device=device, host=host)


def load_cluster(name: str, folder: Path | None = None) -> Cluster:
    """Load a cluster by id or alias; its node is given by its id."""
    path = _find("clusters", name, folder)
    cluster = _load(parse_cluster, path)
    return dataclasses.replace(cluster, node=_find("nodes", cluster.node, folder, f"{shown_path(path)}: node: ").stem)


def load_price(device: str, folder: Path | None = None) -> Price | None:
    """Load what a device costs; ``None`` where the catalogue states no price for it."""
    device_id = _find("devices", device, folder).stem
    for root in catalogue_folders(folder):
        path = root / "prices" / f"{device_id}.toml"
        if _is_file(path):
            price = _load(parse_price, path)
            if price.device != device_id:
                raise ProfileError(f"{path}: device is {price.device!r}, but the file is named {path.name}")
            return price
    return None


def resolve_kernels(
    processor: Processor, folder: Path | None = None
) -> tuple[Mapping[str, Mapping[str, Quantity]], str]:
    """Kernel coefficients of a processor, with those of its relatives where it has none of its own.

    Returns
    -------
    kernels : Mapping of str to Mapping of str to Quantity
        Coefficients by kernel; the processor's own come before its relative's.
    evidence : str
        ``own``, ``relative's kernels: <id>``, both, or ``none``.

    Raises
    ------
    ProfileError
        The relatives form a circle.
    """
    kernels: dict[str, Mapping[str, Quantity]] = dict(processor.kernels)
    evidence = ["own"] if kernels else []
    seen: list[str] = []
    relative = processor.kernels_from
    while relative is not None:
        device = load_device(relative, folder)
        if device.id in seen:
            raise ProfileError(f"kernels_from goes in a circle: {' -> '.join([*seen, device.id])}")
        seen.append(device.id)
        borrowed = {k: t for k, t in device.main.kernels.items() if k not in kernels}
        if borrowed:
            evidence.append(f"relative's kernels: {device.id}")
        kernels.update(borrowed)
        relative = device.main.kernels_from
    return kernels, "; ".join(evidence) or "none"


def kernel_backends(folder: Path | None = None) -> dict[str, set[str]]:
    """Map every family of kernels to the backends that any device has coefficients of.

    Parameters
    ----------
    folder : Path or None
        The user's profiles, as for :func:`load_device`.

    Examples
    --------
    >>> "cublas" in kernel_backends()["gemm"]
    True
    """
    found: dict[str, set[str]] = {}
    for root in catalogue_folders(folder):
        names = [name for path in _files(root / "kernels", "*.toml") for name in _load(parse_kernels_file, path)]
        names += [
            name for path in _files(root / "devices", "*.toml") for name in _load(parse_device, path).main.kernels
        ]
        for name in names:
            family, _, rest = name.partition(".")
            found.setdefault(family, set()).add(rest.partition(".")[0])
    return found


def catalogue_folders(folder: Path | None) -> tuple[Path, ...]:
    """Catalogues in the order in which they are searched."""
    if folder is None and os.environ.get(FOLDER_VARIABLE):
        folder = Path(os.environ[FOLDER_VARIABLE])
    if folder is None:
        return (_BUILT_IN,)
    if not is_folder(folder):
        raise ProfileError(
            f"profile folder {folder} is not a folder; it holds devices, nodes, clusters, prices, kernels"
        )
    return (folder, _BUILT_IN)


def _ids(kind: str, folder: Path | None) -> list[str]:
    return sorted({path.stem for root in catalogue_folders(folder) for path in _files(root / kind, "*.toml")})


def _find(kind: str, name: str, folder: Path | None, where: str = "") -> Path:
    """File of the profile with this id or alias; the error names the nearest ones."""
    roots = catalogue_folders(folder)
    names: set[str] = set()
    for root in roots:
        # An id is its file's name, so that only aliases need all files.
        direct = root / kind / f"{name.lower()}.toml"
        if _ID.fullmatch(name.lower()) and _is_file(direct):
            return direct
        index = _index(tuple(stamp(path) for path in _files(root / kind, "*.toml")))
        if name.lower() in index:
            return Path(index[name.lower()])
        names.update(index)
    place = f" in {roots[0]} and the built-in catalogue" if len(roots) > 1 else ""
    raise ProfileError(f"{where}unknown {kind[:-1]} {name!r}{place}; {_nearest(kind, name.lower(), names)}")


def _nearest(kind: str, name: str, names: set[str]) -> str:
    """Phrase the profiles that ``name`` may mean; or how to write one."""
    hint = nearest_product(name, names)
    if hint:
        return hint
    return (
        f"none of that name ships ('moesim list {kind}' shows those that do); describe it in a file of your own "
        "(docs/hardware-profiles.md) and name the folder with hardware.profiles"
    )


def _is_file(path: Path) -> bool:
    stamp(path)
    return is_file(path)


def _files(folder: Path, *patterns: str) -> list[Path]:
    """Files of a folder whose names fit a pattern, in order."""
    stamp(folder)
    return sorted(path for pattern in patterns for path in folder.glob(pattern))


def _load(parse: Callable[[Table, str], _Profile], path: Path) -> _Profile:
    return _parsed(parse, stamp(path))  # type: ignore[return-value]  # the cache drops the type variable


@functools.lru_cache(maxsize=512)
def _parsed(parse: Callable[[Table, str], object], file: Stamp) -> object:
    return parse(_read(file), shown_path(file[0]))


def _kernel_files(root: Path, device_id: str) -> Kernels:
    """Kernel tables of a device in one catalogue, from ``<id>.toml`` and ``<id>.<part>.toml``."""
    kernels: Kernels = {}
    origin: dict[str, str] = {}
    for path in _files(root / "kernels", f"{device_id}.toml", f"{device_id}.*.toml"):
        for kernel, table in _load(parse_kernels_file, path).items():
            if kernel in origin:
                raise ProfileError(f"kernels/{path.name}: {kernel!r} also stands in kernels/{origin[kernel]}")
            origin[kernel], kernels[kernel] = path.name, table
    return kernels


def parse_kernels_file(table: Table, file: str) -> Kernels:
    """Read a file of ``kernels``, whose top-level tables are kernels."""
    return parse_kernels(table, f"{file}: ")


@functools.lru_cache(maxsize=512)
def _read(file: Stamp) -> Table:
    path = Path(file[0])
    table = read_toml(path, ProfileError)
    if "id" in table and table["id"] != path.stem:
        raise ProfileError(f"{path}: id is {table['id']!r}; it must be the file's name, {path.stem!r}")
    if "id" in table and not _ID.fullmatch(path.stem):
        raise ProfileError(f"{path}: an id has lower-case letters, digits, hyphens and underscores, got {path.stem!r}")
    return table


@functools.lru_cache(maxsize=64)
def _index(files: tuple[Stamp, ...]) -> dict[str, str]:
    """Map every id and alias, in lower case, to its file."""
    index: dict[str, str] = {}
    for file in files:
        path, table = Path(file[0]), _read(file)
        for name in (path.stem, *parse_aliases(table, shown_path(path))):
            taken = index.setdefault(name.lower(), str(path))
            if taken != str(path):
                raise ProfileError(f"{path}: the name {name!r} is also that of {Path(taken).name}")
    return index
