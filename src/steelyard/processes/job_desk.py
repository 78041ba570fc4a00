"""Files and jobs at the books: who sees what, which worker runs which job, and what became of it.

Lives in the books' loop. A job belongs to the worker that claimed it until its journal is settled: only then may
another go on, when everything the first one sold is posted. Deletes content; reads and writes none. Knows no HTTP.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeVar

import msgspec
import structlog
from msgspec.structs import replace
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from steelyard.jobs import store
from steelyard.jobs.content import Content
from steelyard.jobs.records import OUTPUT_PURPOSE, Job, JobState, Page, Progress, StoredFile, job_text
from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, Clock
from steelyard.kernel.errors import CallerError, WriterLost, bad_request, unavailable
from steelyard.kernel.frozen import Record
from steelyard.processes.office import transaction
from steelyard.processes.posting_loop import Thread

log = structlog.get_logger()
T = TypeVar("T")


class Wanted(Record, frozen=True):
    """Of a project: one by its id, or a page."""

    project_id: int | None
    id: bytes | None = None
    page: Page = Page()
    purpose: str | None = None


class Seeking(Record, frozen=True):
    """A worker with room for a job, and those it has."""

    series: str
    jobs: tuple[bytes, ...]


class Doubted(Record, frozen=True):
    """Requests whose answers were kept by a worker that may have died."""

    requests: tuple[bytes, ...]


class JobDesk:
    """One per books process."""

    def __init__(
        self, engine: Engine, thread: Thread, clock: Clock, content: Content, seated: Callable[[str], bool]
    ) -> None:
        self._engine = engine
        self._thread = thread
        self._clock = clock
        self._content = content
        self._seated = seated
        self._open: dict[bytes, Job] = {}  # in the order they came
        self._sweeper: asyncio.Task[None] | None = None
        self._acts: dict[str, Callable[[Any], Awaitable[object]]] = {
            "file.add": self._file_add,
            "file.get": self._file_get,
            "file.list": self._file_list,
            "file.delete": self._file_delete,
            "job.add": self._job_add,
            "job.get": self._job_get,
            "job.list": self._job_list,
            "job.cancel": self._job_cancel,
            "job.claim": self._job_claim,
            "job.report": self._job_report,
            "job.uncounted": self._job_uncounted,
        }
        self._takes: dict[str, Any] = {
            "file.add": StoredFile,
            "job.add": Job,
            "job.claim": Seeking,
            "job.report": Progress,
            "job.uncounted": Doubted,
        }

    async def start(self, live: Collection[str]) -> None:
        """Take up what an earlier run left. Jobs of series that are not `live` are free."""
        self._open = {job.id: job for job in await self._transact(store.open_jobs)}
        await self._free(lambda series: series not in live)
        self._sweeper = asyncio.ensure_future(self._keep_sweeping())

    async def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])

    async def command(self, op: str, payload: dict[str, Any]) -> object:
        """The operations of a worker: file.…, job.…"""
        act = self._acts.get(op)
        if act is None:
            raise CallerError(404, "unknown_command", f"There is no command {op!r}.")
        try:
            asked = msgspec.convert(payload, self._takes.get(op, Wanted))
        except msgspec.ValidationError as error:
            raise bad_request(f"This is nothing for {op}: {error}.") from None
        return await act(asked)

    async def series_settled(self, series: str) -> None:
        """A worker is dead and everything it sold is posted: others may go on with its jobs."""
        with contextlib.suppress(CallerError, DBAPIError, WriterLost):  # the sweeper frees them later
            await self._free(lambda ended: ended == series)

    # --- files ------------------------------------------------------------------------------------------------------

    async def _file_add(self, file: StoredFile) -> object:
        if await self._in_thread(self._content.size, file.id) != file.size_bytes:
            raise unavailable("file_lost", "The file's content is not where it belongs. Upload it again.")
        await self._transact(store.add_file, file)
        return file

    async def _file_get(self, wanted: Wanted) -> object:
        return await self._transact(store.get_file, wanted.project_id, wanted.id, self._clock.now_ns())

    async def _file_list(self, wanted: Wanted) -> object:
        now_ns = self._clock.now_ns()
        return await self._transact(store.list_files, wanted.project_id, wanted.purpose, now_ns, wanted.page)

    async def _file_delete(self, wanted: Wanted) -> object:
        file = await self._transact(store.get_file, wanted.project_id, wanted.id, self._clock.now_ns())
        await self._transact(store.delete_file, file)
        await self._in_thread(self._content.remove, file.id)
        return None

    # --- jobs -------------------------------------------------------------------------------------------------------

    async def _job_add(self, job: Job) -> object:
        await self._transact(store.add_job, job)
        self._open[job.id] = job
        log.info("job_added", job=job_text(job.id), tenant=job.tenant_id)
        return job

    async def _job_get(self, wanted: Wanted) -> object:
        return await self._transact(store.get_job, wanted.project_id, wanted.id)

    async def _job_list(self, wanted: Wanted) -> object:
        return await self._transact(store.list_jobs, wanted.project_id, wanted.page)

    async def _job_cancel(self, wanted: Wanted) -> object:
        """Its worker stops at the next report and brings it to its end."""
        job = await self._transact(store.get_job, wanted.project_id, wanted.id)
        job = self._open.get(job.id, job)
        asked_for = store.cancelling(job, self._clock.now_ns())
        if asked_for != job:
            job = await self._change(job, state=asked_for.state, cancelling_ns=asked_for.cancelling_ns)
        return job

    async def _job_claim(self, seeking: Seeking) -> object:
        """A job for this worker to run, or None: one that it has and does not know of, else of whom fewest are run."""
        if not self._seated(seeking.series):
            raise unavailable("books_unavailable", "The worker is not known to the books.")
        for job in self._open.values():
            if job.series == seeking.series and job.id not in seeking.jobs:
                return job
        free = [job for job in self._open.values() if not job.series]
        if not free:
            return None
        running = Counter(job.tenant_id for job in self._open.values() if job.series)
        fairest = min(free, key=lambda job: running[job.tenant_id])  # of equals the oldest
        return await self._change(fairest, series=seeking.series)

    async def _job_report(self, progress: Progress) -> object:
        """Take what the worker says, and answer the state it has to go on in. Saying it twice changes nothing."""
        job = self._open.get(progress.job_id)
        if job is None or job.series != progress.series:
            raise CallerError(409, "job_lost", "This job is not the worker's any more.")
        counts = progress.counts
        values: dict[str, Any] = {"total": counts.total, "completed": counts.completed, "failed": counts.failed}
        now_ns = self._clock.now_ns()
        if progress.state.ended:
            return (await self._end(job, progress, values, now_ns)).state
        cancelling = job.state is JobState.CANCELLING
        if progress.state is not job.state and not cancelling:
            values["state"] = progress.state
            if progress.state is JobState.IN_PROGRESS:
                values["in_progress_ns"] = job.in_progress_ns or now_ns
            if progress.state is JobState.FINALIZING:
                values["finalizing_ns"] = job.finalizing_ns or now_ns
        if any(getattr(job, name) != value for name, value in values.items()):
            job = await self._change(job, **values)
        return job.state

    async def _job_uncounted(self, doubted: Doubted) -> object:
        return await self._transact(store.uncounted, doubted.requests)

    async def _end(self, job: Job, progress: Progress, values: dict[str, Any], now_ns: int) -> Job:
        ended = replace(
            job,
            **values,
            state=progress.state,
            series="",
            problems=progress.problems,
            output_bytes=progress.output_bytes,
            error_bytes=progress.error_bytes,
            ended_ns=now_ns,
        )
        del self._open[job.id]  # from here on the row is what counts, also for a cancellation that comes now
        try:
            await self._transact(_write_end, ended)
        except BaseException:
            self._open[job.id] = job
            raise
        for file_id, size_bytes in ((job.output_id, ended.output_bytes), (job.error_id, ended.error_bytes)):
            if not size_bytes:
                await self._in_thread(self._content.remove, file_id)
        log.info("job_ended", job=job_text(job.id), state=ended.state.value, lines=ended.total)
        return ended

    async def _change(self, job: Job, **values: Any) -> Job:
        """Write it first; then it counts. What changed while it was written stays."""
        before = self._open[job.id] = replace(job, **values)
        try:
            await self._transact(store.change_job, before)
        except BaseException:
            if self._open.get(job.id) is before:
                self._open[job.id] = job
            raise
        return self._open.get(job.id, before)

    async def _free(self, over: Callable[[str], bool]) -> None:
        for job in list(self._open.values()):
            if job.series and over(job.series):
                log.info("job_freed", job=job_text(job.id), series=job.series)
                await self._change(job, series="")

    # --- housekeeping -----------------------------------------------------------------------------------------------

    async def _keep_sweeping(self) -> None:
        while True:
            with contextlib.suppress(CallerError, DBAPIError, WriterLost, OSError):  # the next sweep is soon
                await self.sweep()
            await asyncio.sleep(limits.FILES_SWEEP_S)

    async def sweep(self) -> None:
        """Delete files whose time is over, and content that nobody knows of."""
        for file_id in await self._transact(store.expire_files, self._clock.now_ns()):
            await self._in_thread(self._content.remove, file_id)
        known = await self._transact(store.known_content)
        await self._in_thread(self._content.sweep, known, self._clock.now_ns())

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.to_thread(work, *arguments)

    async def _transact(self, act: Callable[..., T], *arguments: Any) -> T:
        def work() -> T:
            with transaction(self._engine) as connection:
                return act(connection, *arguments)

        return await self._thread.run(work)


def _write_end(connection: Any, job: Job) -> None:
    """The end of a job and the files it leaves become visible together."""
    expires_ns = (job.ended_ns or job.created_ns) + job.kept_s * NS_PER_S
    for file_id, size_bytes, name in (
        (job.output_id, job.output_bytes, "output"),
        (job.error_id, job.error_bytes, "error"),
    ):
        if size_bytes:
            filename = f"{job_text(job.id)}_{name}.jsonl"
            store.put_file(
                connection,
                StoredFile(
                    file_id,
                    job.tenant_id,
                    job.project_id,
                    OUTPUT_PURPOSE,
                    filename,
                    size_bytes,
                    job.ended_ns or job.created_ns,
                    expires_ns,
                ),
            )
    store.change_job(connection, job)
