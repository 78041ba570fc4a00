"""How a process of the platform writes its log: to standard error, which its supervisor keeps.

Owns that an error is told with the lines it came through and nothing else: a traceback that shows local variables, as
structlog's own does where rich is installed, would show the keys of customers. And that a line for which there is no
room ends nothing.
"""

import contextlib
import sys

import structlog


def to_stderr() -> None:
    """Set the log of this process up; before anything is logged."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.dev.set_exc_info,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.PrintLoggerFactory(_Log()),  # type: ignore[arg-type]  # it writes and flushes
    )


class _Log:
    """Standard error, on a disk that may be full: whoever logs that something failed has something to do about it."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
