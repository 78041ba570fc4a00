"""`steelyard batches`: customers' batches, how far they are, and their end."""

import click
from sqlalchemy import Connection, select

from steelyard.cli.desk import Desk
from steelyard.cli.epilog import examples
from steelyard.cli.listing import Listing
from steelyard.cli.options import at_desk
from steelyard.cli.show import Row, Show, count, moment, words
from steelyard.gateway.batches import shown_batch
from steelyard.jobs.records import Job, Page, job_id_of, job_text
from steelyard.jobs.store import get_job, list_jobs
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError
from steelyard.storage import tables

_COLUMNS = (
    words("Batch", "batch"),
    words("Tenant", "tenant"),
    words("Endpoint", "endpoint"),
    words("Status", "status"),
    count("Lines", "total"),
    count("Answered", "completed"),
    count("Failed", "failed"),
    moment("Created", "created_ns"),
    moment("Ended", "ended_ns"),
    words("Worker", "worker"),
)


@click.group(
    cls=Listing,
    epilog=examples(
        "steelyard batches list",
        "steelyard batches show batch_01a21cca07ab70008616043714653e5a",
        "steelyard batches cancel batch_01a21cca07ab70008616043714653e5a",
    ),
)
def batches() -> None:
    """Batches: files of requests that customers leave to be answered within a day."""


@batches.command("list")
@click.option("--limit", type=click.IntRange(1, limits.PAGE_ROWS_MAX), default=limits.PAGE_ROWS, show_default=True)
@at_desk
def batches_list(desk: Desk, show: Show, limit: int) -> None:
    """The latest batches of all tenants."""
    with desk.read() as connection:
        rows = [_row(connection, job) for job in list_jobs(connection, None, Page(limit=limit))[:limit]]
    show.rows(rows, _COLUMNS, "No customer has sent a batch yet.")


@batches.command("show")
@click.argument("batch")
@at_desk
def batches_show(desk: Desk, show: Show, batch: str) -> None:
    """One batch; with --json as its customer sees it."""
    with desk.read() as connection:
        job = get_job(connection, None, _id_of(batch))
        row = _row(connection, job)
    if show.as_json:
        show.json(shown_batch(job))
        return
    show.rows([row], _COLUMNS, "")
    for problem in job.problems:
        where = "" if problem.line is None else f"line {problem.line}: "
        show.line(f"{where}{problem.message} ({problem.code})")


@batches.command("cancel")
@click.argument("batch")
@at_desk
def batches_cancel(desk: Desk, show: Show, batch: str) -> None:
    """End a batch: lines that run are finished, the others are reported as cancelled."""
    said = desk.command("job.cancel", {"project_id": None, "id": _id_of(batch)})
    show.say(f"{batch} is {said['state']}.", {"id": batch, "status": said["state"]})


def _id_of(text: str) -> bytes:
    found = job_id_of(text)
    if found is None:
        raise CallerError(404, "batch_not_found", f"{text!r} is no id of a batch. See 'steelyard batches list'.")
    return found


def _row(connection: Connection, job: Job) -> Row:
    columns = tables.tenants.c
    tenant = connection.execute(select(columns.name).where(columns.id == job.tenant_id)).scalar_one()
    return {
        "batch": job_text(job.id),
        "tenant": tenant,
        "endpoint": job.endpoint,
        "status": job.state.value,
        "total": job.total,
        "completed": job.completed,
        "failed": job.failed,
        "created_ns": job.created_ns,
        "ended_ns": job.ended_ns,
        "worker": job.series,
    }
