"""What a build adds to the source: the presets, and the compiled engine where it is asked for.

``MOESIM_COMPILE=1 pip install .`` compiles the engine into the wheel; ``python hatch_build.py``, which is what
``make compiled`` runs, and an editable install put it beside the source.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: What compiling needs beside a C compiler and the headers of Python; mypy also has to find what the engine imports.
REQUIRES = ["mypy>=2.4", "numpy>=2.2", "pydantic>=2.11", "setuptools", "simpy>=4.1.1,<4.2"]


class Hook(BuildHookInterface[Any]):
    """Complete a wheel."""

    def dependencies(self) -> list[str]:
        """Name what the build needs beside hatchling; called by hatchling."""
        return REQUIRES if _asked() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files to include; called by hatchling before it builds.

        An editable install reads the presets where they are; a static ``force-include`` would copy them there as well.
        """
        root = Path(self.root)
        if version == "standard":
            for preset in sorted(root.glob("examples/*.toml")):
                build_data["force_include"][str(preset)] = f"simulator/examples/{preset.name}"
        if not _asked():
            return
        folder = compile_engine(root)
        if version == "standard":
            build_data.update(pure_python=False, infer_tag=True)
            build_data["force_include"][str(folder)] = "simulator/_compiled"


def _asked() -> bool:
    return os.environ.get("MOESIM_COMPILE", "0") not in {"", "0"}


def compile_engine(root: Path) -> Path:
    """Compile the modules of the engine, and return the folder that holds them: ``simulator/_compiled``."""
    from setuptools import Distribution

    plan = runpy.run_path(str(root / "simulator" / "compiled.py"))
    # Stamped first, so that an edit while the compiler runs is noticed.
    stamps, folder = plan["stamps"](plan["MODULES"]), Path(plan["FOLDER"])
    with tempfile.TemporaryDirectory() as scratch:
        extensions = translate(root, scratch)
        for extension in extensions:
            # A fused multiply-add would round once where Python rounds twice.
            extension.extra_compile_args += [] if os.name == "nt" else ["-ffp-contract=off"]
        build = Distribution({"name": "moesim", "ext_modules": extensions}).get_command_obj("build_ext")
        build.build_lib, build.build_temp = str(Path(scratch) / "lib"), scratch
        build.ensure_finalized()
        build.run()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(build.build_lib, folder)
    plan["stamp_file"](folder).write_text(stamps, encoding="ascii")
    return folder


def translate(root: Path, scratch: str) -> list[Any]:
    """Translate the modules of the engine to C in a folder, and return what setuptools makes of it."""
    from mypyc.build import mypycify

    plan = runpy.run_path(str(root / "simulator" / "compiled.py"))
    sources = [str(plan["source"](module).relative_to(root)) for module in plan["MODULES"]]
    # Errors elsewhere are for `make types` to tell, which has everything installed that the rest imports.
    options = ["--config-file=pyproject.toml", "--follow-imports=silent", "--ignore-missing-imports"]
    with contextlib.chdir(root):
        return list(
            mypycify([*options, *sources], group_name=plan["LIBRARY"].removesuffix("__mypyc"), target_dir=scratch)
        )


if __name__ == "__main__":
    print(f"compiled into {compile_engine(Path(__file__).resolve().parent)}")
