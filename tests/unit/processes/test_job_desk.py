"""Files and jobs at real books: who sees what, whose job it is, and what a restart leaves."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fakes.ledger import outside
from tests.unit.processes.test_books import House, until

from steelyard.jobs.content import Content
from steelyard.jobs.records import Counts, Job, JobState, Page, Progress, StoredFile
from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.directory import DatabaseUrl
from steelyard.kernel.errors import CallerError
from steelyard.ledger.teller_client import TellerClient


@pytest.fixture
async def house(tmp_path: Path, place: Path | DatabaseUrl) -> AsyncIterator[House]:
    house = House(tmp_path / "data", place)
    await house.furnish()
    yield house
    await house.close()


def plain(record: Any) -> Any:
    return msgspec.to_builtins(record, builtin_types=(bytes,))


async def ask(client: TellerClient, op: str, record: Any = None, **wanted: Any) -> Any:
    return await client.command(op, plain(record) if record is not None else wanted)


async def refused(client: TellerClient, op: str, record: Any = None, **wanted: Any) -> str:
    with pytest.raises(CallerError) as caught:
        await ask(client, op, record, **wanted)
    return caught.value.code


def now_ns(house: House) -> int:
    return house.requests.clock.now_ns()


async def a_file(house: House, client: TellerClient, **changes: Any) -> StoredFile:
    file_id = house.requests.ids.next()
    receiving = Content(house.data.files).receive(file_id)
    receiving.write(b"{}\n")
    receiving.finish()
    file = StoredFile(file_id, 1, 1, "batch", "in.jsonl", 3, now_ns(house))
    file = msgspec.structs.replace(file, **changes)
    await ask(client, "file.add", file)
    return file


async def a_job(house: House, client: TellerClient, input_id: bytes | None = None) -> Job:
    input_id = input_id or (await a_file(house, client)).id
    output_id, error_id, job_id = (house.requests.ids.next() for _ in range(3))
    start_ns = now_ns(house)
    job = Job(job_id, 1, 1, 1, "/v1/chat/completions", input_id, output_id, error_id, start_ns, start_ns + 10**15, 60)
    await ask(client, "job.add", job)
    return job


async def claim(client: TellerClient, *jobs: bytes) -> Job | None:
    said = await ask(client, "job.claim", series=client.series, jobs=list(jobs))
    return None if said is None else msgspec.convert(said, Job)


def progress(client: TellerClient, job: Job, state: JobState, **more: Any) -> Progress:
    return Progress(job.id, client.series, state, more.pop("counts", Counts(3, 1, 0)), **more)


@pytest.mark.postgres
async def test_a_job_from_its_file_to_its_end(house: House) -> None:
    client = await house.client(0)
    job = await a_job(house, client)
    assert await claim(client) == msgspec.structs.replace(job, series=client.series)
    assert await claim(client, job.id) is None
    assert await refused(client, "file.delete", project_id=1, id=job.input_id) == "file_in_use"
    for state in (JobState.IN_PROGRESS, JobState.IN_PROGRESS, JobState.FINALIZING):
        assert await ask(client, "job.report", progress(client, job, state)) == state
    Content(house.data.files).receive(job.output_id).finish()
    end = progress(client, job, JobState.COMPLETED, counts=Counts(3, 3, 0), output_bytes=5)
    assert await ask(client, "job.report", end) == "completed"
    assert await refused(client, "job.report", end) == "job_lost"
    shown = msgspec.convert(await ask(client, "job.get", project_id=1, id=job.id), Job)
    assert (shown.state, shown.counts, shown.series) == (JobState.COMPLETED, Counts(3, 3, 0), "")
    assert None not in (shown.in_progress_ns, shown.finalizing_ns, shown.ended_ns)
    output = msgspec.convert(await ask(client, "file.get", project_id=1, id=job.output_id), StoredFile)
    assert (output.purpose, output.size_bytes) == ("batch_output", 5)
    assert output.expires_ns == (shown.ended_ns or 0) + 60 * NS_PER_S
    assert await refused(client, "file.get", project_id=1, id=job.error_id) == "file_not_found", "nothing is in it"
    assert await refused(client, "job.cancel", project_id=1, id=job.id) == "batch_not_cancellable"
    await ask(client, "file.delete", project_id=1, id=job.input_id)
    assert not Content(house.data.files).path(job.input_id).exists()


@pytest.mark.postgres
async def test_another_projects_files_and_jobs_are_unknown(house: House) -> None:
    client = await house.client(0)
    job = await a_job(house, client)
    for op in ("file.get", "file.delete"):
        assert await refused(client, op, project_id=2, id=job.input_id) == "file_not_found"
    for op in ("job.get", "job.cancel"):
        assert await refused(client, op, project_id=2, id=job.id) == "batch_not_found"
    assert await ask(client, "file.list", project_id=2) == await ask(client, "job.list", project_id=2) == []
    theirs = msgspec.structs.replace(job, id=house.requests.ids.next(), project_id=2)
    assert await refused(client, "job.add", theirs) == "file_not_found"
    other = await a_file(house, client, purpose="user_data")
    assert await refused(client, "job.add", msgspec.structs.replace(job, input_id=other.id)) == "invalid_request"


@pytest.mark.postgres
async def test_pages(house: House) -> None:
    client = await house.client(0)
    files = [(await a_file(house, client)).id for _ in range(5)]

    async def page(**asked: Any) -> list[bytes]:
        found = await ask(client, "file.list", project_id=1, page=plain(Page(**asked)))
        return [file["id"] for file in found]

    assert await page(limit=2) == files[:1:-1], "one more than asked says that there is more"
    assert await page(limit=9, after=files[3]) == files[2::-1]
    assert await page(limit=9, after=files[1], newest_first=False) == files[2:]


async def test_a_job_waits_until_its_worker_is_settled(house: House) -> None:
    first, journal = await house.worker(0)
    second = await house.client(1)
    job = await a_job(house, second)
    assert (await claim(first)) is not None
    assert await claim(second) is None
    assert (await claim(first)) is not None, "one whose answer was lost is told again"
    assert await refused(second, "job.report", progress(second, job, JobState.IN_PROGRESS)) == "job_lost"
    await first.close()
    assert await claim(second) is None, "its journal still has a writer"
    journal.close()

    async def freed() -> Job:
        while (found := await claim(second)) is None:
            await asyncio.sleep(0.01)
        return found

    assert (await asyncio.wait_for(freed(), 20)).id == job.id


async def test_books_that_come_back_leave_a_job_with_its_living_worker(house: House) -> None:
    client, _ = await house.worker(0)
    other = await house.client(1)
    job = await a_job(house, client)
    await claim(client)
    await house.close_books()
    await house.open_books()
    await until(lambda: client.connected and other.connected, "both to be back")
    assert await claim(other) is None
    assert await ask(client, "job.report", progress(client, job, JobState.IN_PROGRESS)) == "in_progress"


async def test_a_cancelled_job_is_told_so_and_stays_cancelled(house: House) -> None:
    client = await house.client(0)
    job = await a_job(house, client)
    await claim(client)
    await ask(client, "job.report", progress(client, job, JobState.IN_PROGRESS))
    shown = await ask(client, "job.cancel", project_id=1, id=job.id)
    assert shown["state"] == "cancelling" and shown["cancelling_ns"]
    assert await ask(client, "job.report", progress(client, job, JobState.IN_PROGRESS)) == "cancelling"
    assert (await ask(client, "job.cancel", project_id=1, id=job.id))["state"] == "cancelling"
    assert await ask(client, "job.report", progress(client, job, JobState.CANCELLED)) == "cancelled"


async def test_what_is_over_goes_and_what_a_batch_reads_stays(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await house.client(0)
    content = Content(house.data.files)
    over = await a_file(house, client, expires_ns=1)
    read = await a_file(house, client)
    await a_job(house, client, read.id)
    engine = outside(house.data.database)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE files SET expires_ns = 1")
    engine.dispose()
    lost = house.requests.ids.next()
    content.receive(lost).finish()
    assert await refused(client, "file.get", project_id=1, id=read.id) == "file_not_found"
    await house.books._desks._jobs.sweep()
    assert [content.path(one).exists() for one in (over.id, read.id, lost)] == [False, True, True]
    monkeypatch.setattr(limits, "FILE_UNKNOWN_S", -10)
    await house.books._desks._jobs.sweep()
    assert [content.path(one).exists() for one in (read.id, lost)] == [True, False]


async def test_bounds_of_a_tenant(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await house.client(0)
    file = await a_file(house, client)
    monkeypatch.setattr(limits, "FILES_BYTES_PER_TENANT_MAX", 5)
    with pytest.raises(CallerError) as caught:
        await a_file(house, client)
    assert (caught.value.status, caught.value.code) == (429, "too_many_files")
    monkeypatch.setattr(limits, "BATCHES_OPEN_PER_TENANT_MAX", 1)
    await a_job(house, client, file.id)
    with pytest.raises(CallerError) as caught:
        await a_job(house, client, file.id)
    assert (caught.value.status, caught.value.retry_after_s) == (429, limits.LINE_WAIT_S[-1])
    lost = msgspec.structs.replace(file, id=house.requests.ids.next())
    assert await refused(client, "file.add", lost) == "file_lost"


async def test_a_tenant_with_many_jobs_does_not_keep_others_waiting(house: House) -> None:
    client = await house.client(0)
    file = await a_file(house, client)
    mine = [await a_job(house, client, file.id) for _ in range(3)]
    theirs = msgspec.structs.replace(mine[0], id=house.requests.ids.next(), tenant_id=2)
    await ask(client, "job.add", theirs)
    claimed: list[bytes] = []
    while (job := await claim(client, *claimed)) is not None:
        claimed.append(job.id)
    assert claimed == [mine[0].id, theirs.id, mine[1].id, mine[2].id]
