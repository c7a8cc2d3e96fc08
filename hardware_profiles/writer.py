"""Write a device profile that loads back to the same value."""

from __future__ import annotations

from pathlib import Path

import tomli_w

from hardware_profiles.errors import ProfileError
from hardware_profiles.outputs import write_file
from hardware_profiles.schema import Device, Link, Processor, Quantity


def save_device(device: Device, path: Path) -> None:
    """Write a device with its kernel coefficients as ``<id>.toml``, whole or not at all.

    Parameters
    ----------
    device : Device
        What to write.
    path : Path
        A file named after the device's id, in a folder that exists: ``profiles/devices/<id>.toml``.

    Raises
    ------
    ProfileError
        The file's name is not the id, or the file cannot be written.
    """
    if path.name != f"{device.id}.toml":
        raise ProfileError(f"{path}: a device is found by its file's name, so this one goes to {device.id}.toml")
    write_file(path, tomli_w.dumps(_device_table(device)), ProfileError, parents=False)


def _device_table(device: Device) -> dict[str, object]:
    return {
        "id": device.id,
        "name": device.name,
        "vendor": device.vendor,
        "architecture": device.architecture,
        "aliases": list(device.aliases),
        "note": device.note,
        "memory_capacity": _quantity_table(device.memory_capacity),
        "tdp": _quantity_table(device.tdp),
        "idle_power": _quantity_table(device.idle_power),
        "processors": {name: _processor_table(p) for name, p in device.processors.items()},
        "links": {name: _link_table(link) for name, link in device.links.items()},
    }


def _processor_table(processor: Processor) -> dict[str, object]:
    table: dict[str, object] = {"kind": processor.kind}
    if processor.kernels_from is not None:
        table["kernels_from"] = processor.kernels_from
    table["units"] = _quantity_table(processor.units)
    table["clock"] = _quantity_table(processor.clock)
    table["memory_bandwidth"] = _quantity_table(processor.memory_bandwidth)
    if processor.cache is not None:
        table["cache"] = _quantity_table(processor.cache)
    if processor.sustained is not None:
        table["sustained"] = _quantity_table(processor.sustained)
    table["peak"] = {dtype: _quantity_table(q) for dtype, q in processor.peak.items()}
    table["kernels"] = {
        kernel: {name: _quantity_table(q) for name, q in coefficients.items()}
        for kernel, coefficients in processor.kernels.items()
    }
    return table


def _link_table(link: Link) -> dict[str, object]:
    return {
        "bandwidth": {**_quantity_table(link.bandwidth), "per": "direction"},
        "latency": _quantity_table(link.latency),
    }


def _quantity_table(quantity: Quantity) -> dict[str, object]:
    """Give the quantity as it was stated; keys at their defaults are left out."""
    table: dict[str, object] = {
        "value": quantity.written,
        "unit": quantity.unit,
        "source": quantity.source,
        "status": quantity.status,
    }
    if quantity.date:
        table["date"] = quantity.date
    if quantity.note:
        table["note"] = quantity.note
    if quantity.error is not None:
        table["error"] = quantity.error
    return table
