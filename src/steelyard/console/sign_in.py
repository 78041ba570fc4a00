"""Sign in with the operator key, sign out. Knows keys only as a hash look-up; a wrong one is never echoed or logged."""

import re

from starlette.responses import Response

from steelyard.console.forms import read_form
from steelyard.console.visits import ROOT, Visit
from steelyard.identity.keys import is_operator
from steelyard.kernel.ids import secret_hash

_OWN_PAGE = re.compile(r"/console(?:/[\w./-]*)?(?:\?[\w%&=.+~-]*)?\Z", re.ASCII)


def form(visit: Visit) -> Response:
    if visit.signed_in:
        return visit.to(ROOT)
    return _form(visit, _own_page(visit.query("next")))


async def sign_in(visit: Visit) -> Response:
    """Check the key; the brake comes first, so that guessing costs no look-up."""
    fields = await read_form(visit.request)
    visit.check_token(fields.get("token", ""))
    onward = _own_page(fields.get("next", ""))
    brake, address = visit.desk.brake, visit.address
    wait_s = brake.wait_s(address)
    if wait_s:
        answer = _form(visit, onward, 429, visit.words("login.wait", seconds=wait_s))
        answer.headers["retry-after"] = str(wait_s)
        return answer
    key = fields.get("key", "").strip()
    if not is_operator(visit.desk.house.snapshot, key):
        brake.wrong(address)
        return _form(visit, onward, 401, visit.words("login.wrong"))
    visit.session, visit.fresh = visit.desk.sessions.operator(secret_hash(key)), True
    return visit.to(onward)


async def sign_out(visit: Visit) -> Response:
    fields = await read_form(visit.request)
    visit.check_token(fields.get("token", ""))
    visit.session, visit.fresh = visit.desk.sessions.visitor(), True
    return visit.to(f"{ROOT}/login")


def _form(visit: Visit, onward: str, status: int = 200, wrong: str | None = None) -> Response:
    """Its token is that of the visitor's session, which comes with it."""
    visit.fresh = True
    return visit.page("login.html", status, next=onward, wrong=wrong)


def _own_page(path: str) -> str:
    """Only a page of this console may follow the sign-in."""
    return path if _OWN_PAGE.match(path) and "//" not in path and ".." not in path else ROOT
