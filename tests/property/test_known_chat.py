"""A chat body that is known but for its messages means what `parse_chat` says, whatever stands in it."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from steelyard.gateway import known_chat
from steelyard.gateway.chat_request import ChatOrder, parse_chat
from steelyard.gateway.chat_turns import is_canonical, plain_tokens_max
from steelyard.gateway.known_chat import KnownChats
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError

ID = bytes(range(16))
ONE = b'[{"role":"user","content":"Hi"}]'
texts = st.one_of(
    st.text(max_size=20), st.sampled_from(['"messages":[', "}]", '}],"a":1', "\\", "称\U0001f600", "\x1f"])
)
plain = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": texts})
PART = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
others: st.SearchStrategy[Any] = st.sampled_from(
    [
        {"content": "turned round", "role": "user"},
        {"role": "developer", "content": "x"},
        {"role": "user", "content": [PART]},
        {"role": "user", "content": "x", "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "x", "tool_call_id": "c"},
        {"role": "user", "content": None},
        {"role": "assistant", "content": "x", "refusal": None, "audio": None},
        {"role": "nobody", "content": "x"},
        {"role": "user", "content": [], "x": {"messages": [{}]}},
        7,
    ]
)
messages: st.SearchStrategy[Any] = st.one_of(
    st.lists(plain, min_size=1, max_size=4),
    st.lists(plain, min_size=1, max_size=4),
    st.lists(st.one_of(plain, others), max_size=4),
    st.sampled_from([None, "x", {}]),
)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
fields = st.fixed_dictionaries(
    {"model": st.sampled_from(["m", "n"])},
    optional={
        "max_tokens": st.sampled_from([1, 100, 0, None]),
        "n": st.sampled_from([1, 2]),
        "stream": st.sampled_from([True, False]),
        "temperature": st.sampled_from([0.5, 1, 3]),
        "stop": st.sampled_from(["x", ["a", "b"]]),
        "user": texts,
        "tools": st.sampled_from([[TOOL], []]),
        "tool_choice": st.just("auto"),
        "metadata": st.sampled_from([{"messages": [{"role": "user", "content": "no"}]}, {}]),
        "service_tier": st.just("auto"),
        "store": st.just(True),
        "shape": st.just([{"a": [1]}]),
        "response_format": st.just({"type": "json_object"}),
        "functions": st.just([]),
    },
)
blanks = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", ":\t ")])


def told(asked: ChatOrder) -> tuple[Any, ...]:
    order = asked.order
    return asked.include_usage, asked.unknown, asked.tier, list_of(order.params), *rest_of(order)


def list_of(params: dict[str, Any]) -> list[tuple[str, bytes]]:
    assert msgspec.json.encode(params) == msgspec.json.encode({name: Raw(bytes(raw)) for name, raw in params.items()})
    return [(name, bytes(raw)) for name, raw in params.items()]


def rest_of(order: Any) -> list[Any]:
    return [getattr(order, name) for name in order.__struct_fields__ if name != "params"]


def said(read: Any, body: bytes) -> tuple[Any, ...]:
    try:
        return told(read(body, ID))
    except CallerError as error:
        return error.status, error.code, error.message, error.param


def written(turns: list[dict[str, str]], separators: tuple[str, str], ascii_only: bool) -> bytes:
    return json.dumps(turns, separators=separators, ensure_ascii=ascii_only).encode("utf-8", "replace")


@given(st.lists(plain, min_size=1, max_size=4), blanks, st.booleans())
def test_what_is_passed_on_as_it_came_is_what_would_be_written(
    turns: list[dict[str, str]], separators: tuple[str, str], ascii_only: bool
) -> None:
    text = written(turns, separators, ascii_only)
    read = known_chat._turns_of(text)
    is_written_so = msgspec.json.encode(read) == text and b"\\" not in text
    assert is_canonical(b":" + text + b"}", 1, len(text) + 1, read) == is_written_so


@pytest.mark.parametrize(
    "text",
    [
        b'[{"role":"user","content":"a","content":"b"}]',
        b'[{"role":"user","content":"a","content":"%b"}]' % (b"b" * 14),
        b'[{"role":"user","content":"aaaa","role":"user"}]',
        b'[{"content":"a","role":"user"}]',
        b'[{"role":"user","content":"a"},{"content":"a","role":"user"}]',
        b'[{"role":"user","content":"a"} ]',
        b'[{"role":"user","content":"a" ,"role":"user"}]',
        b'[ {"role":"user","content":"a"}]',
        b' [{"role":"user","content":"a"}]',
        b'[{"role":"user" ,"content":"a"}]',
        b'[{"role":"user","content":"\\u0061"}]',
        b'[{"role":"user","content":"\\/"}]',
    ],
)
def test_a_text_of_another_form_is_written_anew(text: bytes) -> None:
    read = known_chat._turns_of(text)
    assert not is_canonical(b'"' + text + b"]", 1, len(text) + 1, read)
    assert msgspec.json.encode(read) != text


TRICKS = ['"', "\\", '","content":"', '"},{"role":"user","content":"', '"} ', '" ', '","role":"user', '",7:"', "称"]
pieces = st.one_of(st.text(alphabet="".join(map(chr, range(128))), max_size=9), st.sampled_from(TRICKS))
BEGUN = [
    '{"role":"user","content":"',
    '{"role":"user","content":7',
    '{"role":"user","content":["',
    '{"content":"',
    '{ "role"',
]
opened = st.tuples(st.sampled_from(BEGUN), st.lists(pieces, max_size=3)).map(
    lambda one: one[0] + "".join(one[1]) + '"}'
)


def long_turns_in(data: bytes) -> tuple[bytes, int] | None:
    try:
        text, turns = known_chat._long_turns_in(data, 0, len(data))
    except msgspec.DecodeError:
        return None
    return bytes(text), plain_tokens_max(turns)


def turns_in(data: bytes) -> tuple[bytes, int] | None:
    try:
        turns = known_chat._turns_of(data)
    except msgspec.DecodeError:
        return None
    return msgspec.json.encode(turns), plain_tokens_max(turns)


@given(st.lists(opened, min_size=1, max_size=3))
def test_what_is_read_without_a_string_is_read_as_with_one(turns: list[str]) -> None:
    data = ("[" + ",".join(turns) + "]").encode()
    assert long_turns_in(data) == turns_in(data)


def test_a_long_text_is_neither_copied_nor_made_a_string() -> None:
    text, turns = known_chat._long_turns_in(ONE, 0, len(ONE))
    assert isinstance(text, memoryview) and text.obj is ONE and isinstance(turns[0].content, Raw)
    escaped = ONE.replace(b"Hi", b"\\n")
    text, turns = known_chat._long_turns_in(escaped, 0, len(escaped))
    assert text == escaped and turns[0].content == "\n"


def test_every_character_that_needs_no_escape_may_pass() -> None:
    letters = "".join(map(chr, [*range(32, 0xD800), *range(0xE000, 0x11000)])).replace('"', "").replace("\\", "")
    text = '[{"role":"user","content":"' + letters + '"}]'
    assert is_canonical(text.encode(), 0, len(text.encode()), known_chat._turns_of(text))
    assert msgspec.json.encode(known_chat._turns_of(text)) == text.encode()


HEAD = b'POST /v1/chat/completions HTTP/1.1\r\nx: {"messages":[{"role":"user","content":"\xe9\\"}]}\r\n\r\n'
lengths = st.sampled_from([0, limits.BODY_BYTES_MAX])
forms = st.tuples(blanks, st.booleans())


@settings(max_examples=150)
@given(fields, st.lists(messages, min_size=3, max_size=6), forms, st.integers(0, 12), lengths)
def test_it_reads_as_if_it_were_new(
    beside: dict[str, Any], turns: list[Any], form: tuple[tuple[str, str], bool], place: int, long_bytes: int
) -> None:
    separators, ascii_only = form
    chats = KnownChats()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(limits, "BODY_COPIED_BYTES", long_bytes)
        for some in (turns[0], turns[0], *turns):
            items = list(beside.items())
            items.insert(place, ("messages", some))
            body = json.dumps(dict(items), separators=separators, ensure_ascii=ascii_only).encode("utf-8", "replace")
            assert said(chats.read, body) == said(parse_chat, body)
            read_behind_a_head = memoryview(HEAD + body)[len(HEAD) :]
            assert said(chats.read, read_behind_a_head) == said(parse_chat, body)


def known(body: bytes, monkeypatch: pytest.MonkeyPatch, *others: bytes) -> list[bool]:
    """Whether it, asked for the third time, and the others are read without `parse_chat`; all are read rightly."""
    chats = KnownChats()
    asked: list[bytes] = []

    def counted(body: bytes, request_id: bytes) -> ChatOrder:
        asked.append(body)
        return parse_chat(body, request_id)

    monkeypatch.setattr(known_chat, "parse_chat", counted)
    found = []
    for one in (body, body, body, *others):
        asked.clear()
        assert said(chats.read, one) == said(parse_chat, one)
        found.append(not asked)
    return found[2:]


def test_what_clients_send_is_known_the_third_time(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ONE.replace(b"Hi", b"Ho")
    for form in (
        b'{"model":"m","messages":%b,"max_tokens":5}',
        b'{"model": "m", "messages": %b, "temperature": 0.70}',
        b'{"messages":%b,"model":"m","stop":["\\n"],"stream":true,"stream_options":{"include_usage":true}}',
        b'{"model":"m","messages":%b}',
    ):
        assert known(form % ONE, monkeypatch, form % other, form % b"[]", form % other) == [True, True, False, True]


TRAPS = [
    b'{"model":"m","metadata":{"messages":%b},"messages":%b}',
    b'{"model":"m","messages":%b,"metadata":{"messages":%b}}',
    b'{"model":"m","mess\\u0061ges":%b,"metadata":{"messages":%b}}',
    b'{"model":"m","metadata":{"messages":%b},"mess\\u0061ges":%b}',
]


@pytest.mark.parametrize("form", TRAPS)
def test_messages_that_stand_elsewhere_are_not_taken_for_them(form: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    other = ONE.replace(b"Hi", b"Ho")
    pairs = [(ONE, other), (other, ONE), (ONE, b"0"), (b"0", ONE), (other, other)]
    known(form % (ONE, ONE), monkeypatch, *(form % pair for pair in pairs for _ in range(3)))
    known(form % (other, ONE), monkeypatch, *(form % pair for pair in pairs for _ in range(3)))


@pytest.mark.parametrize(
    "messages",
    [
        ONE.replace(b"Hi", b"\xff"),
        ONE.replace(b"Hi", b"\\ud800"),
        ONE.replace(b"Hi", b"\x00"),
        ONE + ONE,
        ONE[:-1],
        ONE + b',"n":2',
        ONE + b',"messages":' + ONE,
        ONE[:-1] + b"," + ONE[1:] * 2,
        b"[" + ONE + b"]",
        ONE.replace(b'"content"', b'"content":"Ha","content"'),
        ONE.replace(b'"content"', b'"x":[[]],"content"'),
    ],
)
def test_messages_that_are_something_else_are_read_whole(messages: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    form = b'{"model":"m","messages":%b,"max_tokens":5}'
    known(form % ONE, monkeypatch, form % messages, form % ONE, form % messages)


def test_the_bounds_hold_for_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    form = b'{"model":"m","messages":%b}'
    many = b"[" + b",".join([ONE[1:-1]] * (limits.MESSAGES_MAX + 1)) + b"]"
    brackets = ONE.replace(b"Hi", b"[" * (limits.JSON_BRACKETS_MAX + 1))
    assert known(form % ONE, monkeypatch, form % many, form % brackets, form % ONE) == [True, False, False, True]


def test_no_more_are_kept_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHATS_KNOWN_MAX", 3)
    chats = KnownChats()
    for number in range(20):
        for _ in range(3):
            chats.read(b'{"model":"%d","messages":%b}' % (number, ONE), ID)
        assert len(chats._known) <= 3
    chats.read(b'{"model":"m","user":"%b","messages":%b}' % (b"x" * limits.CHAT_KNOWN_BYTES_MAX, ONE), ID)
    assert all(len(around) <= limits.CHAT_KNOWN_BYTES_MAX for around in chats._known)
