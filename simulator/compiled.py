"""Whether the engine runs as compiled code: the modules that may be, and the finder that prefers them.

``make compiled`` and ``MOESIM_COMPILE=1 pip install`` compile the modules below from the source that lies here; both
ways of running give the same numbers, bit by bit. Without them, or with ``MOESIM_ENGINE=plain`` in the environment,
Python runs that source itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from pathlib import Path
from typing import Literal

Engine = Literal["compiled", "plain"]

#: What is compiled, all of it together: calls between these modules are calls in C.
MODULES = (
    "simulator.cost.grids",
    "simulator.serving.answering",
    "simulator.serving.balancers",
    "simulator.serving.batch",
    "simulator.serving.clock",
    "simulator.serving.instance",
    "simulator.serving.kv_pool",
    "simulator.serving.prefix_cache",
    "simulator.serving.prompt_queues",
    "simulator.serving.rank_loads",
    "simulator.serving.recorder",
    "simulator.serving.scheduler",
    "simulator.serving.server",
    "simulator.serving.state",
    "simulator.serving.step_log",
    "simulator.serving.step_plan",
    "simulator.serving.step_rows",
    "simulator.serving.timekeeper",
    "simulator.serving.tokens_out",
    "simulator.step.attention",
    "simulator.step.columns",
    "simulator.step.host",
    "simulator.step.timer",
    "simulator.step.totals",
    "simulator.step.work",
)
#: The library that holds the code of all of them.
LIBRARY = "moesim__mypyc"
#: Where the compiled modules lie, in folders as the source has.
FOLDER = Path(__file__).with_name("_compiled")
#: What Python, on what system, compiled modules serve.
SUFFIX = EXTENSION_SUFFIXES[0]


def source(module: str) -> Path:
    """Where the source of a module lies."""
    return Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".py")


def stamps(modules: Iterable[str]) -> str:
    """Stamp the sources of modules, a line for each, so that compiled code can be told from that of another source."""
    from zlib import crc32

    return "".join(f"{crc32(source(module).read_bytes()):08x} {module}\n" for module in modules)


def stamp_file(folder: Path) -> Path:
    """Where the stamps of what was compiled lie."""
    return folder / f"sources{SUFFIX}.txt"


class _Finder:
    """Finds the compiled modules before Python looks for their source."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """As the finders of ``sys.meta_path`` do."""
        file = self._files.get(name)
        if file is None:
            return None
        spec = ModuleSpec(name, ExtensionFileLoader(name, file), origin=file)
        spec.has_location = True
        return spec


def engine() -> Engine:
    """Tell which engine runs."""
    return "compiled" if any(isinstance(finder, _Finder) for finder in sys.meta_path) else "plain"


def choose_engine(folder: Path = FOLDER) -> None:
    """Let the compiled modules be found, if they were compiled for this Python from the source that lies here.

    Code of another source is never run: where a source has changed since, all of them run as they are, and one line on
    standard error says so.
    """
    if os.environ.get("MOESIM_ENGINE") == "plain":
        return
    try:
        compiled = stamp_file(folder).read_text(encoding="ascii", errors="replace")
    except OSError:
        return
    if compiled != stamps(MODULES):
        print(
            "moesim: the source of the engine has changed since it was compiled, so it runs uncompiled; "
            "`make compiled` compiles it anew, `make plain` removes what was compiled",
            file=sys.stderr,
        )
        return
    files = {name: f"{folder.joinpath(*name.split('.'))}{SUFFIX}" for name in (*MODULES, LIBRARY)}
    sys.meta_path.insert(0, _Finder(files))
