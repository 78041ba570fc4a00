"""/v1/files: upload, list, retrieve, content, delete.

Owns the form, the shapes of the Files API and the way of the bytes: this worker writes them to the disk, the books put
in the row that makes them a file. A project sees its own files; another's id is unknown to it.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from steelyard.flow import House
from steelyard.gateway.multipart import Data, Multipart, Part, PartEnd, boundary_of
from steelyard.gateway.once import Desk
from steelyard.gateway.paging import listed, page_of
from steelyard.identity.keys import authenticate
from steelyard.jobs.content import Content, Receiving
from steelyard.jobs.records import BATCH_PURPOSE, StoredFile, file_id_of, file_text
from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.errors import CallerError, bad_request, overloaded
from steelyard.kernel.records import Caller

PATH = "/v1/files"
PURPOSES = (BATCH_PURPOSE, "user_data")
_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
_FIELDS = ("purpose", _ANCHOR, _SECONDS)


def kept_seconds(anchor: object, seconds: object, param: str) -> int:
    """How long a file is kept after it came. Raises CallerError 400."""
    if anchor != "created_at":
        raise bad_request(f"'{param}.anchor' must be created_at.", f"{param}.anchor")
    found = int(seconds) if isinstance(seconds, str) and seconds.isdecimal() and len(seconds) < 12 else seconds
    if not isinstance(found, int) or not limits.FILE_KEPT_S_MIN <= found <= limits.FILE_KEPT_S:
        span = f"{limits.FILE_KEPT_S_MIN} to {limits.FILE_KEPT_S}"
        raise bad_request(f"'{param}.seconds' must be {span}.", f"{param}.seconds")
    return found


def shown_file(file: StoredFile) -> dict[str, Any]:
    """A file as the Files API shows it."""
    shown: dict[str, Any] = {
        "id": file_text(file.id),
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": file.created_ns // NS_PER_S,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }
    if file.expires_ns is not None:
        shown["expires_at"] = file.expires_ns // NS_PER_S
    return shown


class Files:
    """The endpoints, one set per worker."""

    def __init__(self, house: House, desk: Desk, content: Content, next_id: Callable[[], bytes]) -> None:
        self._house = house
        self._desk = desk
        self._content = content
        self._next_id = next_id
        self._uploads = 0

    async def upload(self, request: Request) -> Response:
        caller = self._caller(request)
        form = Multipart(boundary_of(request.headers.get("content-type")))
        if self._uploads >= limits.UPLOADS_AT_ONCE_MAX:
            raise overloaded(f"{limits.UPLOADS_AT_ONCE_MAX} files are being uploaded here already.")
        self._uploads += 1
        try:
            return _json(shown_file(await self._uploaded(request, caller, form)))
        finally:
            self._uploads -= 1

    async def _uploaded(self, request: Request, caller: Caller, form: Multipart) -> StoredFile:
        upload = _Upload(self._content, self._next_id())
        async with AsyncExitStack() as unless_kept:
            unless_kept.push_async_callback(upload.abandon)
            async for piece in request.stream():
                for token in form.feed(piece):
                    await upload.take(token)
            if not form.finished:
                raise bad_request("The form is broken: it ends without its closing boundary.")
            file = await upload.finish(caller, self._house.clock.now_ns())
            try:
                await self._desk.command("file.add", msgspec.to_builtins(file, builtin_types=(bytes,)))
            except CallerError as error:
                if error.status != 503:  # else it may be in the books all the same; if not, they sweep the content
                    await upload.drop()
                raise
            unless_kept.pop_all()
        return file

    async def list_files(self, request: Request) -> Response:
        caller = self._caller(request)
        page = page_of(request.query_params, file_id_of, limits.FILES_PAGE_MAX, limits.FILES_PAGE_MAX)
        wanted = {
            "purpose": request.query_params.get("purpose"),
            "page": msgspec.to_builtins(page, builtin_types=(bytes,)),
        }
        found = await self._ask("file.list", caller, wanted, list[StoredFile])
        data = [shown_file(file) for file in found[: page.limit]]
        return _json(listed(data, len(found) > page.limit))

    async def show(self, request: Request) -> Response:
        return _json(shown_file(await self._found(request)))

    async def content(self, request: Request) -> Response:
        file = await self._found(request)
        path = self._content.path(file.id)
        return FileResponse(path, media_type="application/octet-stream", filename=file.filename)

    async def delete(self, request: Request) -> Response:
        caller, file_id = self._caller(request), file_id_of(request.path_params["file_id"])
        await self._ask("file.delete", caller, {"id": file_id}, None)
        return _json({"id": request.path_params["file_id"], "object": "file", "deleted": True})

    def routes(self) -> list[BaseRoute]:
        return [
            Route(PATH, self.upload, methods=["POST"]),
            Route(PATH, self.list_files, methods=["GET"]),
            Route(f"{PATH}/{{file_id}}", self.show, methods=["GET"]),
            Route(f"{PATH}/{{file_id}}", self.delete, methods=["DELETE"]),
            Route(f"{PATH}/{{file_id}}/content", self.content, methods=["GET"]),
        ]

    def _caller(self, request: Request) -> Caller:
        return authenticate(self._house.teller.snapshot, request.headers.get("authorization"))

    async def _found(self, request: Request) -> StoredFile:
        caller, file_id = self._caller(request), file_id_of(request.path_params["file_id"])
        found: StoredFile = await self._ask("file.get", caller, {"id": file_id}, StoredFile)
        return found

    async def _ask(self, op: str, caller: Caller, wanted: dict[str, Any], kind: Any) -> Any:
        said = await self._desk.command(op, {"project_id": caller.project_id, **wanted})
        return said if kind is None else msgspec.convert(said, kind)


class _Upload:
    """A form on its way to the disk: its fields in memory, its file in blocks."""

    def __init__(self, content: Content, file_id: bytes) -> None:
        self._content = content
        self._file_id = file_id
        self._fields: dict[str, str] = {}
        self._field: str | None = None  # the one being read; None: it is the file
        self._filename: str | None = None
        self._waiting = bytearray()
        self._size = 0
        self._receiving: Receiving | None = None
        self._whole = False

    async def take(self, token: Part | Data | PartEnd) -> None:
        match token:
            case Part(name="file", filename=filename):
                if self._filename is not None:
                    raise bad_request("Send one file at a time.", "file")
                self._field, self._filename = None, _safe_name(filename or "")
                self._receiving = await asyncio.to_thread(self._content.receive, self._file_id)
            case Part(name=name):
                if name not in _FIELDS:
                    raise bad_request(f"'{name[:64]}' is not a field of this form.", name[:64])
                self._field = name
                self._fields[name] = ""
            case Data(piece=piece) if self._field is None:
                await self._take_bytes(piece)
            case Data(piece=piece):
                self._waiting += piece
                if len(self._waiting) > limits.UPLOAD_FIELD_BYTES_MAX:
                    raise bad_request(f"'{self._field}' is too long.", self._field)
            case PartEnd() if self._field is not None:
                self._fields[self._field] = self._waiting.decode("utf-8", "replace")
                self._waiting.clear()
            case PartEnd():
                await self._flush()

    async def _take_bytes(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > limits.FILE_BYTES_MAX:
            size_mb = limits.FILE_BYTES_MAX // 2**20
            raise CallerError(413, "file_too_large", f"The file is larger than {size_mb} MB. Split it.", param="file")
        self._waiting += piece
        if len(self._waiting) >= limits.FILE_BLOCK_BYTES:
            await self._flush()

    async def _flush(self) -> None:
        block = bytes(self._waiting)
        self._waiting.clear()
        if block and self._receiving is not None:
            await asyncio.to_thread(self._receiving.write, block)

    async def finish(self, caller: Caller, now_ns: int) -> StoredFile:
        """Bring the content to the medium. Raises CallerError 400 when a field is missing or wrong."""
        purpose = self._fields.get("purpose")
        if purpose not in PURPOSES:
            raise bad_request(f"'purpose' must be one of {', '.join(PURPOSES)}.", "purpose")
        if self._receiving is None or self._filename is None:
            raise bad_request("The form has no file: send it in the field 'file'.", "file")
        if not self._size:
            raise bad_request("The file is empty.", "file")
        expires_ns = None
        if _ANCHOR in self._fields or _SECONDS in self._fields:
            kept_s = kept_seconds(self._fields.get(_ANCHOR), self._fields.get(_SECONDS), "expires_after")
            expires_ns = now_ns + kept_s * NS_PER_S
        elif purpose == BATCH_PURPOSE:
            expires_ns = now_ns + limits.FILE_KEPT_S * NS_PER_S
        await asyncio.to_thread(self._receiving.finish)
        self._whole = True
        return StoredFile(
            self._file_id,
            caller.tenant_id,
            caller.project_id,
            purpose,
            self._filename,
            self._size,
            now_ns,
            expires_ns,
        )

    async def abandon(self) -> None:
        """Forget what is not whole."""
        if not self._whole:
            await self.drop()

    async def drop(self) -> None:
        if self._receiving is not None:
            receiving, self._receiving = self._receiving, None
            await asyncio.shield(asyncio.to_thread(receiving.drop))


def _safe_name(filename: str) -> str:
    """A name for people: the last part of a path, without what cannot be printed. No path is ever made of it."""
    last = filename.replace("\\", "/").rpartition("/")[2]
    name = "".join(letter for letter in last if letter.isprintable())
    return name[: limits.FILE_NAME_CHARACTERS_MAX] or "file"


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
