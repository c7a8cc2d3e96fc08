"""A device profile of a machine that was just measured.

What the benchmarks show stands there as measured; what nobody measured here is taken from the catalogue's device that
is most like it, and every such number says so.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import hardware_profiles
from hardware_profiles.errors import ProfileError
from hardware_profiles.loader import device_names, load_device, resolve_kernels
from hardware_profiles.schema import Device, Link, LinkName, Processor, Quantity, Status
from hardware_profiles.units import to_si
from hardware_profiles.writer import save_device
from simulator.hardware import Hardware, load_hardware, silicon_of
from simulator.kernels.gemm import GemmKernel, gemm_time
from simulator.kernels.kernel import coefficients
from simulator.stack import kernel_table
from validation.fit.calibrate import Calibration, read_manifest
from validation.kernels.collective_rows import ELEMENT
from validation.kernels.formats import MeasurementError

if TYPE_CHECKING:
    import pandas as pd

#: Calls that move less than this may find their operands in a cache nearer to the cores [bytes].
LARGE = 2**20
#: Power of a core, and what idles of it, where the machine does not tell [W, 1]: assumptions.
CORE_POWER, IDLE_SHARE = 10.0, 0.3
_SOURCE = "moesim calibrate run"
_CATALOGUE = Path(hardware_profiles.__file__).parent


def measured_device(folder: Path, name: str | None = None) -> Device:
    """Describe the measured machine as a device without kernels.

    Parameters
    ----------
    folder : Path
        What the microbenchmarks wrote: tables and manifest.
    name : str or None
        Id of the profile; made from the processor's name if not given.

    Returns
    -------
    Device
        A GPU names its relative, whose kernels are those of serving engines. They reach a share of the relative's
        stated peak, so that the peak of a GPU is what its best product would be that share of.

    Raises
    ------
    MeasurementError
        The manifest, or the tables that tell peak and bandwidth, are missing.
    """
    manifest = read_manifest(folder)
    if not manifest:
        raise MeasurementError(f"{folder}: no manifest.json; a profile is made of what 'moesim calibrate run' writes")
    machine, date = manifest["machine"], str(manifest["date"])[:10]
    products, copies = _table(folder, "gemm"), _table(folder, "copy")
    peak = {str(dtype): _peak(rows, date) for dtype, rows in products.groupby("dtype")}
    if "bfloat16" not in peak:
        raise MeasurementError(f"{folder / 'gemm.parquet'}: no row of dtype bfloat16, whose peak every profile states")
    processor = Processor(
        name="xpu" if machine["kind"] == "cuda" else "cpu",
        kind="gpu" if machine["kind"] == "cuda" else "cpu",
        units=_told(machine, "units", "1", date),
        clock=_told(machine, "clock", "GHz", date),
        peak=peak,
        memory_bandwidth=_bandwidth(copies, date),
        cache=_told(machine, "cache", "MiB", date),
    )
    device = Device(
        id=name or _identifier(machine),
        name=f"{machine['name']}, as measured on {date}",
        vendor="unknown",
        architecture=str(machine["versions"].get("instructions", machine["versions"].get("capability", "unknown"))),
        memory_capacity=_told(machine, "memory", "GB", date),
        processors={processor.name: processor},
        links=_links(folder, copies, date),
        tdp=_power(machine, 1.0, date),
        idle_power=_power(machine, IDLE_SHARE, date),
        note=f"made by moesim calibrate with torch {machine['versions']['torch']}",
    )
    return _beside_relative(device, products) if processor.kind == "gpu" else device


def nearest_relative(device: Device) -> Device:
    """The catalogue's device with kernels of its own whose peak and bandwidth are nearest, on a logarithmic scale."""
    own = silicon_of(device.main)

    def distance(other: Device) -> float:
        theirs = silicon_of(other.main)
        rates = (
            (theirs.peak["bfloat16"], own.peak["bfloat16"]),
            (theirs.memory_bandwidth, own.memory_bandwidth),
        )
        return sum(abs(math.log(a / b)) for a, b in rates)

    # The built-in catalogue alone: an earlier profile of this machine is no relative of it.
    devices = [load_device(name, _CATALOGUE) for name in device_names(_CATALOGUE)]
    return min((other for other in devices if other.main.kernels), key=distance)


