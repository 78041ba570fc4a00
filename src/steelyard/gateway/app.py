"""The public application: the hot URLs straight to the flow, everything else through Starlette's router.

Owns the small endpoints (models, receipts, health, metrics) and the last catch of every request. The console and the
admin API come as one application, which is handed what lies under /console and /admin.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from steelyard.flow import House
from steelyard.gateway.admission import Admission
from steelyard.gateway.batches import Batches
from steelyard.gateway.chat_dialect import Chat
from steelyard.gateway.completion_dialect import Completions
from steelyard.gateway.embedding_dialect import Embeddings
from steelyard.gateway.errors import error_body, error_headers, internal_error
from steelyard.gateway.exchange import Hot, HotUrl, id_headers, refuse
from steelyard.gateway.files import Files
from steelyard.gateway.messages_count import CountUrl
from steelyard.gateway.messages_dialect import BASES, Messages, is_messages_path
from steelyard.gateway.models import anthropic_list, anthropic_model, openai_list, openai_model
from steelyard.gateway.moderation_dialect import Moderations
from steelyard.gateway.once import Desk, Once
from steelyard.gateway.public_places import DOCUMENT_PATH, document_text
from steelyard.gateway.rerank_dialect import Rerank
from steelyard.gateway.responses_dialect import Responses
from steelyard.gateway.responses_exchange import ResponsesExchange
from steelyard.gateway.responses_places import ResponsePlaces
from steelyard.gateway.responses_store import Store
from steelyard.gateway.wire import AsgiWire, Receive, Scope, Send
from steelyard.identity.keys import authenticate, bearer, is_operator
from steelyard.jobs.content import Content
from steelyard.kernel.errors import CallerError, unavailable, unknown_key, unknown_model
from steelyard.kernel.ids import Ids, id_from_text
from steelyard.kernel.offers import Model
from steelyard.routing.choose import sold_names
from steelyard.routing.figures import text_of

log = structlog.get_logger()
CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
RESPONSES_PATH = "/v1/responses"
EMBEDDINGS_PATH = "/v1/embeddings"
RERANK_PATH = "/v1/rerank"
MODERATIONS_PATH = "/v1/moderations"
_ANTHROPIC = "anthropic-version"
_OF_PROXIES = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
PAGES_PATHS = ("/console/", "/admin/")


class Office(Desk, Protocol):
    """The books' counter: named operations with a payload."""

    @property
    def connected(self) -> bool: ...


