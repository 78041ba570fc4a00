"""One look at a page: who asks, in which language and colours, and how pages become endpoints.

Owns the guard (no session, no page) and the check of form tokens. Handlers are plain functions of a `Visit`; the
synchronous ones run in the server's thread pool because they read the books.
"""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from steelyard.console.house import ConsoleHouse
from steelyard.console.i18n import CATALOGUES, HTML_LANG, Words, choose_language
from steelyard.console.look import Look
from steelyard.console.sessions import Brake, Session, Sessions
from steelyard.kernel.errors import CallerError

ROOT = "/console"
SESSION_COOKIE = "steelyard_session"
LANGUAGE_COOKIE = "steelyard_lang"
THEME_COOKIE = "steelyard_theme"
THEMES = ("auto", "light", "dark")
_YEAR_S = 365 * 24 * 3600
_LOOPBACK = ("127.0.0.1", "::1")
_ADDRESS_CHARACTERS = 45  # of the longest IPv6 address


@dataclass(frozen=True, slots=True)
class Desk:
    """What every page of one process shares."""

    house: ConsoleHouse
    look: Look
    sessions: Sessions
    brake: Brake


class Visit:
    """One request for a page."""

    def __init__(self, desk: Desk, request: Request) -> None:
        self.desk = desk
        self.request = request
        asked, cookies = request.query_params, request.cookies
        accept = request.headers.get("accept-language")
        self.words = Words(choose_language(asked.get("lang"), cookies.get(LANGUAGE_COOKIE), accept))
        theme = next((t for t in (asked.get("theme"), cookies.get(THEME_COOKIE)) if t in THEMES), "auto")
        self.theme = theme
        operators = desk.house.snapshot.operators
        found = desk.sessions.read(cookies.get(self._session_cookie), operators)
        self.fresh = False  # whether the answer brings the session to the browser
        self.session: Session = found or desk.sessions.visitor()

    @property
    def signed_in(self) -> bool:
        return not self.session.visitor

    @property
    def path(self) -> str:
        return self.request.url.path

    @property
    def _session_cookie(self) -> str:
        """A browser keeps cookies by machine: without the port in the name, two platforms on one would sign each
        other's operators out."""
        port = self.request.headers.get("host", "").rpartition(":")[2]
        return f"{SESSION_COOKIE}_{port}" if port.isdecimal() and port.isascii() else SESSION_COOKIE

    @property
    def address(self) -> str:
        """Whose brake it is: who speaks to us, or whom a proxy on this machine speaks for, by what it says last."""
        client = self.request.client.host if self.request.client else ""
        told = self._told("x-forwarded-for") if client in _LOOPBACK else ""
        return told or client

    @property
    def scheme(self) -> str:
        """What the visitor speaks, where a proxy that speaks TLS for us says so."""
        return "https" if self._told("x-forwarded-proto") == "https" else self.request.url.scheme

    def _told(self, header: str) -> str:
        return self.request.headers.get(header, "").rpartition(",")[2].strip()[:_ADDRESS_CHARACTERS]

    def query(self, name: str) -> str:
        return self.request.query_params.get(name, "").strip()

    def link(self, **changed: str) -> str:
        """This page with some query fields changed (an empty value removes one); for switches that work as links."""
        kept = dict(self.request.query_params) if self.request.method in {"GET", "HEAD"} else {}
        fields = {key: value for key, value in (kept | changed).items() if value}
        return f"{self.path}?{urlencode(fields)}" if fields else self.path

    def page(self, template: str, status: int = 200, **values: object) -> Response:
        """A rendered page with the frame's words and switches filled in."""
        frame: dict[str, object] = {
            "t": self.words,
            "language": self.words.language,
            "languages": tuple(CATALOGUES),
            "html_lang": HTML_LANG[self.words.language],
            "theme": self.theme,
            "themes": THEMES,
            "signed_in": self.signed_in,
            "token": self.desk.sessions.form_token(self.session),
            "root": ROOT,
            "path": self.path,
            "link": self.link,
        }
        return self.dressed(HTMLResponse(self.desk.look.render(template, frame | values), status))

    def to(self, path: str) -> Response:
        return self.dressed(RedirectResponse(path, 303))

    def dressed(self, answer: Response) -> Response:
        """The answer with the cookies this visit settled: a session that begins, and choices made by link.

        No other answer brings a session: with a form or picture of another site a browser sends none, and an answer
        that began one would take the place of the operator's.
        """
        if self.fresh:
            self.keep_session(answer)
        for name, cookie, choices in (("lang", LANGUAGE_COOKIE, CATALOGUES), ("theme", THEME_COOKIE, THEMES)):
            value = self.query(name)
            if value in choices:
                self._keep(answer, cookie, value, _YEAR_S)
        return answer

    def keep_session(self, answer: Response) -> None:
        self._keep(answer, self._session_cookie, self.desk.sessions.cookie(self.session), None)

    def check_token(self, token: str) -> None:
        """Raises CallerError 403 when a form was not shown to this visitor."""
        if not self.desk.sessions.token_fits(self.session, token):
            raise CallerError(403, "form_expired", "This form belongs to another sign-in. Open the page again.")

    def _keep(self, answer: Response, cookie: str, value: str, seconds: int | None) -> None:
        secure = self.scheme == "https"
        answer.set_cookie(cookie, value, seconds, path=ROOT, secure=secure, httponly=True, samesite="lax")


Handler = Callable[[Visit], Response] | Callable[[Visit], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]


def endpoint(desk: Desk, handler: Handler, *, guarded: bool = True) -> Endpoint:
    """A handler as an endpoint. Guarded ones send whoever is not signed in to the sign-in page."""

    async def answer(request: Request) -> Response:
        visit = Visit(desk, request)
        if guarded and not visit.signed_in:
            back = visit.link(lang="", theme="") if request.method == "GET" else ROOT
            return visit.to(f"{ROOT}/login?{urlencode({'next': back})}")
        try:
            if inspect.iscoroutinefunction(handler):
                result: Response = await handler(visit)
                return result
            return await run_in_threadpool(handler, visit)  # type: ignore[arg-type]  # the union is decided above
        except CallerError as error:
            return error_page(visit, error.status, message(visit.words, error))

    return answer


def message(words: Words, error: CallerError) -> str:
    """What a person is told of an error: our words for its code, else the error's own sentence."""
    return words.either(f"error.{error.code}", error.message)


def error_page(visit: Visit, status: int, sentence: str) -> Response:
    return visit.page("error.html", status, number=status, sentence=sentence)
