"""Start-up steps as they are seen: a spinner or bar on a terminal, plain lines elsewhere.

Owns the look only. Several steps may run at once; a step that fails is left as it was, the error is told elsewhere.
"""

import contextlib
import sys
import threading
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from steelyard.cli.show import console
from steelyard.kernel.clock import NS_PER_S, Clock

_PLAIN_EVERY_PERCENT = 25


class Step:
    """One thing that is waited for. A context manager: leaving it well without `done` ends it with its title."""

    def __init__(self, steps: "Steps", title: str, doing: str) -> None:
        self._steps = steps
        self._title = title
        self._started_ns = steps.clock.monotonic_ns()
        self._ended = False
        self._told_percent = 0
        self._task: TaskID | None = None
        if steps.bars is not None:
            self._task = steps.bars.add_task(title, total=None, detail=doing)
        else:
            steps.print(f"{title}: {doing} …")

    def progress(self, done_bytes: int, total_bytes: int | None) -> None:
        """How much of a download is here."""
        if not total_bytes:
            return
        megabytes = f"{done_bytes / 1e6:.0f} of {total_bytes / 1e6:.0f} MB"
        if self._steps.bars is not None and self._task is not None:
            self._steps.bars.update(self._task, completed=done_bytes, total=total_bytes, detail=megabytes)
            return
        percent = 100 * done_bytes // total_bytes
        if percent >= self._told_percent + _PLAIN_EVERY_PERCENT:
            self._told_percent = percent - percent % _PLAIN_EVERY_PERCENT
            self._steps.print(f"{self._title}: {megabytes}")

    def done(self, result: str) -> None:
        """It is there; `result` says what."""
        self._ended = True
        seconds = (self._steps.clock.monotonic_ns() - self._started_ns) / NS_PER_S
        if self._steps.bars is not None and self._task is not None:
            self._steps.bars.remove_task(self._task)
            self._steps.print(f"[green]✓[/] {self._title}: {result} [dim]({seconds:.1f} s)[/]", markup=True)
        else:
            self._steps.print(f"{self._title}: {result} ({seconds:.1f} s)")

    def __enter__(self) -> "Step":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and not self._ended:
            self.done("ready")


class Steps:
    """All steps of one start."""

    def __init__(self, clock: Clock, stream: TextIO | None = None) -> None:
        self.clock = clock
        stream = stream or sys.stdout
        self._console: Console = console(stream)
        self._lock = threading.Lock()
        self.bars: Progress | None = None
        if stream.isatty():
            self.bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                _BytesBar(bar_width=28),
                TextColumn("[dim]{task.fields[detail]}"),
                console=self._console,
                transient=True,
            )

    def step(self, title: str, doing: str = "starting") -> Step:
        """Begin a step; `doing` says what is waited for."""
        return Step(self, title, doing)

    def print(self, text: str, *, markup: bool = False) -> None:
        """A line above the running bars. That it cannot be written, on a full disk or where a terminal was, ends
        nothing: whoever tells that a process died is about to start it again."""
        with self._lock, contextlib.suppress(OSError, SystemExit):  # the latter is what rich makes of a broken pipe
            (self.bars.console if self.bars is not None else self._console).print(text, markup=markup)

    def __enter__(self) -> "Steps":
        if self.bars is not None:
            self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bars is not None:
            self.bars.stop()


class _BytesBar(BarColumn):
    """A bar once the size is known; nothing before."""

    def render(self, task):  # type: ignore[no-untyped-def]
        return super().render(task) if task.total else ""
