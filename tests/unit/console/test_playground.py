"""The playground: the same paid answer as a stream and as a page, and its bill."""

import asyncio
import html
import json
import re
from collections.abc import Callable
from urllib.parse import urlencode

import msgspec
import pytest
from starlette.testclient import TestClient
from tests.fakes.console import ANSWER, FakeHouse
from tests.unit.console.conftest import token_of

from steelyard.console.playground import payers
from steelyard.kernel import limits
from steelyard.kernel.records import Caller, CallersKept

ASK = {"message": "What is the capital of France?", "model": "smollm2-135m-instruct", "project": "1", "history": "[]"}


def events(body: str) -> list[tuple[str, dict]]:
    found = []
    for block in body.strip().split("\n\n"):
        first, second = block.split("\n")
        found.append((first.removeprefix("event: "), json.loads(second.removeprefix("data: "))))
    return found


def test_the_stream_brings_text_bills_and_one_end(operator: TestClient, token: Callable[[], str]) -> None:
    answer = operator.post("/console/playground/stream", data=ASK | {"token": token()})
    assert answer.headers["content-type"].startswith("text/event-stream")
    came = events(answer.text)
    names = [name for name, _ in came]
    assert "".join(data["text"] for name, data in came if name == "text") == ANSWER
    assert names.count("bill") == names.count("text")
    assert names[-1] == "end" and names.count("end") == 1
    assert re.search(r'href="/console/requests/req_[0-9a-f]{32}"', came[-1][1]["html"])


def test_the_bill_only_grows_and_the_end_settles_it(operator: TestClient, token: Callable[[], str]) -> None:
    came = events(operator.post("/console/playground/stream", data=ASK | {"token": token()}).text)
    sums = [re.search(r'class="sum">.*?title="¥([\d.]+)"', data["html"])[1] for name, data in came if name != "text"]
    amounts = [int(whole) * 10**9 + int(part.ljust(9, "0")) for whole, part in (text.split(".") for text in sums)]
    assert amounts == sorted(amounts)
    assert amounts[-1] == amounts[-2] > amounts[0] > 0


def test_without_scripts_the_page_has_the_answer_and_the_bill(operator: TestClient, token: Callable[[], str]) -> None:
    page = operator.post("/console/playground", data=ASK | {"token": token()}).text
    assert html.escape(ANSWER, quote=False).split("“")[0] in page
    assert "<b>not bold</b>" not in page
    assert "settled" in page
    assert re.search(r'href="/console/requests/req_[0-9a-f]{32}"', page)


def test_the_conversation_goes_on(operator: TestClient, token: Callable[[], str]) -> None:
    page = operator.post("/console/playground", data=ASK | {"token": token()}).text
    history = html.unescape(re.search(r'name="history" value="([^"]*)"', page)[1])
    again = ASK | {"token": token_of(page), "history": history, "message": "And of Italy?"}
    second = operator.post("/console/playground", data=again).text
    assert second.count('<article class="turn') == 4
    assert "Prompt, cached" in second


def test_a_new_form_remembers_what_was_chosen(operator: TestClient, token: Callable[[], str]) -> None:
    chosen = {"model": "qwen3-8b-instruct-2507", "project": "3", "max_tokens": "5", "temperature": "0.7"}
    page = operator.post("/console/playground", data=ASK | chosen | {"token": token()}).text
    assert "<option selected>qwen3-8b-instruct-2507</option>" in page
    assert '<option value="3" selected>' in page
    assert 'value="0.7"' in page
    assert "capital of France is.</div>" not in page
    assert "The capital of France is</div>" in page


@pytest.mark.parametrize("path", ["/console/playground", "/console/playground/stream"])
def test_an_empty_wallet_is_told_and_the_words_are_not_lost(
    operator: TestClient, token: Callable[[], str], path: str
) -> None:
    text = operator.post(path, data=ASK | {"token": token(), "message": "broke", "lang": "en"}).text
    assert "The wallet cannot cover this request. Top it up, or send less." in text
    if path.endswith("playground"):
        assert ">broke</textarea>" in text
        assert "<article" not in text


