"""A bar for work that is counted: on a terminal once a second has passed, nothing elsewhere.

Drawn on standard error, so that an answer on standard output stays what it is. Owns the look only.
"""

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from steelyard.kernel.clock import NS_PER_S, Clock


class Bar:
    """A context manager; call `at` as often as you like."""

    def __init__(self, title: str, clock: Clock) -> None:
        self._title = title
        self._clock = clock
        self._started_ns = clock.monotonic_ns()
        self._bars: Progress | None = None
        if sys.stderr.isatty():
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("[dim]{task.fields[detail]}"),
                console=Console(file=sys.stderr),
                transient=True,
            )

    def at(self, done: int, total: int, detail: str = "") -> None:
        """How far the work is."""
        if self._bars is None or self._clock.monotonic_ns() - self._started_ns < NS_PER_S:
            return
        if not self._bars.tasks:
            self._bars.start()
            self._bars.add_task(self._title, total=total, detail=detail)
        self._bars.update(self._bars.task_ids[0], completed=done, total=total, detail=detail)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
