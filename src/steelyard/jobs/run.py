"""One job from its input file to its output files, in the worker that claimed it.

Every line is a paid request of its own, and its answer leaves user space when it stands in the output file on the
medium: only then is it counted. So a line that was charged always has its answer, a line without one was charged
nothing, and whoever goes on after a crash runs just the lines without a result. Decides nothing about money.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple, Protocol

import msgspec

from steelyard.jobs import input_lines
from steelyard.jobs.content import Content
from steelyard.jobs.input_lines import Line
from steelyard.jobs.records import Counts, Job, JobState, Problem, Progress
from steelyard.jobs.results import LineError, Results
from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, Clock
from steelyard.kernel.errors import CallerError

_EXPIRED = LineError("batch_expired", "This request did not run before the batch's completion window ended.")
_CANCELLED = LineError("batch_cancelled", "This request did not run before the batch was cancelled.")
_UPSTREAM_STATUS = 502
_GONE_MODEL_STATUS = 404


class JobLost(Exception):
    """The books gave the job to nobody or somebody else: whatever this worker still knows of it is old."""


class LineAsk(NamedTuple):
    """One line to be served. `keep` puts its answer on the medium and raises OSError when it cannot."""

    endpoint: str
    body: bytes
    key_id: int
    request_id: bytes
    keep: Callable[[bytes], Awaitable[None]]
    deadline_ns: int = 0  # of its batch


class Said(NamedTuple):
    """What became of it: kept, or a refusal; nothing of that was sold. `retry_after_s` is set when waiting helps."""

    status: int
    body: bytes = b""
    retry_after_s: int | None = None

    @property
    def kept(self) -> bool:
        return self.status == 200


class Gate(Protocol):
    """The dialects and the flow behind them; `gateway.batch_lines` in a worker."""

    async def serve(self, line: LineAsk) -> Said:
        """Raises OSError when the answer could not be kept."""

    def offers(self, model: str) -> bool:
        """Whether a caller may ask for this model at the moment."""


class Desk(Protocol):
    """The books, as a worker of `series` reaches them."""

    @property
    def series(self) -> str: ...
    async def command(self, op: str, payload: dict[str, Any]) -> Any: ...


class House(NamedTuple):
    """What a worker needs to run jobs. `lines` bounds how many of all its jobs run at once."""

    desk: Desk
    gate: Gate
    content: Content
    clock: Clock
    next_id: Callable[[], bytes]
    lines: asyncio.Semaphore
    pullers: int  # lines of one job at once


class Run:
    """Raises JobLost, OSError when the disk refuses, and CallerError 503 when the books stay away."""

    def __init__(self, house: House, job: Job) -> None:
        self._house = house
        self._job = job
        self._state = job.state
        self._total = job.total
        self._over = asyncio.Event()  # no further line is begun
        self._results: Results | None = None

    async def run(self) -> None:
        """Return when the job has ended, in the books too."""
        house, job = self._house, self._job
        if not house.content.path(job.input_id).exists():
            await self._insist(JobState.FAILED, problems=(Problem("file_lost", "The input file is not there."),))
            return
        if job.state is JobState.CANCELLING:
            self._over.set()
        if not job.total and not await self._validated():
            return
        self._results = results = await asyncio.to_thread(Results, house.content, job)
        async with contextlib.AsyncExitStack() as ending:
            ending.push_async_callback(results.close)
            await self._forget_uncounted(results)
            watch = asyncio.ensure_future(self._keep_reporting())
            ending.push_async_callback(_cancelled, watch)
            await self._until_over(self._run_lines(results), watch)
            self._over.set()
            if self._state is not JobState.CANCELLING:
                await self._insist(JobState.FINALIZING)
            final, why = self._ending()
            if results.completed + results.failed < self._total:
                await self._leave_out(results, why)
            await self._end(final, results)

    async def _validated(self) -> bool:
        """Look at the whole file; end the job when it is no batch."""
        house, job = self._house, self._job
        checked = await asyncio.to_thread(input_lines.check, house.content.path(job.input_id), job.endpoint)
        problems = checked.problems
        if not problems and not await self._is_offered(checked.model):
            text = f"The model {checked.model!r} does not exist. GET /v1/models lists what you can ask for."
            problems = (Problem("model_not_found", text, 1, "body.model"),)
        self._total = checked.total
        if problems:
            await self._insist(JobState.FAILED, problems=problems)
            return False
        await self._insist(JobState.IN_PROGRESS)
        return True

    async def _is_offered(self, model: str) -> bool:
        for _ in range(limits.MODEL_LOOKS_MAX):
            if self._house.gate.offers(model):
                return True
            await asyncio.sleep(limits.JOB_LOOK_S)
        return False

    async def _forget_uncounted(self, results: Results) -> None:
        """A worker that died between keeping an answer and counting it sold nothing: those lines run again."""
        last = results.last_answers
        if last:
            uncounted = await self._house.desk.command("job.uncounted", {"requests": last})
            if uncounted:
                await asyncio.to_thread(results.forget_answers, frozenset(uncounted))

    # --- lines --------------------------------------------------------------------------------------------------

    async def _run_lines(self, results: Results) -> None:
        lines = _Shared(input_lines.lines_of(self._house.content.path(self._job.input_id)))
        pullers = [asyncio.ensure_future(self._pull(lines, results)) for _ in range(self._house.pullers)]
        try:
            await asyncio.gather(*pullers)
        finally:
            await _cancelled(*pullers)

    async def _pull(self, lines: "_Shared", results: Results) -> None:
        while not self._is_over():
            line = await lines.next()
            if line is None:
                return
            if not results.has(line.custom_id):
                await self._serve(line, results)

    async def _serve(self, line: Line, results: Results) -> None:
        """Run the line, again when that may help. Without a result only when the job is over."""
        tries = 0
        while True:
            async with self._house.lines:
                if self._is_over():
                    return
                self._house.content.check_space()  # an answer that cannot be kept costs us all the same
                request_id = self._house.next_id()

                async def keep(body: bytes, request_id: bytes = request_id) -> None:
                    await results.keep(line.custom_id, request_id, body)

                ask = LineAsk(
                    self._job.endpoint, bytes(line.body), self._job.key_id, request_id, keep, self._job.deadline_ns
                )
                said = await self._house.gate.serve(ask)
            if said.kept:
                return
            tries += 1
            wait_s = self._wait_s(said, tries)
            if wait_s is None:
                await results.refuse(line.custom_id, said.status, request_id, said.body)
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._over.wait()

    def _wait_s(self, said: Said, tries: int) -> int | None:
        """How long to wait before the next try, or None when there is none. Nothing was sold so far."""
        wait_s = limits.LINE_WAIT_S[min(tries, len(limits.LINE_WAIT_S)) - 1]
        left_s = (self._job.deadline_ns - self._house.clock.now_ns()) // NS_PER_S
        if said.retry_after_s is not None:
            in_vain = 0 < left_s < said.retry_after_s  # at the very end it is one of those that expire
            return None if in_vain else min(max(wait_s, said.retry_after_s), limits.LINE_WAIT_S[-1])
        if said.status == _UPSTREAM_STATUS and tries < limits.LINE_TRIES_MAX:
            return wait_s
        if said.status == _GONE_MODEL_STATUS and b'"model_not_found"' in said.body:  # it was there; it may come back
            return wait_s
        return None

    async def _leave_out(self, results: Results, why: LineError) -> None:
        lines = _Shared(input_lines.lines_of(self._house.content.path(self._job.input_id)))
        waiting: dict[str, bytes] = {}
        while (line := await lines.next()) is not None:
            if not results.has(line.custom_id):
                waiting[line.custom_id] = self._house.next_id()
            if len(waiting) >= limits.LINES_LEFT_OUT_AT_ONCE:
                await results.leave_out(waiting, why)
                waiting = {}
        if waiting:
            await results.leave_out(waiting, why)

    # --- the end ------------------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        if self._house.clock.now_ns() >= self._job.deadline_ns:
            self._over.set()
        return self._over.is_set()

    def _ending(self) -> tuple[JobState, LineError]:
        results = self._results
        if self._state is JobState.CANCELLING:
            return JobState.CANCELLED, _CANCELLED
        whole = results is not None and results.completed + results.failed >= self._total
        return (JobState.COMPLETED if whole else JobState.EXPIRED), _EXPIRED

    async def _end(self, final: JobState, results: Results) -> None:
        output_bytes, error_bytes = results.sizes_bytes
        await self._insist(final, output_bytes=output_bytes, error_bytes=error_bytes)

    async def _until_over(self, work: Any, watch: "asyncio.Future[None]") -> None:
        """The work, unless the watch fails first."""
        working = asyncio.ensure_future(work)
        try:
            await asyncio.wait([working, watch], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancelled(working)
        if watch.done():
            await watch
        await working

    # --- what the books hear ------------------------------------------------------------------------------------

    async def _keep_reporting(self) -> None:
        """Say how far it is, and hear of a cancellation. Raises JobLost."""
        while True:
            await asyncio.sleep(limits.JOB_LOOK_S)
            self._is_over()
            with contextlib.suppress(CallerError):  # the books are away; the next report is soon
                await self._report(self._state)

    async def _insist(self, state: JobState, **values: Any) -> None:
        """Report until the books have heard it."""
        attempt = 0
        while True:
            try:
                await self._report(state, **values)
                return
            except CallerError as error:
                if error.status not in {429, 503}:
                    raise
            delay_ms = limits.RECONNECT_DELAYS_MS[min(attempt, len(limits.RECONNECT_DELAYS_MS) - 1)]
            attempt += 1
            await asyncio.sleep(delay_ms / 1000)

    async def _report(self, state: JobState, **values: Any) -> None:
        results, desk = self._results, self._house.desk
        counts = Counts(self._total)
        if results is not None:
            counts = Counts(self._total, results.completed, results.failed)
        progress = Progress(self._job.id, desk.series, state, counts, **values)
        try:
            said = await desk.command("job.report", msgspec.to_builtins(progress, builtin_types=(bytes,)))
        except CallerError as error:
            if error.code == "job_lost":
                raise JobLost from None
            raise
        self._state = JobState(said)
        if self._state is JobState.CANCELLING:
            self._over.set()


async def _cancelled(*tasks: "asyncio.Future[None]") -> None:
    """Cancel what still runs and wait for its end; what it raises then is of no interest any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _Shared:
    """Lines taken one at a time by several tasks, read in a thread."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self._turn = asyncio.Lock()

    async def next(self) -> Line | None:
        async with self._turn:
            return await asyncio.to_thread(next, self._lines, None)
