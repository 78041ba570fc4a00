"""Files and jobs in the database. Every function works in the caller's transaction, in the one thread that writes.

A row of `files` is what makes content visible: it is put in when the content is on the medium. Another project's id is
an unknown id. Knows no socket, no HTTP and no bytes of a file.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace
from sqlalchemy import Connection, Row, delete, func, insert, or_, select, update

from steelyard.jobs.records import BATCH_PURPOSE, Job, JobState, Page, StoredFile
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, bad_request, overloaded
from steelyard.kernel.settled import End
from steelyard.storage import tables

_files, _jobs = tables.files.c, tables.jobs.c
_OPEN = tuple(state.value for state in JobState if not state.ended)
_JSON_FIELDS = ("metadata", "problems")


# --- files ----------------------------------------------------------------------------------------------------------


def add_file(connection: Connection, file: StoredFile) -> None:
    """Raises CallerError 429 when the tenant's room is taken."""
    size = func.coalesce(func.sum(_files.size_bytes), 0)
    count, taken = connection.execute(select(func.count(), size).where(_files.tenant_id == file.tenant_id)).one()
    if count >= limits.FILES_PER_TENANT_MAX or taken + file.size_bytes > limits.FILES_BYTES_PER_TENANT_MAX:
        raise CallerError(
            429,
            "too_many_files",
            f"Your organisation may keep {limits.FILES_PER_TENANT_MAX} files with "
            f"{limits.FILES_BYTES_PER_TENANT_MAX // 2**30} GiB. Delete some.",
        )
    put_file(connection, file)


def put_file(connection: Connection, file: StoredFile) -> None:
    """Put the row in, whatever is there already."""
    connection.execute(insert(tables.files).values(msgspec.structs.asdict(file)))


def get_file(connection: Connection, project_id: int, file_id: bytes | None, now_ns: int) -> StoredFile:
    """Raises CallerError 404."""
    query = select(tables.files).where(_files.id == file_id, _files.project_id == project_id, _lives(now_ns))
    row = None if file_id is None else connection.execute(query).one_or_none()
    if row is None:
        raise CallerError(404, "file_not_found", "There is no file with this id.", param="file_id")
    return _file(row)


def list_files(
    connection: Connection, project_id: int, purpose: str | None, now_ns: int, page: Page
) -> list[StoredFile]:
    """A page of a project's files, and one more when there is more."""
    query = select(tables.files).where(_files.project_id == project_id, _lives(now_ns))
    if purpose is not None:
        query = query.where(_files.purpose == purpose)
    return [_file(row) for row in connection.execute(_paged(query, _files.id, page))]


def delete_file(connection: Connection, file: StoredFile) -> None:
    """Raises CallerError 409 while a batch reads it."""
    if connection.execute(select(_jobs.id).where(_jobs.input_id == file.id, _jobs.state.in_(_OPEN)).limit(1)).first():
        raise CallerError(409, "file_in_use", "A batch that has not ended reads this file. Cancel the batch first.")
    connection.execute(delete(tables.files).where(_files.id == file.id))


def expire_files(connection: Connection, now_ns: int) -> list[bytes]:
    """Delete rows of files whose time is over, a bounded number, and return their ids. What a batch reads stays."""
    used = select(_jobs.input_id).where(_jobs.state.in_(_OPEN))
    query = select(_files.id).where(_files.expires_ns <= now_ns, _files.id.not_in(used)).limit(limits.FILES_SWEPT_MAX)
    found = list(connection.execute(query).scalars())
    connection.execute(delete(tables.files).where(_files.id.in_(found)))
    return found


def known_content(connection: Connection) -> set[bytes]:
    """Ids of all content that is a file, or is becoming one."""
    known = set(connection.execute(select(_files.id)).scalars())
    for row in connection.execute(select(_jobs.output_id, _jobs.error_id).where(_jobs.state.in_(_OPEN))):
        known.update(row)
    return known


# --- jobs -----------------------------------------------------------------------------------------------------------


