"""Reading what PyTorch saves, tensors and plain values only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hardware_profiles.edge import reason, shown_path
from workloads.errors import TraceFormatError, WorkloadError


def torch_load(file: Path) -> Any:
    """Read tensors and plain values; nothing that a pickle could run."""
    import importlib

    try:
        torch = importlib.import_module("torch")
    except ImportError:
        msg = (
            f"{file}: reading .pt needs torch; in moesim's folder: pip install '.[calibrate]', "
            "or save the recording as .json or .npy"
        )
        raise WorkloadError(msg) from None
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling a damaged file may raise
        first = reason(error).split(". ")[0].rstrip(".")
        msg = f"{shown_path(file)}: not a .pt of tensors and plain values alone, and nothing else is loaded ({first})"
        raise TraceFormatError(msg) from None
