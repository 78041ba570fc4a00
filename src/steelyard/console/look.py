"""How pages are made: templates, static files under a content hash, and the headers every answer carries.

Owns the strict Content-Security-Policy (no inline script, no inline style, nothing from elsewhere). Knows no data.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from jinja2 import Environment, FunctionLoader, StrictUndefined
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def secure(headers: MutableHeaders) -> None:
    """Put the security headers in place, and forbid storing unless the answer says otherwise."""
    for name, value in _HEADERS.items():
        headers[name] = value
    headers.setdefault("cache-control", "no-store")


class Border:
    """Secures every answer of the application it wraps."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                secure(MutableHeaders(scope=message))
            await send(message)

        await self._app(scope, receive, dressed)


class Static:
    """Our own CSS, JS and images, read once. All share one hash of all of them, so relative imports stay true."""

    def __init__(self, folder: Traversable) -> None:
        self._files = {file.name: file.read_bytes() for file in folder.iterdir() if _suffix(file.name) in _TYPES}
        digest = hashlib.sha256()
        for name, content in sorted(self._files.items()):
            digest.update(name.encode() + b"\0" + content + b"\0")
        self.version = digest.hexdigest()[:16]

    def url(self, name: str) -> str:
        if name not in self._files:
            raise KeyError(name)
        return f"/console/static/{self.version}/{name}"

    def answer(self, version: str, name: str) -> Response:
        """The file, kept for ever under its hash; an outdated hash gets today's file, not to be kept."""
        content = self._files.get(name)
        if content is None:
            raise HTTPException(404)
        keep = "public, max-age=31536000, immutable" if version == self.version else "no-store"
        return Response(content, media_type=_TYPES[_suffix(name)], headers={"cache-control": keep})


class Look:
    """The templates and the static files of the console."""

    def __init__(self) -> None:
        package = files("steelyard.console")
        self.static = Static(package / "static")
        templates = package / "templates"
        self._environment = Environment(
            loader=FunctionLoader(lambda name: (templates / name).read_text(encoding="utf-8")),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.globals["asset"] = self.static.url

    def render(self, template: str, values: Mapping[str, object]) -> str:
        return self._environment.get_template(template).render(values)


@cache
def look() -> Look:
    """The one look of this process: it holds nothing but files of the package."""
    return Look()


def _suffix(name: str) -> str:
    return "." + name.rpartition(".")[2]
