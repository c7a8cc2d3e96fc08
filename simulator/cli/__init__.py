"""The command ``moesim``.

Nothing heavy is imported here or in :mod:`simulator.cli.app`: each command imports what it needs, so that
``moesim --help`` answers at once.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from io import TextIOWrapper
from typing import NoReturn

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit: 0 for an answer, 2 for what the user can mend, 130 for an interrupt.

    An interrupt is one from here on, also while modules are loaded; 143 is for the signal that asks to end.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    # Imports make many objects and hardly any garbage: to look for some as often as usual takes a twentieth of a start.
    gc.set_threshold(200_000, 20, 20)
    # A process that ends need not be searched for garbage, as Python does: that takes a tenth of a short answer.
    atexit.register(gc.freeze)
    from simulator.cli.app import app

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that knows only ASCII gets question marks instead of a traceback.
            stream.reconfigure(errors="replace")
    try:
        try:
            app(prog_name="moesim")
        finally:
            sys.stdout.flush()
    except OSError as fault:
        if fault.filename is not None:
            raise
        _unheard(fault)


def _stop(number: int, _frame: object) -> NoReturn:
    """End as an exception does, so that what is half-written goes."""
    # Whoever asks twice gets the same answer once.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    print("interrupted: nothing was written" if number == signal.SIGINT else "terminated", file=sys.stderr)
    raise SystemExit(128 + number)


def _unheard(fault: OSError) -> NoReturn:
    """End where standard output takes no more: quietly where nobody reads any longer, as in ``| head``."""
    # What is still to be flushed as Python ends must not fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if isinstance(fault, BrokenPipeError):
        raise SystemExit(1) from None
    print(f"error: the answer cannot be written: {fault.strerror or fault}", file=sys.stderr)
    raise SystemExit(2) from None
