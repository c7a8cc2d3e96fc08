"""The command ``moesim``.

Nothing heavy is imported here or in :mod:`simulator.cli.app`: each command imports what it needs, so that
``moesim --help`` answers at once.
"""

from __future__ import annotations

import atexit
import gc
import sys
from io import TextIOWrapper

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit: 0 for an answer, 2 for what the user can mend, 130 for an interrupt."""
    # Imports make many objects and hardly any garbage: to look for some as often as usual takes a twentieth of a start.
    gc.set_threshold(200_000, 20, 20)
    # A process that ends need not be searched for garbage, as Python does: that takes a tenth of a short answer.
    atexit.register(gc.freeze)
    from simulator.cli.app import app

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that knows only ASCII gets question marks instead of a traceback.
            stream.reconfigure(errors="replace")
    app(prog_name="moesim")
