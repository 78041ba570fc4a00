"""A worker's loop over jobs: asks the books for one when there is room, and runs it.

Owns how many run at once and what happens when one cannot go on: it stays the worker's and is tried again. A worker
that ends leaves its jobs to the books, which give them to another once its journal is settled.
"""

import asyncio

import msgspec
import structlog

from steelyard.jobs.records import Job, job_text
from steelyard.jobs.run import House, JobLost, Run
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError

log = structlog.get_logger()


class Runner:
    """One per worker. `run` until it is cancelled."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._running: dict[bytes, asyncio.Task[None]] = {}

    async def run(self) -> None:
        try:
            while True:
                if len(self._running) < limits.JOBS_PER_WORKER_MAX:
                    await self._look()
                await asyncio.sleep(limits.JOB_LOOK_S)
        finally:
            for task in self._running.values():
                task.cancel()
            if self._running:
                await asyncio.wait(self._running.values())

    async def _look(self) -> None:
        """Take one job, if the books have one."""
        desk = self._house.desk
        try:
            found = await desk.command("job.claim", {"series": desk.series, "jobs": [*self._running]})
        except CallerError:  # the books are away
            return
        if found is not None:
            job = msgspec.convert(found, Job)
            self._running[job.id] = asyncio.ensure_future(self._work(job))

    async def _work(self, job: Job) -> None:
        try:
            await Run(self._house, job).run()
        except JobLost:
            log.warning("job_lost", job=job_text(job.id))
        except Exception as error:
            if isinstance(error, OSError | CallerError):
                log.warning("job_interrupted", job=job_text(job.id), reason=str(error))
            else:
                log.exception("job_failed", job=job_text(job.id))
            await asyncio.sleep(limits.JOB_RETRY_S)
        finally:
            self._running.pop(job.id, None)
