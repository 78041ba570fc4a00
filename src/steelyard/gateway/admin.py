"""The admin API under /admin/v1: the office's commands and the reports over HTTP, for the holder of an operator key.

Owns authentication, decoding (strict records, every field at fault named) and the shape of answers and errors.
Translates, never decides; what can be asked stands in `operations.py`.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from steelyard.gateway.errors import error_body, error_headers
from steelyard.gateway.figures import with_texts
from steelyard.gateway.operation import AdminHouse, Call, Operation
from steelyard.gateway.operations import OPERATIONS
from steelyard.identity.keys import bearer, is_operator, operator_name
from steelyard.kernel.errors import CallerError, bad_request, unknown_key


def admin_routes(house: AdminHouse) -> list[Route]:
    """The routes of the table, bound to a house."""
    return [Route(one.path, _endpoint(house, one), methods=[one.method], name=one.name) for one in OPERATIONS]


def _endpoint(house: AdminHouse, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            secret = bearer(request.headers.get("authorization"))
            if not is_operator(house.snapshot, secret):
                raise unknown_key()
            answer = await operation.run(house, await _call(operation, request, operator_name(house.snapshot, secret)))
        except CallerError as error:
            headers = {str(name, "latin-1"): str(value, "latin-1") for name, value in error_headers(error)}
            return Response(error_body(error), error.status, headers)
        return Response(msgspec.json.encode(with_texts(answer)), operation.status, media_type="application/json")

    return endpoint


async def _call(operation: Operation, request: Request, operator: str) -> Call:
    for name in request.query_params:
        if operation.query is None:
            raise bad_request(f"'{name}' is not a parameter of this operation.", name)
    return Call(
        place=_converted(operation.place, dict(request.path_params)),
        query=_converted(operation.query, dict(request.query_params)),
        body=await _body(operation, request),
        header=request.headers.get,
        operator=operator,
    )


def _converted(struct: type[msgspec.Struct] | None, values: dict[str, Any]) -> Any:
    if struct is None:
        return None
    try:
        return msgspec.convert(values, struct, strict=False)
    except msgspec.ValidationError as error:
        raise field_error(str(error)) from None


async def _body(operation: Operation, request: Request) -> Any:
    if operation.body is None:
        return None
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > operation.body_bytes_max:
            raise CallerError(413, "body_too_large", f"The body is larger than {operation.body_bytes_max} bytes.")
        pieces.append(piece)
    try:
        return msgspec.json.decode(b"".join(pieces), type=operation.body)
    except msgspec.ValidationError as error:
        raise field_error(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"The body is not valid JSON: {error}.", code="invalid_json") from None


def field_error(text: str) -> CallerError:
    """The decoder's sentence, with the field it is about lifted into `param`."""
    sentence, _, place = text.partition(" - at `$")
    path = place.rstrip("`").lstrip(".")
    if not path and " field `" in sentence:
        path = sentence.rpartition(" field `")[2].rstrip("`")
    return bad_request(f"'{path}': {sentence}." if path else f"{sentence}.", path or None)