def add_job(connection: Connection, job: Job) -> None:
    """Raises CallerError 404 or 400 for its input, 429 when too many of the tenant's have not ended."""
    file = get_file(connection, job.project_id, job.input_id, job.created_ns)
    if file.purpose != BATCH_PURPOSE:
        raise bad_request(
            f"The file's purpose is {file.purpose!r}; a batch reads one of purpose 'batch'.", "input_file_id"
        )
    open_jobs = select(func.count()).where(_jobs.tenant_id == job.tenant_id, _jobs.state.in_(_OPEN))
    if connection.execute(open_jobs).scalar_one() >= limits.BATCHES_OPEN_PER_TENANT_MAX:
        raise overloaded(f"{limits.BATCHES_OPEN_PER_TENANT_MAX} batches have not ended yet.", limits.LINE_WAIT_S[-1])
    connection.execute(insert(tables.jobs).values(values_of(job)))


def get_job(connection: Connection, project_id: int | None, job_id: bytes | None) -> Job:
    """A project's job; of any project without one. Raises CallerError 404."""
    query = select(tables.jobs).where(_jobs.id == job_id)
    if project_id is not None:
        query = query.where(_jobs.project_id == project_id)
    row = None if job_id is None else connection.execute(query).one_or_none()
    if row is None:
        raise CallerError(404, "batch_not_found", "There is no batch with this id.", param="batch_id")
    return _job(row)


def list_jobs(connection: Connection, project_id: int | None, page: Page) -> list[Job]:
    """A page of a project's jobs or of all, and one more when there is more."""
    query = select(tables.jobs)
    if project_id is not None:
        query = query.where(_jobs.project_id == project_id)
    return [_job(row) for row in connection.execute(_paged(query, _jobs.id, page))]


def open_jobs(connection: Connection) -> list[Job]:
    """Those that have not ended, the oldest first."""
    query = select(tables.jobs).where(_jobs.state.in_(_OPEN)).order_by(_jobs.id)
    return [_job(row) for row in connection.execute(query)]


def change_job(connection: Connection, job: Job) -> None:
    """Write the job as it is now."""
    values = values_of(job)
    connection.execute(update(tables.jobs).where(_jobs.id == values.pop("id")).values(values))


def cancelling(job: Job, now_ns: int) -> Job:
    """The job on its way to being cancelled. Raises CallerError 409 when it is at its end already."""
    if job.state not in {JobState.VALIDATING, JobState.IN_PROGRESS, JobState.CANCELLING}:
        text = f"The batch is {job.state.value}: there is nothing to cancel."
        raise CallerError(409, "batch_not_cancellable", text)
    return replace(job, state=JobState.CANCELLING, cancelling_ns=job.cancelling_ns or now_ns)


def uncounted(connection: Connection, request_ids: Sequence[bytes]) -> list[bytes]:
    """Which of these died with their worker before anything of them was counted. One that is not posted yet is not."""
    usage = tables.usage.c
    prompt = usage.input + usage.cached_input + usage.cache_write + usage.reused_input
    nothing = prompt + usage.output + usage.reasoning + usage.reused_output == 0
    query = select(usage.request_id).where(
        usage.request_id.in_(request_ids), usage.end == End.WORKER_DIED.value, nothing
    )
    return list(connection.execute(query).scalars())


# --- pages ----------------------------------------------------------------------------------------------------------


def _paged(query: Any, column: Any, page: Page) -> Any:
    """The query, for one row more than the page has."""
    if page.after is not None:
        query = query.where(column < page.after if page.newest_first else column > page.after)
    return query.order_by(column.desc() if page.newest_first else column).limit(page.limit + 1)


def _lives(now_ns: int) -> Any:
    return or_(_files.expires_ns.is_(None), _files.expires_ns > now_ns)


def _file(row: Row[Any]) -> StoredFile:
    return StoredFile(*(getattr(row, name) for name in StoredFile.__struct_fields__))


def _job(row: Row[Any]) -> Job:
    plain = {name: getattr(row, name) for name in Job.__struct_fields__}
    for name in _JSON_FIELDS:
        plain[name] = msgspec.json.decode(plain[name])
    return msgspec.convert(plain, Job)


def values_of(job: Job) -> dict[str, Any]:
    """The row of a job."""
    values = msgspec.structs.asdict(job)
    for name in _JSON_FIELDS:
        values[name] = msgspec.json.encode(values[name]).decode()
    return values | {"state": job.state.value}
