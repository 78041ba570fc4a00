"""Which web pages may ask the API from a browser (Fetch standard, CORS protocol).

Owns the preflight answer and the headers of the others. The console and the admin API are never opened to other pages:
their sessions are cookies. Keys travel in a header a page sets itself, so no credentials are allowed beside it.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from steelyard.gateway.wire import Headers, Receive, Scope, Send, header

ORIGIN = b"origin"
_CLOSED = ("/console", "/admin")
_PREFLIGHT_KEPT_S = 600

App = Callable[[Scope, Receive, Send], Awaitable[None]]


def with_cors(app: App, origins: str) -> App:
    """The application, open to pages of these origins: comma-separated, `*` for any, empty for none."""
    allowed = frozenset(origin.strip().rstrip("/") for origin in origins.split(",")) - {""}
    return _Cors(app, allowed) if allowed else app


class _Cors:
    def __init__(self, app: App, allowed: frozenset[str]) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = header(scope, ORIGIN) if scope["type"] == "http" else None
        if origin is None or not self._opens(origin, scope["path"]):
            await self._app(scope, receive, send)
            return
        extra: Headers = [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", b"*"),
            (b"vary", b"origin"),
        ]
        if scope["method"] == "OPTIONS" and header(scope, b"access-control-request-method") is not None:
            wanted = header(scope, b"access-control-request-headers") or ""
            extra += [
                (b"access-control-allow-methods", b"GET, POST, DELETE"),
                (b"access-control-allow-headers", wanted.encode("latin-1")),
                (b"access-control-max-age", b"%d" % _PREFLIGHT_KEPT_S),
                (b"content-length", b"0"),
            ]
            await send({"type": "http.response.start", "status": 204, "headers": extra})
            await send({"type": "http.response.body", "body": b""})
            return

        async def send_open(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        await self._app(scope, receive, send_open)

    def _opens(self, origin: str, path: str) -> bool:
        return ("*" in self._allowed or origin in self._allowed) and not path.startswith(_CLOSED)
