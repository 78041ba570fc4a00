"""Who may ask from a browser, against an application that only says yes."""

from typing import Any

import pytest

from steelyard.gateway.cors import with_cors

PAGE = "https://app.example"


async def plain(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})


async def asked(origins: str, origin: str | None, path: str = "/v1/models", **more: str) -> tuple[int, dict[str, str]]:
    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    method = "OPTIONS" if more else "GET"
    headers = {**({"origin": origin} if origin else {}), **{k.replace("_", "-"): v for k, v in more.items()}}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw}
    await with_cors(plain, origins)(scope, None, send)  # type: ignore[arg-type]
    return said[0]["status"], {name.decode(): value.decode() for name, value in said[0]["headers"]}


@pytest.mark.parametrize("origins", [PAGE, f"https://other.example, {PAGE}/", "*"])
async def test_a_page_that_may_ask_is_told_so(origins: str) -> None:
    status, headers = await asked(origins, PAGE)
    assert (status, headers["access-control-allow-origin"], headers["vary"]) == (200, PAGE, "origin")


@pytest.mark.parametrize(
    ("origins", "origin", "path"),
    [
        ("", PAGE, "/v1/models"),
        ("https://other.example", PAGE, "/v1/models"),
        ("*", None, "/v1/models"),
        ("*", PAGE, "/console/keys"),
        ("*", PAGE, "/admin/v1/keys"),
    ],
)
async def test_nobody_else_is(origins: str, origin: str | None, path: str) -> None:
    assert (await asked(origins, origin, path))[1] == {"x": "y"}


async def test_a_preflight_is_answered_for_the_headers_it_names() -> None:
    wanted = {"access_control_request_method": "POST", "access_control_request_headers": "authorization,x-stainless-os"}
    status, headers = await asked("*", PAGE, "/v1/chat/completions", **wanted)
    assert status == 204
    assert headers["access-control-allow-headers"] == "authorization,x-stainless-os"
    assert "POST" in headers["access-control-allow-methods"]
    assert (await asked(PAGE, "https://evil.example", **wanted))[0] == 200, (
        "the application answers, without permission"
    )
