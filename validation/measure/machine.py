"""The machine that is measured: device, memory, cache, clocks, versions."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hardware_profiles.errors import MoesimError

Kind = Literal["cuda", "cpu"]

#: Last-level cache and clock of a processor that does not tell its own [bytes, Hz].
UNKNOWN_CACHE, UNKNOWN_CLOCK = 32 * 2**20, 2.5e9
#: Compute capability from which a GPU multiplies fp8 matrices (Ada, Hopper).
FP8_CAPABILITY = (8, 9)


class MicrobenchmarkError(MoesimError):
    """A microbenchmark cannot run on this machine, or its results cannot be kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What measurements were made on.

    Attributes
    ----------
    kind : {"cuda", "cpu"}
        Which of its processors was measured.
    name : str
        What the processor calls itself.
    count : int
        Devices at hand: GPUs, or 1 for all cores together [1].
    units : int
        Streaming multiprocessors, or cores that PyTorch uses [1].
    clock : float
        Highest clock of a GPU, nominal clock of a CPU [Hz].
    cache : int
        Last-level cache [bytes].
    memory : int
        Device memory, or host memory that this process may use [bytes].
    dtypes : tuple of str
        Storage types whose matrices it multiplies.
    power : float or None
        Power limit [W], where the driver tells.
    versions : Mapping of str to str
        Driver and libraries.
    assumed : tuple of str
        Fields that the machine does not tell and that hold a common value instead.
    """

    kind: Kind
    name: str
    count: int
    units: int
    clock: float
    cache: int
    memory: int
    dtypes: tuple[str, ...]
    power: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()


def import_torch() -> Any:
    """Return PyTorch, or say how to install it."""
    if importlib.util.find_spec("torch") is None:
        raise MicrobenchmarkError("PyTorch is not installed; in moesim's folder: pip install '.[calibrate]'")
    import torch

    return torch


def choose_kind(asked: str | None) -> Kind:
    """Take the device that was asked for, or the GPU where there is one.

    Raises
    ------
    MicrobenchmarkError
        The device is neither ``cuda`` nor ``cpu``, or there is no GPU.
    """
    torch = import_torch()
    if asked not in (None, "cuda", "cpu"):
        raise MicrobenchmarkError(f"unknown device {asked!r} to measure; allowed: cuda, cpu")
    if asked == "cuda" and not torch.cuda.is_available():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU only"
        raise MicrobenchmarkError(f"PyTorch {torch.__version__}, built for {built}, finds no GPU; measure with cpu")
    if asked == "cpu" or not torch.cuda.is_available():
        return "cpu"
    return "cuda"


def describe_machine(kind: Kind) -> Machine:
    """Ask the machine what it is."""
    return _describe_gpu() if kind == "cuda" else _describe_cpu()


def free_cores() -> int:
    """Cores that PyTorch would use and that other work leaves free over the last minute, at least one [1].

    Threads wait for each other at the end of every kernel; one that another process holds up makes all of them wait,
    a thousand times longer than a small kernel takes.
    """
    cores = int(import_torch().get_num_threads())
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, cores - round(load))


def clocks_now(machine: Machine) -> dict[str, float]:
    """Clocks of this moment [MHz]: of the multiprocessors and the memory, or the mean over cores."""
    if machine.kind == "cuda":
        answer = _nvidia_smi("clocks.sm", "clocks.mem")
        return {name: float(value) for name, value in zip(("sm", "memory"), answer, strict=False) if _is_number(value)}
    rates = [float(rate) for rate in re.findall(r"^cpu MHz\s*: ([\d.]+)", _read("/proc/cpuinfo"), re.MULTILINE)]
    return {"cores": sum(rates) / len(rates)} if rates else {}


def _describe_gpu() -> Machine:
    torch = import_torch()
    properties = torch.cuda.get_device_properties(0)
    cache = int(getattr(properties, "L2_cache_size", 0))
    driver, clock, power = (*_nvidia_smi("driver_version", "clocks.max.sm", "power.limit"), "", "", "")[:3]
    rate = float(clock) * 1e6 if _is_number(clock) else float(getattr(properties, "clock_rate", 0)) * 1e3
    fp8 = torch.cuda.get_device_capability(0) >= FP8_CAPABILITY and hasattr(torch, "_scaled_mm")
    versions = {
        **_versions(torch),
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "capability": ".".join(map(str, torch.cuda.get_device_capability(0))),
    }
    if driver:
        versions["driver"] = driver
    if torch.distributed.is_available() and torch.distributed.is_nccl_available():
        versions["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return Machine(
        kind="cuda",
        name=str(properties.name),
        count=int(torch.cuda.device_count()),
        units=int(properties.multi_processor_count),
        clock=rate or UNKNOWN_CLOCK,
        cache=cache or UNKNOWN_CACHE,
        memory=int(properties.total_memory),
        dtypes=("bfloat16", "fp8") if fp8 else ("bfloat16",),
        power=float(power) if _is_number(power) else None,
        versions=versions,
        assumed=tuple(name for name, known in (("clock", rate), ("cache", cache)) if not known),
    )


def _describe_cpu() -> Machine:
    torch = import_torch()
    cache, clock = _last_level_cache(), _nominal_clock()
    match = re.search(r"^model name\s*: (.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return Machine(
        kind="cpu",
        name=match.group(1).strip() if match else platform.processor() or platform.machine() or "processor",
        count=1,
        units=int(torch.get_num_threads()),
        clock=clock or UNKNOWN_CLOCK,
        cache=cache or UNKNOWN_CACHE,
        memory=_host_memory(),
        dtypes=("float32", "bfloat16"),
        versions={**_versions(torch), "instructions": str(torch.backends.cpu.get_cpu_capability())},
        assumed=tuple(name for name, known in (("clock", clock), ("cache", cache)) if not known),
    )


def _versions(torch: Any) -> dict[str, str]:
    return {"torch": str(torch.__version__), "python": platform.python_version(), "system": platform.platform()}


def _nvidia_smi(*fields: str) -> list[str]:
    """Answers of the driver's tool about the first visible GPU; none where the tool is missing."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    uuid = str(getattr(import_torch().cuda.get_device_properties(0), "uuid", ""))
    chosen = [f"--id=GPU-{uuid.removeprefix('GPU-')}"] if uuid else ["--id=0"]
    command = [tool, *chosen, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return []
    lines = answer.stdout.strip().splitlines()
    return [value.strip() for value in lines[0].split(",")] if lines else []


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", text) is not None


def _last_level_cache() -> int:
    """Bytes of the highest cache level, all its instances that this process may use together; 0 if not told."""
    usable = _core_numbers()
    levels: dict[int, dict[str, int]] = {}
    for index in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cache/index[0-9]*"):
        core = int(index.parts[-3].removeprefix("cpu"))
        size = re.fullmatch(r"(\d+)K", _read(index / "size").strip())
        if core in usable and size and _read(index / "type").strip() != "Instruction":
            level = int(_read(index / "level"))
            levels.setdefault(level, {})[_read(index / "shared_cpu_list").strip()] = int(size.group(1)) * 1024
    return sum(levels[max(levels)].values()) if levels else 0


def _nominal_clock() -> float:
    """Highest rate that the system names for a core [Hz], else the present one; 0 if neither is told."""
    named = _read("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").strip()
    if named.isdigit():
        return float(named) * 1e3
    rates = [float(rate) for rate in re.findall(r"^cpu MHz\s*: ([\d.]+)", _read("/proc/cpuinfo"), re.MULTILINE)]
    return max(rates, default=0.0) * 1e6


def _host_memory() -> int:
    """Bytes of memory, or of the container's limit where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    return min(total, int(limit)) if limit.isdigit() else total


def usable_cores() -> int:
    """Cores that this process may run on [1]."""
    return len(_core_numbers())


def _core_numbers() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _read(path: str | Path) -> str:
    """Text of a system file, empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