def alone(device: Device) -> Hardware:
    """The measured device as the hardware that fits and predictions want, before any file of it is kept."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "devices").mkdir()
        save_device(device, Path(folder) / "devices" / f"{device.id}.toml")
        return load_hardware(device.id, folder=Path(folder))


def completed(device: Device, calibration: Calibration) -> tuple[Device, str, tuple[str, ...]]:
    """Give a device the kernel families that were not measured on it.

    Returns
    -------
    device : Device
        A GPU as it was, since it names its relative. A CPU has no relative with kernels in the catalogue; it gets the
        missing families copied, each number an assumption, so that kernels that were measured on it are never passed
        over for another backend of a GPU.
    relative : str
        Whose kernels are borrowed.
    families : tuple of str
        What is borrowed.
    """
    relative = nearest_relative(device)
    kernels, _ = resolve_kernels(relative.main, _CATALOGUE)
    own = {table.split(".")[0] for table in (*(fit.table for fit in calibration.fits), *calibration.derived)}
    missing = tuple(sorted({table.split(".")[0] for table in kernels} - own))
    if not missing:
        return device, relative.id, missing
    main = device.main
    if main.kernels_from is None:
        copied = {
            table: {name: _borrowed(quantity, relative) for name, quantity in values.items()}
            for table, values in kernels.items()
            if table.split(".")[0] in missing
        }
        main = dataclasses.replace(main, kernels=copied)
    note = f"{device.note}; not measured on it, taken from {relative.id}: {', '.join(missing)}"
    return dataclasses.replace(device, processors={main.name: main}, note=note), relative.id, missing


def check_identifier(name: str) -> None:
    """Refuse an id that no profile can have, or that a device of the catalogue has.

    Raises
    ------
    ProfileError
        Why it cannot be the id.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise ProfileError(
            f"{name!r} is no id of a profile; an id has lower-case letters, digits, hyphens, underscores"
        )
    if name in device_names(_CATALOGUE):
        raise ProfileError(
            f"{name!r} is a device of the catalogue; choose another id, or fit its kernels to the tables of 'moesim "
            f"calibrate run' with 'moesim calibrate fit --device {name}'"
        )


def save_profile(device: Device, folder: Path) -> Path:
    """Write a device into a folder of profiles, which is made if it is not there."""
    path = folder / "devices" / f"{device.id}.toml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProfileError(f"{folder}: cannot be made a folder of profiles: {error.strerror}") from error
    save_device(device, path)
    return path


def _table(folder: Path, op: str) -> pd.DataFrame:
    import pandas as pd

    path = folder / f"{op}.parquet"
    if not path.is_file():
        raise MeasurementError(
            f"{path}: no such table; a profile needs the ops gemm and copy for its peak and bandwidth"
        )
    return pd.read_parquet(path)


