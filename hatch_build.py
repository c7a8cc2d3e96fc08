"""Put the presets of ``examples/`` into the wheel, so that an installed ``moesim`` has them too.

An editable install reads them where they are; a static ``force-include`` would copy them there as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PresetsHook(BuildHookInterface[Any]):
    """Add each preset to a standard wheel, inside the package ``simulator``."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files to include; called by hatchling before it builds."""
        if version == "standard":
            for preset in sorted(Path(self.root, "examples").glob("*.toml")):
                build_data["force_include"][str(preset)] = f"simulator/examples/{preset.name}"
