"""/v1/batches: create, list, retrieve, cancel.

Owns the fields and shapes of the Batch API. A batch is what the books call a job; a worker runs it (jobs/runner.py).
A project sees its own batches; another's id is unknown to it.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from steelyard.flow import House
from steelyard.gateway.batch_lines import ENDPOINTS
from steelyard.gateway.files import kept_seconds
from steelyard.gateway.json_body import read_json
from steelyard.gateway.once import Desk
from steelyard.gateway.paging import listed, page_of
from steelyard.identity.keys import authenticate
from steelyard.jobs.records import Job, JobState, file_id_of, file_text, job_id_of, job_text
from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.errors import CallerError, bad_request
from steelyard.kernel.records import Caller

PATH = "/v1/batches"
_WINDOW = "24h"

MetadataKey = Annotated[str, Meta(min_length=1, max_length=limits.BATCH_METADATA_KEY_CHARACTERS_MAX)]
MetadataValue = Annotated[str, Meta(max_length=limits.BATCH_METADATA_VALUE_CHARACTERS_MAX)]


class ExpiresAfter(msgspec.Struct):
    anchor: str
    seconds: int


class NewBatch(msgspec.Struct, kw_only=True):
    """The fields of a batch; one nobody knows is refused."""

    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"]
    metadata: Annotated[dict[MetadataKey, MetadataValue], Meta(max_length=limits.BATCH_METADATA_MAX)] | None = None
    output_expires_after: ExpiresAfter | None = None


_new_batch_decoder = msgspec.json.Decoder(NewBatch)
_ENDED_FIELDS = {
    JobState.COMPLETED: "completed_at",
    JobState.FAILED: "failed_at",
    JobState.EXPIRED: "expired_at",
    JobState.CANCELLED: "cancelled_at",
}


def read_batch(body: bytes) -> tuple[NewBatch, bytes, int]:
    """The fields, the id of the input file, and how long what comes out is kept. Raises CallerError 400."""
    asked, fields = read_json(body, _new_batch_decoder)
    unknown = fields.keys() - set(NewBatch.__struct_fields__)
    if unknown:
        name = min(unknown)
        raise bad_request(f"'{name}' is not a field of a batch.", name)
    if asked.endpoint not in ENDPOINTS:
        raise bad_request(f"'endpoint' must be one of {', '.join(ENDPOINTS)}.", "endpoint")
    input_id = file_id_of(asked.input_file_id)
    if input_id is None:
        raise CallerError(404, "file_not_found", "There is no file with this id.", param="input_file_id")
    kept_s = limits.FILE_KEPT_S
    if asked.output_expires_after is not None:
        after = asked.output_expires_after
        kept_s = kept_seconds(after.anchor, after.seconds, "output_expires_after")
    return asked, input_id, kept_s


def shown_batch(job: Job) -> dict[str, Any]:
    """A job as the Batch API shows it. Every field is there; what is not known yet is null."""
    problems = [msgspec.to_builtins(problem) for problem in job.problems]
    shown: dict[str, Any] = {
        "id": job_text(job.id),
        "object": "batch",
        "endpoint": job.endpoint,
        "errors": {"object": "list", "data": problems} if problems else None,
        "input_file_id": file_text(job.input_id),
        "completion_window": _WINDOW,
        "status": job.state.value,
        "output_file_id": file_text(job.output_id) if job.output_bytes else None,
        "error_file_id": file_text(job.error_id) if job.error_bytes else None,
        "created_at": job.created_ns // NS_PER_S,
        "in_progress_at": _seconds(job.in_progress_ns),
        "expires_at": job.deadline_ns // NS_PER_S,
        "finalizing_at": _seconds(job.finalizing_ns),
        **dict.fromkeys(_ENDED_FIELDS.values()),
        "cancelling_at": _seconds(job.cancelling_ns),
        "request_counts": {"total": job.total, "completed": job.completed, "failed": job.failed},
        "metadata": job.metadata or None,
    }
    if job.state in _ENDED_FIELDS:
        shown[_ENDED_FIELDS[job.state]] = _seconds(job.ended_ns)
    return shown


def _seconds(ns: int | None) -> int | None:
    return None if ns is None else ns // NS_PER_S


class Batches:
    """The endpoints, one set per worker."""

    def __init__(self, house: House, desk: Desk, next_id: Callable[[], bytes]) -> None:
        self._house = house
        self._desk = desk
        self._next_id = next_id

    async def create(self, request: Request) -> Response:
        caller = self._caller(request)
        asked, input_id, kept_s = read_batch(await _body(request))
        now_ns = self._house.clock.now_ns()
        job = Job(
            id=self._next_id(),
            tenant_id=caller.tenant_id,
            project_id=caller.project_id,
            key_id=caller.key_id,
            endpoint=asked.endpoint,
            input_id=input_id,
            output_id=self._next_id(),
            error_id=self._next_id(),
            created_ns=now_ns,
            deadline_ns=now_ns + limits.BATCH_WINDOW_S * NS_PER_S,
            kept_s=kept_s,
            metadata=asked.metadata or {},
        )
        return _answer(await self._desk.command("job.add", msgspec.to_builtins(job, builtin_types=(bytes,))))

    async def list_jobs(self, request: Request) -> Response:
        caller = self._caller(request)
        page = page_of(request.query_params, job_id_of, limits.BATCHES_PAGE, limits.BATCHES_PAGE_MAX)
        said = await self._ask("job.list", caller, page=msgspec.to_builtins(page, builtin_types=(bytes,)))
        found = msgspec.convert(said, list[Job])
        data = [shown_batch(job) for job in found[: page.limit]]
        return Response(msgspec.json.encode(listed(data, len(found) > page.limit)), media_type="application/json")

    async def show(self, request: Request) -> Response:
        return _answer(await self._ask("job.get", self._caller(request), id=_id(request)))

    async def cancel(self, request: Request) -> Response:
        return _answer(await self._ask("job.cancel", self._caller(request), id=_id(request)))

    def routes(self) -> list[BaseRoute]:
        return [
            Route(PATH, self.create, methods=["POST"]),
            Route(PATH, self.list_jobs, methods=["GET"]),
            Route(f"{PATH}/{{batch_id}}", self.show, methods=["GET"]),
            Route(f"{PATH}/{{batch_id}}/cancel", self.cancel, methods=["POST"]),
        ]

    def _caller(self, request: Request) -> Caller:
        return authenticate(self._house.teller.snapshot, request.headers.get("authorization"))

    async def _ask(self, op: str, caller: Caller, **wanted: Any) -> Any:
        return await self._desk.command(op, {"project_id": caller.project_id, **wanted})


def _id(request: Request) -> bytes | None:
    return job_id_of(request.path_params["batch_id"])


def _answer(said: Any) -> Response:
    return Response(msgspec.json.encode(shown_batch(msgspec.convert(said, Job))), media_type="application/json")


async def _body(request: Request) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > limits.FORM_BYTES_MAX:
            raise CallerError(413, "body_too_large", f"The body is larger than {limits.FORM_BYTES_MAX} bytes.")
        pieces.append(piece)
    return b"".join(pieces)