def _rates(rows: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    work = 2.0 * rows["m"].to_numpy(np.float64) * rows["n"].to_numpy(np.float64) * rows["k"].to_numpy(np.float64)
    return np.asarray(work / (rows["latency_us"].to_numpy(np.float64) * 1e-6), dtype=np.float64)


def _peak(rows: pd.DataFrame, date: str) -> Quantity:
    rates = _rates(rows)
    best = rows.iloc[int(np.argmax(rates))]
    note = f"the best of {len(rows)} products: m = {best['m']}, n = {best['n']}, k = {best['k']}"
    return _quantity(float(rates.max()), "TFLOP/s", "measured", date, note)


def _beside_relative(device: Device, products: pd.DataFrame) -> Device:
    """Name a GPU's relative, and restate its peaks on the relative's footing."""
    relative = nearest_relative(device)
    kernels, _ = resolve_kernels(relative.main, _CATALOGUE)
    silicon, peak = silicon_of(relative.main), dict(device.main.peak)
    for dtype, rows in products.groupby("dtype"):
        if dtype not in relative.main.peak:
            continue
        best = rows.iloc[[int(np.argmax(_rates(rows)))]]
        name, table = kernel_table(kernels, "gemm", (), str(dtype), relative.id)
        kernel = coefficients(GemmKernel, table, f"{relative.id}: {name}")
        time = gemm_time(best["m"], best["n"], best["k"], dtype=str(dtype), silicon=silicon, kernel=kernel).seconds
        work = 2.0 * float((best["m"] * best["n"] * best["k"]).iloc[0])
        share = min(work / float(time[0]) / silicon.peak[str(dtype)], 1.0)
        old = peak[str(dtype)]
        note = (
            f"{old.note} reached {old.stated:g} {old.unit}, taken as the {share:.0%} of the peak that {relative.id} has"
        )
        peak[str(dtype)] = _quantity(old.value / share, old.unit, "measured", old.date, note)
    main = dataclasses.replace(device.main, peak=peak, kernels_from=relative.id)
    return dataclasses.replace(device, processors={main.name: main})


def _bandwidth(copies: pd.DataFrame, date: str) -> Quantity:
    rows = copies[(copies["kernel"] == "device") & (copies["message_bytes"] >= LARGE)]
    if rows.empty:
        raise MeasurementError(
            f"copy.parquet: no copy within the device of {LARGE} bytes or more; measure a larger size"
        )
    rates = 2.0 * rows["message_bytes"].to_numpy(np.float64) / (rows["latency_us"].to_numpy(np.float64) * 1e-6)
    note = f"the best of {len(rows)} copies, reading and writing together"
    return _quantity(float(rates.max()), "GB/s", "measured", date, note)


def _links(folder: Path, copies: pd.DataFrame, date: str) -> dict[LinkName, Link]:
    """Links that were measured: to the host by pinned copies, to other GPUs by NCCL's all-gather."""
    links: dict[LinkName, Link] = {}
    host = copies[copies["kernel"] == "host_to_device_pinned"]
    if len(host):
        links["host"] = _link(host["message_bytes"], host["latency_us"], "copies from pinned memory", date)
    if (folder / "nccl.parquet").is_file():
        rows = _table(folder, "nccl")
        gathers = rows[rows["collective"] == "all_gather"]
        if len(gathers):
            sizes = gathers["message_elems"] * gathers["dtype"].map(ELEMENT) * (1.0 - 1.0 / gathers["num_gpus"])
            links["scale_up"] = _link(sizes, gathers["latency_us"], "what crosses a link in NCCL's all-gather", date)
    return links


def _link(sizes: pd.Series[Any], latencies: pd.Series[Any], what: str, date: str) -> Link:
    moved, seconds = sizes.to_numpy(np.float64), latencies.to_numpy(np.float64) * 1e-6
    return Link(
        bandwidth=_quantity(float((moved / seconds).max()), "GB/s", "measured", date, f"the best of {what}"),
        latency=_quantity(float(seconds.min()), "us", "measured", date, f"the shortest of {what}"),
    )


def _told(machine: Mapping[str, Any], key: str, unit: str, date: str) -> Quantity:
    """What the machine says of itself; an assumption where it says nothing."""
    if key in machine["assumed"]:
        note = "the machine does not tell; a common value"
        return _quantity(float(machine[key]), unit, "assumption", date, note, source="no published figure")
    return _quantity(float(machine[key]), unit, "measured", date, "as the operating system or driver tells")


def _power(machine: Mapping[str, Any], share: float, date: str) -> Quantity:
    if machine["power"] is not None and share == 1.0:
        return _quantity(float(machine["power"]), "W", "measured", date, "power limit, as the driver tells")
    whole = machine["power"] or CORE_POWER * machine["units"]
    note = "a common figure; the machine does not tell"
    return _quantity(share * whole, "W", "assumption", date, note, source="no published figure")


def _borrowed(quantity: Quantity, relative: Device) -> Quantity:
    note = f"never measured on this machine: the coefficient of {relative.id}"
    return dataclasses.replace(quantity, status="assumption", note=note)


def _quantity(value: float, unit: str, status: Status, date: str, note: str, source: str = _SOURCE) -> Quantity:
    size = to_si(1.0, unit, None, unit)
    stated = float(f"{value / size:.4g}")
    return Quantity(value=stated * size, unit=unit, stated=stated, source=source, status=status, note=note, date=date)


def _identifier(machine: Mapping[str, Any]) -> str:
    cores = f"-{machine['units']}-cores" if machine["kind"] == "cpu" else ""
    return re.sub(r"[^a-z0-9]+", "-", f"{machine['name']}".lower()).strip("-") + cores
