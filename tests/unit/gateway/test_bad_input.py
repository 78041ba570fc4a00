"""Whatever comes in, in every dialect: a clear 4xx in its own shape, nothing charged, nothing held, the next is served.

The same bodies go wrong in the same ways everywhere (tests/fakes/bodies.py); a dialect is one good request in `ASKED`.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from tests.fakes.bodies import BROKEN, encoded, mutated, spoilt
from tests.fakes.parties import KEY, words
from tests.fakes.till import TENANT, Said, Scribe, Till

from steelyard.gateway.messages_dialect import is_messages_path
from steelyard.kernel import limits

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "m",
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": "Hi"},
            {
                "role": "assistant",
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "4"},
        ],
        "max_tokens": 5,
        "n": 1,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
        "stop": ["x"],
        "logit_bias": {"1": 1},
        "stream": False,
    },
    "/v1/completions": {"model": "m", "prompt": ["Hi", "Ho"], "max_tokens": 5, "logprobs": 1, "stop": "x"},
    "/v1/messages": {
        "model": "m",
        "max_tokens": 5,
        "system": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "f", "input": {"a": "b"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "4"}]},
        ],
        "tools": [{"name": "f", "input_schema": SCHEMA}],
        "tool_choice": {"type": "tool", "name": "f"},
        "thinking": {"type": "enabled", "budget_tokens": 5},
    },
    "/v1/messages/count_tokens": {
        "model": "m",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "tools": [{"name": "f", "input_schema": SCHEMA}],
    },
    "/v1/responses": {
        "model": "m",
        "instructions": "Be kind.",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "4"},
        ],
        "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}],
        "tool_choice": {"type": "function", "name": "f"},
        "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}},
        "reasoning": {"effort": "low"},
        "max_output_tokens": 5,
        "metadata": {"a": "b"},
        "store": False,
    },
    "/v1/embeddings": {"model": "e", "input": ["Hi", "Ho"], "encoding_format": "base64", "dimensions": 4},
    "/v1/rerank": {"model": "e", "query": "Hi", "documents": ["Ho", {"text": "Ha"}], "top_n": 1},
    "/v1/moderations": {"model": "e", "input": [{"type": "text", "text": "Hi"}]},
}
FUZZ_S = 1  # a path; no example is begun after this
PATHS = pytest.mark.parametrize("path", ASKED)


@pytest.fixture(scope="module")
def till(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Till]:
    made = Till(tmp_path_factory.mktemp("till"), Scribe(words("Hel", "lo")))
    yield made
    made.close()


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


def check_refusal(path: str, said: Said) -> None:
    """The dialect's own shape, a sentence that says something, nothing of the inside."""
    answer = said.json
    assert said.headers["content-type"] == "application/json"
    assert said.headers["x-request-id"] == said.headers["request-id"]
    if is_messages_path(path):
        assert set(answer) == {"type", "error", "request_id"} and answer["type"] == "error"
        assert set(answer["error"]) == {"type", "message", "code", "param"}
        assert answer["request_id"] == said.headers["request-id"]
    else:
        assert set(answer) == {"error"} and set(answer["error"]) == {"message", "type", "param", "code"}
    error = answer["error"]
    assert len(error["message"]) > 10 and error["type"] and error["code"]
    assert "Traceback" not in error["message"] and "steelyard." not in error["message"]


class Judge:
    """Asks, and looks afterwards at what is left of the wallet."""

    def __init__(self, till: Till, runner: asyncio.Runner) -> None:
        self._till = till
        self._runner = runner

    def ask(self, path: str, body: bytes, *pieces: bytes, headers: dict[str, str] | None = None) -> Said:
        teller = self._till.teller
        before, settled = teller.available(TENANT), len(self._till.settled)
        said = self._runner.run(self._till.ask(path, body, *pieces, headers=headers))
        charged = self._till.settle()
        assert teller.open_holds == 0 and teller.held(TENANT) == 0, "nothing stays held"
        assert teller.available(TENANT) == before - charged
        assert teller.complaints() == []
        if said.status == 200:
            return said
        assert 400 <= said.status < 500, (said.status, said.body, body[:2000])
        check_refusal(path, said)
        assert charged == 0 and len(self._till.settled) == settled, "nothing was opened"
        return said

    def refused(self, path: str, body: bytes, *pieces: bytes, headers: dict[str, str] | None = None) -> Said:
        said = self.ask(path, body, *pieces, headers=headers)
        assert said.status != 200, body[:2000]
        assert self.ask(path, encoded(ASKED[path])).status == 200, "the next request is served"
        return said


@pytest.fixture
def judge(till: Till, runner: asyncio.Runner) -> Judge:
    return Judge(till, runner)


@PATHS
def test_the_good_request_is_one(judge: Judge, path: str) -> None:
    assert judge.ask(path, encoded(ASKED[path])).status == 200


@PATHS
@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_json_object_is_refused(judge: Judge, path: str, what: str) -> None:
    assert judge.refused(path, BROKEN[what]).status == 400