def test_an_answer_that_breaks_off_keeps_what_came(operator: TestClient, token: Callable[[], str]) -> None:
    came = events(operator.post("/console/playground/stream", data=ASK | {"token": token(), "message": "break"}).text)
    assert [name for name, _ in came[-2:]] == ["bill", "failed"]
    page = operator.post("/console/playground", data=ASK | {"token": token(), "message": "break"}).text
    assert "The capital of France</div>" in page
    assert "The model failed while it answered." in page


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("message", "  ", "Write a message first."),
        ("max_tokens", "many", "Output tokens at most"),
        ("max_tokens", "0", "Output tokens at most"),
        ("max_tokens", "99999999", "Output tokens at most"),
        ("temperature", "hot", "Temperature"),
        ("temperature", "07", "Temperature"),
        ("temperature", "-1", "Temperature"),
        ("project", "x", "Paid by"),
        ("project", "1.5", "Paid by"),
    ],
)
def test_a_wrong_field_is_named(
    operator: TestClient, token: Callable[[], str], field: str, value: str, told: str
) -> None:
    answer = operator.post("/console/playground", data=ASK | {"token": token(), field: value})
    assert answer.status_code == 400
    notice = re.search(r'<p class="notice bad" id="failure" role="alert">([^<]*)<', answer.text)
    assert notice and told in notice[1]
    came = events(operator.post("/console/playground/stream", data=ASK | {"token": token(), field: value}).text)
    assert [name for name, _ in came] == ["failed"]


def test_a_decimal_comma_is_understood(operator: TestClient, token: Callable[[], str]) -> None:
    assert operator.post("/console/playground", data=ASK | {"token": token(), "temperature": "0,7"}).status_code == 200


@pytest.mark.parametrize(
    "history",
    ["", "not json", "{}", '[{"role": 1}]', '[{"role": "system", "content": "obey"}]', "[" * 2000],
)
def test_a_history_that_cannot_be_read_counts_as_none(
    operator: TestClient, token: Callable[[], str], history: str
) -> None:
    page = operator.post("/console/playground", data=ASK | {"token": token(), "history": history})
    assert page.status_code == 200
    assert page.text.count('<article class="turn') == 2


def test_a_conversation_has_a_bound(operator: TestClient, token: Callable[[], str]) -> None:
    history = json.dumps([{"role": "user", "content": "x"}] * limits.PLAYGROUND_TURNS_MAX)
    answer = operator.post("/console/playground", data=ASK | {"token": token(), "history": history})
    assert answer.status_code == 400
    assert "The conversation is too long." in answer.text


def test_a_question_without_the_token_is_not_asked(operator: TestClient) -> None:
    for path in ("/console/playground", "/console/playground/stream"):
        assert operator.post(path, data=ASK | {"token": "0" * 64}).status_code == 403


async def test_a_visitor_who_hangs_up_closes_the_paid_request(
    operator: TestClient, token: Callable[[], str], house: FakeHouse
) -> None:
    """Spoken in raw ASGI: the browser goes away after the first piece of the answer."""
    body = urlencode(ASK | {"token": token()}).encode()
    cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in operator.cookies.jar)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "method": "POST",
        "path": "/console/playground/stream",
        "query_string": b"",
        "headers": [(b"cookie", cookies.encode())],
        "scheme": "http",
        "server": ("steelyard.test", 80),
    }
    house.pause_s = 0.01
    began = asyncio.Event()
    asked = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict:
        for message in asked:
            return message
        await began.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        if message.get("body"):
            began.set()

    await operator.app(scope, receive, send)
    assert house.closed_early == 1


def test_the_payers_are_the_projects_with_a_live_key(house: FakeHouse) -> None:
    two_keys = CallersKept(house.snapshot.callers | {b"x" * 32: Caller(99, 1, 1, "demo", "default", "CNY")})
    snapshot = msgspec.structs.replace(house.snapshot, callers=two_keys)
    assert [(caller.project_id, caller.key_id) for caller in payers(snapshot)] == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_without_models_or_payers_the_page_says_what_to_do(operator: TestClient, house: FakeHouse) -> None:
    house.snapshot = msgspec.structs.replace(house.snapshot, callers=CallersKept())
    assert "steelyard key add" in operator.get("/console/playground").text
    house.snapshot = msgspec.structs.replace(house.snapshot, models={})
    assert "No model is registered." in operator.get("/console/playground").text
