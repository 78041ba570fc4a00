"""The console as one ASGI application. All its paths start with /console, so it is given requests unchanged.

Owns the routes. The border adds the security headers; whatever goes wrong ends in an error page of the same dress.
"""

import os
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from steelyard.console import engines, overview, playground, prices, requests, sign_in
from steelyard.console.house import ConsoleHouse
from steelyard.console.look import Border, look, secure
from steelyard.console.sessions import Brake, Sessions
from steelyard.console.visits import ROOT, Desk, Handler, Visit, endpoint, error_page


def console_app(house: ConsoleHouse, *, random_bytes: Callable[[int], bytes] = os.urandom) -> Starlette:
    """The application. Reads templates and static files once."""
    desk = Desk(house, look(), Sessions(house.secret, house.clock, random_bytes), Brake(house.clock))

    def page(path: str, handler: Handler, method: str = "GET", *, guarded: bool = True) -> Route:
        return Route(ROOT + path, endpoint(desk, handler, guarded=guarded), methods=[method])

    async def static(request: Request) -> Response:
        return desk.look.static.answer(request.path_params["version"], request.path_params["name"])

    async def slash(request: Request) -> Response:
        return RedirectResponse(ROOT, 308)

    async def http_error(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        visit = Visit(desk, request)
        answer = error_page(visit, status, visit.words.either(f"error.{status}", visit.words("error.404")))
        if isinstance(error, HTTPException) and error.headers:
            answer.headers.update(error.headers)
        secure(answer.headers)  # Starlette answers a bug outside of the border
        return answer

    return Starlette(
        routes=[
            page("/login", sign_in.form, guarded=False),
            page("/login", sign_in.sign_in, "POST", guarded=False),
            page("/logout", sign_in.sign_out, "POST"),
            page("", overview.show),
            page("/overview/live", overview.live),
            page("/requests", requests.show),
            page("/requests/live", requests.live),
            page("/requests/{request_id}", requests.detail),
            page("/prices", prices.show),
            page("/engines", engines.show),
            page("/engines/live", engines.live),
            page("/engines/{name}/drain", engines.drain, "POST"),
            page("/engines/{name}/restart", engines.restart, "POST"),
            page("/playground", playground.show),
            page("/playground", playground.ask, "POST"),
            page("/playground/stream", playground.stream, "POST"),
            Route(ROOT + "/static/{version}/{name}", static),
            Route(ROOT + "/", slash),
        ],
        middleware=[Middleware(Border)],
        exception_handlers={HTTPException: http_error, 500: http_error},
    )