def test_no_place_that_sells_is_left_out(judge: Judge, till: Till) -> None:
    """The other names of `/v1/messages` are asked these."""
    others = till.app.hot.keys() - ASKED.keys()
    assert all(is_messages_path(path) for path in others), f"{others}: a new place needs a good request in `ASKED`"
    for path in others:
        for what, body in BROKEN.items():
            assert judge.ask(path, body).status == 400, (path, what)


NO_KEYS = {
    "none": {"authorization": ""},
    "another scheme": {"authorization": f"Basic {KEY}"},
    "no secret": {"authorization": "Bearer "},
    "unknown": {"authorization": f"Bearer {KEY}x"},
    "no ASCII": {"authorization": "Bearer \xff\xfe"},
    "very long": {"authorization": "Bearer " + "x" * 60_000},
    "a zero byte": {"authorization": f"Bearer {KEY}\0"},
}


@PATHS
@pytest.mark.parametrize("what", NO_KEYS)
def test_who_has_no_key_is_refused_before_his_body_is_read(judge: Judge, path: str, what: str) -> None:
    said = judge.refused(path, b"{", headers=NO_KEYS[what])
    assert (said.status, said.headers["www-authenticate"]) == (401, "Bearer")


@PATHS
def test_what_no_dialect_serves_is_refused(judge: Judge, path: str) -> None:
    for what, body in spoilt(ASKED[path]):
        status = judge.refused(path, body).status
        assert status == {"an unknown model": 404, "too large": 413}.get(what, 400), what


@PATHS
def test_a_field_that_stands_there_twice_is_named(judge: Judge, path: str) -> None:
    good = json.dumps(ASKED[path], indent=1).encode()
    assert judge.ask(path, good).status == 200
    error = judge.refused(path, good.rstrip()[:-1] + b', "model": "other"}').json["error"]
    assert error["param"] == "model" and "twice" in error["message"]


@PATHS
def test_one_thing_wrong_anywhere_harms_nobody(judge: Judge, path: str) -> None:
    end_s = time.monotonic() + FUZZ_S

    @settings(max_examples=150, database=None, derandomize=True)
    @given(mutated(ASKED[path]))
    def try_one(body: bytes) -> None:
        if time.monotonic() < end_s:
            judge.ask(path, body)

    try_one()
    assert judge.ask(path, encoded(ASKED[path])).status == 200


@PATHS
@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/xml"])
def test_json_is_served_whatever_it_is_called_and_nothing_else(judge: Judge, path: str, kind: str) -> None:
    """curl says that it sends a form unless told otherwise."""
    headers = {"content-type": kind}
    assert judge.ask(path, encoded(ASKED[path]), headers=headers).status == 200
    assert judge.refused(path, b"model=m", headers=headers).status == 400


@PATHS
def test_a_body_that_never_ends_is_cut_off(judge: Judge, path: str) -> None:
    pieces = [b" " * 2**20] * (limits.BODY_BYTES_MAX // 2**20 + 5)
    assert judge.refused(path, b"{", *pieces).status == 413


TALKS = pytest.mark.parametrize("path", [path for path in ASKED if "messages" in ASKED[path]])


@TALKS
def test_ten_thousand_messages_are_the_most(judge: Judge, path: str) -> None:
    turn = {"role": "user", "content": "Hi"}
    asked = {**ASKED[path], "messages": [turn] * limits.MESSAGES_MAX}
    said = judge.ask(path, encoded(asked))
    assert said.status == 200 or "context" in said.json["error"]["message"], "only counting has a bound of its own"
    error = judge.refused(path, encoded({**asked, "messages": [*asked["messages"], turn]})).json["error"]
    assert error["param"] == "messages"


@TALKS
@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"tools": [{}]}, "tools[0]"),
        ({"stop_sequences": [""], "stop": [""]}, None),
        ({"tool_choice": {"type": "function", "function": {"name": "nobody"}, "name": "nobody"}}, None),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, None),
        ({"messages": [{"role": "user"}]}, None),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(
    judge: Judge, path: str, changes: dict[str, Any], param: str | None
) -> None:
    error = judge.refused(path, encoded({**ASKED[path], **changes})).json["error"]
    assert error["param"], error
    assert param is None or error["param"].startswith(param)


@TALKS
def test_a_schema_that_says_nothing_is_one(judge: Judge, path: str) -> None:
    name = "input_schema" if is_messages_path(path) else "parameters"
    tool = {"name": "f", name: {}}
    offered = [tool if is_messages_path(path) else {"type": "function", "function": tool}]
    assert judge.ask(path, encoded({**ASKED[path], "tools": offered})).status == 200


def test_what_is_unknown_is_named_in_a_header(judge: Judge) -> None:
    for path, asked in ASKED.items():
        if path.endswith("count_tokens"):
            continue
        said = judge.ask(path, encoded({**asked, "flavour": 1e9, "line\r\nbreak": None, "sécret": [1]}))
        assert said.headers["x-steelyard-ignored"] == "flavour,s?cret"
