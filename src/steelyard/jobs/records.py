"""The shapes of files and jobs, as books and workers pass them. A customer calls a job a batch.

Ids are sixteen bytes (kernel.ids); times are nanoseconds since 1970 UTC. No rules here but what follows from a state.
"""

import re
from enum import StrEnum

import msgspec

from steelyard.kernel import limits
from steelyard.kernel.frozen import Record
from steelyard.kernel.ids import text_from_id

BATCH_PURPOSE, OUTPUT_PURPOSE = "batch", "batch_output"
_FILE_ID = re.compile(r"file-([0-9a-f]{32})")
_JOB_ID = re.compile(r"batch_([0-9a-f]{32})")


class StoredFile(Record, frozen=True):
    """A file whose content is whole and on the medium."""

    id: bytes
    tenant_id: int
    project_id: int
    purpose: str
    filename: str
    size_bytes: int
    created_ns: int
    expires_ns: int | None = None


class JobState(StrEnum):
    """How far a job is; the words are those of the Batch API."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"  # its file is no batch; nothing was run
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Nobody works on it any more, and its files are there."""
        return self in (JobState.COMPLETED, JobState.FAILED, JobState.EXPIRED, JobState.CANCELLED)


class Problem(Record, frozen=True):
    """Why a file is no batch. `line` is counted from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Counts(Record, frozen=True):
    """Lines of a job: all, answered, and reported in the error file."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Job(Record, frozen=True):
    """A batch of requests. `output_id` and `error_id` are files once it has ended and something is in them."""

    id: bytes
    tenant_id: int
    project_id: int
    key_id: int
    endpoint: str
    input_id: bytes
    output_id: bytes
    error_id: bytes
    created_ns: int
    deadline_ns: int
    kept_s: int
    state: JobState = JobState.VALIDATING
    series: str = ""
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    total: int = 0
    completed: int = 0
    failed: int = 0
    problems: tuple[Problem, ...] = ()
    output_bytes: int = 0
    error_bytes: int = 0
    in_progress_ns: int | None = None
    finalizing_ns: int | None = None
    cancelling_ns: int | None = None
    ended_ns: int | None = None

    @property
    def counts(self) -> Counts:
        return Counts(self.total, self.completed, self.failed)


class Progress(Record, frozen=True):
    """What the worker of `series` says of its job, and again until the books have heard it."""

    job_id: bytes
    series: str
    state: JobState
    counts: Counts
    problems: tuple[Problem, ...] = ()
    output_bytes: int = 0
    error_bytes: int = 0


class Page(Record, frozen=True):
    """Which rows: behind `after`, newest first unless told otherwise. Ids are in the order of time."""

    after: bytes | None = None
    limit: int = limits.PAGE_ROWS
    newest_first: bool = True


def file_text(file_id: bytes) -> str:
    """`file-` and 32 hexadecimal digits."""
    return f"file-{file_id.hex()}"


def job_text(job_id: bytes) -> str:
    """`batch_` and 32 hexadecimal digits."""
    return text_from_id(job_id, "batch")


def file_id_of(text: str) -> bytes | None:
    """None when it is no id of a file."""
    found = _FILE_ID.fullmatch(text)
    return bytes.fromhex(found[1]) if found else None


def job_id_of(text: str) -> bytes | None:
    """None when it is no id of a job."""
    found = _JOB_ID.fullmatch(text)
    return bytes.fromhex(found[1]) if found else None
