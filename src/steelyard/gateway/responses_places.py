"""The places under /v1/responses/{id}: a stored response read again, its input listed, deleted; nothing is sold here.

A response of another project is unknown, as is one that was never stored, has expired or is deleted.
"""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from steelyard.flow import House
from steelyard.gateway.responses_kept import Shown, asked_in, items_in, response_of
from steelyard.gateway.responses_store import Store
from steelyard.identity.keys import authenticate
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, bad_request
from steelyard.kernel.records import Caller

PATH = "/v1/responses/{response_id}"
_PAGE = 20


class ResponsePlaces:
    """What a worker answers there."""

    def __init__(self, house: House, store: Store) -> None:
        self._house = house
        self._store = store

    def routes(self) -> list[BaseRoute]:
        return [
            Route(PATH, self.response, methods=["GET"]),
            Route(PATH, self.delete, methods=["DELETE"]),
            Route(f"{PATH}/input_items", self.input_items, methods=["GET"]),
            Route(f"{PATH}/cancel", self.cancel, methods=["POST"]),
        ]

    async def response(self, request: Request) -> Response:
        """As it was answered."""
        caller = self._caller(request)
        if request.query_params.get("stream", "false") != "false":
            raise bad_request("'stream' is not possible here: a stored response has ended. Read it without.", "stream")
        found = await self._store.find(caller, request.path_params["response_id"])
        return Response(found.body, media_type="application/json")

    async def delete(self, request: Request) -> Response:
        said = request.path_params["response_id"]
        await self._store.drop(self._caller(request), said)
        return _json({"id": said, "object": "response", "deleted": True})

    async def cancel(self, request: Request) -> Response:
        """Answers are given while their request waits: who wants one no more hangs up."""
        await self._store.find(self._caller(request), request.path_params["response_id"])
        raise CallerError(
            400, "response_ended", "This response has ended. To stop one that is being given, close its connection."
        )

    async def input_items(self, request: Request) -> Response:
        """All that the response was made from, the responses it goes on from included; latest first unless asked
        otherwise."""
        said = request.path_params["response_id"]
        page = _page_of(request)
        caller, response_id = self._caller(request), response_of(said)
        chain = await self._store.chain(caller, response_id)
        if not chain:
            own = await self._store.find(caller, said)  # what it goes on from may be gone
            chain = [own]
        items = [*items_in(chain[:-1]), *asked_in(chain[-1])]
        once = {item["id"]: item for item in items}  # who sends an answer's items again sends their ids as well
        return _json(page.of([*once.values()]))

    def _caller(self, request: Request) -> Caller:
        return authenticate(self._house.teller.snapshot, request.headers.get("authorization"))


class _Page(msgspec.Struct, frozen=True):
    after: str | None
    limit: int
    is_latest_first: bool

    def of(self, items: list[Shown]) -> dict[str, Any]:
        """Raises CallerError 404 when there is no item to begin behind."""
        ordered = items[::-1] if self.is_latest_first else items
        ids = [item["id"] for item in ordered]
        if self.after is not None and self.after not in ids:
            raise CallerError(404, "item_not_found", f"There is no item {self.after!r} to go on after.", param="after")
        begin = 0 if self.after is None else ids.index(self.after) + 1
        shown = ordered[begin : begin + self.limit]
        return {
            "object": "list",
            "data": shown,
            "first_id": shown[0]["id"] if shown else None,
            "last_id": shown[-1]["id"] if shown else None,
            "has_more": begin + self.limit < len(ordered),
        }


def _page_of(request: Request) -> _Page:
    """Raises CallerError 400."""
    query = request.query_params
    order, limit = query.get("order", "desc"), query.get("limit", str(_PAGE))
    if order not in {"asc", "desc"}:
        raise bad_request("'order' is asc or desc.", "order")
    if not limit.isdecimal() or len(limit) > 9 or not 1 <= int(limit) <= limits.INPUT_ITEMS_PAGE_MAX:
        raise bad_request(f"'limit' is a whole number from 1 to {limits.INPUT_ITEMS_PAGE_MAX}.", "limit")
    return _Page(query.get("after"), int(limit), order == "desc")


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
