"""A progress bar on standard error, for runs that take long enough to need one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Runs shorter than this show no bar [s].
PATIENCE = 2.0


@contextmanager
def progress_bar(what: str, *, enabled: bool) -> Iterator[Callable[[float], None] | None]:
    """Give a callback that takes the share done [1], or ``None`` where nobody could see a bar.

    The bar appears after ``PATIENCE`` and vanishes at the end.
    """
    if not (enabled and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, markup=False)
    columns = (TextColumn(what), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn())
    progress = Progress(*columns, console=console, transient=True)
    task = progress.add_task(what, total=1.0)
    appears = time.monotonic() + PATIENCE

    def update(share: float) -> None:
        if not progress.live.is_started and time.monotonic() >= appears:
            progress.start()
        progress.update(task, completed=share)

    try:
        yield update
    finally:
        progress.stop()