def json_response(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def error_response(error: CallerError) -> Response:
    headers = {str(k, "latin-1"): str(v, "latin-1") for k, v in error_headers(error)}
    return Response(error_body(error), error.status, headers)


class Endpoints:
    """The endpoints beside the hot one."""

    def __init__(self, house: House, office: Office) -> None:
        self._house = house
        self._office = office

    async def models(self, request: Request) -> Response:
        """In Anthropic's shape for clients that say which version of it they speak."""
        models = self._models(request)
        listed = anthropic_list if _ANTHROPIC in request.headers else openai_list
        return json_response(listed([*models.values()]))

    async def model(self, request: Request) -> Response:
        models = self._models(request)
        name = request.path_params["name"]
        if name not in models:
            raise unknown_model(name)
        shown = anthropic_model if _ANTHROPIC in request.headers else openai_model
        return json_response(shown(models[name]))

    def _models(self, request: Request) -> dict[str, Model]:
        """What a caller may ask for. Raises CallerError 401."""
        snapshot = self._house.teller.snapshot
        authenticate(snapshot, Messages().authorization(dict(request.headers.raw)))
        return sold_names(snapshot)

    async def receipt(self, request: Request) -> Response:
        """A customer sees his own tenant's receipts; an id of another tenant is unknown to him. `?export=1` answers
        the file that `steelyard receipt check` reads."""
        caller = authenticate(self._house.teller.snapshot, request.headers.get("authorization"))
        try:
            request_id = id_from_text(request.path_params["request_id"])
        except ValueError:
            raise CallerError(404, "receipt_not_found", "There is no receipt with this id.") from None
        payload = {"request_id": request_id, "tenant_id": caller.tenant_id}
        if request.query_params.get("export") == "1":
            lines = await self._office.command("receipt.export", payload)
            return Response(lines, media_type="application/x-ndjson")
        return json_response(await self._office.command("receipt", payload))

    async def document(self, request: Request) -> Response:
        return Response(document_text(), media_type="application/json")

    async def alive(self, request: Request) -> Response:
        return json_response({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Ready when money can be held and something can be sold."""
        if not self._office.connected:
            raise unavailable("books_unavailable", "The books are not connected.")
        return json_response({"status": "ok", "models": sorted(self._house.teller.snapshot.models)})

    async def metrics(self, request: Request) -> Response:
        """Prometheus text: without a key from this machine; elsewhere, and through a proxy, with the operator's."""
        if not _is_from_here(request):
            secret = bearer(request.headers.get("authorization"))
            if not is_operator(self._house.teller.snapshot, secret):
                raise unknown_key()
        house = self._house
        told = text_of(house.router, house.teller.snapshot.models.values(), house.clock.monotonic_ns())
        text = await self._office.command("metrics", {}) + told
        return Response(text, media_type="text/plain; version=0.0.4")

    def routes(self) -> list[BaseRoute]:
        return [
            *(Route(f"{base}/models", self.models) for base in BASES),
            *(Route(f"{base}/models/{{name:path}}", self.model) for base in BASES),
            Route("/v1/receipts/{request_id}", self.receipt),
            Route(DOCUMENT_PATH, self.document),
            Route("/healthz", self.alive),
            Route("/readyz", self.ready),
            Route("/metrics", self.metrics),
            Route("/", lambda request: RedirectResponse("/console")),
        ]


def _is_from_here(request: Request) -> bool:
    """Whether a program of this machine asks, and not one elsewhere through a proxy that runs here."""
    if any(name in request.headers for name in _OF_PROXIES):
        return False
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


async def _caller_error(request: Request, error: Exception) -> Response:
    return error_response(error) if isinstance(error, CallerError) else error_response(internal_error())


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status in {404, 405}:
        found = nothing_there(request.method, request.url.path, status == 405)
    else:
        found = CallerError(status, "http_error", str(getattr(error, "detail", "")) or "The request failed.")
    return error_response(found)


async def _bug(request: Request, error: Exception) -> Response:
    log.error("request_failed", path=request.url.path, exc_info=error)
    return error_response(internal_error())


def rest(routes: Sequence[BaseRoute]) -> Starlette:
    """Routes beside the hot ones, whose every error is answered in the API's own shape."""
    handlers = {CallerError: _caller_error, HTTPException: _http_error, Exception: _bug}
    return Starlette(routes=routes, exception_handlers=handlers)


def nothing_there(method: str, path: str, known: bool) -> CallerError:
    """404 for a place that is none, 405 for a method that a place does not have."""
    if known:
        return CallerError(405, "method_not_allowed", f"{method} is not possible on {path}.")
    return CallerError(404, "not_found", f"There is nothing at {method} {path}.")


class PublicApp:
    """The ASGI callable of the public port."""

    def __init__(
        self,
        house: House,
        office: Office,
        ids: Ids,
        pages: ASGIApp | None = None,
        content: Content | None = None,
        *,
        stores: bool = True,
    ) -> None:
        once, store = Once(house, office), Store(office, is_open=stores)
        messages = HotUrl(Messages(), house, ids.next, once)
        count = CountUrl(Messages(), house, ids.next)
        self.hot: Mapping[str, Hot] = {
            CHAT_PATH: HotUrl(Chat(), house, ids.next, once),
            COMPLETIONS_PATH: HotUrl(Completions(), house, ids.next, once),
            RESPONSES_PATH: HotUrl(Responses(), house, ids.next, once, partial(ResponsesExchange, house, store)),
            EMBEDDINGS_PATH: HotUrl(Embeddings(), house, ids.next, once),
            RERANK_PATH: HotUrl(Rerank(), house, ids.next, once),
            MODERATIONS_PATH: HotUrl(Moderations(), house, ids.next, once),
            **{f"{base}/messages": messages for base in BASES},
            **{f"{base}/messages/count_tokens": count for base in BASES},
        }
        self.admission = Admission()
        for url in self.hot.values():
            if isinstance(url, HotUrl):
                url.admission = self.admission
        self._ids = ids
        self._pages = pages
        stored = ResponsePlaces(house, store).routes()
        kept = [] if content is None else Files(house, office, content, ids.next).routes()
        batches = [] if content is None else Batches(house, office, ids.next).routes()
        self._rest = rest([*Endpoints(house, office).routes(), *stored, *kept, *batches])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            hot = self.hot.get(scope["path"])
            if hot is not None:
                await hot(scope, receive, send)
                return
        if scope["type"] == "http" and is_messages_path(scope["path"]):
            wrong = nothing_there(scope["method"], scope["path"], scope["path"] in self.hot)
            await refuse(Messages(), AsgiWire(scope, receive, send), wrong, self._ids.next())
            return
        extra = id_headers(self._ids.next())

        async def send_with_id(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        if self._pages is not None and (scope["path"] + "/").startswith(PAGES_PATHS):
            await self._pages(scope, receive, send_with_id)
        else:
            await self._rest(scope, receive, send_with_id)
