"""A chat body that is known but for its messages: only these are read again.

What a client sends beside its messages is mostly what it sent before, byte for byte. Such a body asks for what the
earlier one asked for, about other turns, and most turns are a role and a text. Whatever is not so is read whole by
`parse_chat`: it alone has the rules, and a body that it refuses is never known.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Raw

from steelyard.gateway.chat_request import ChatOrder, parse_chat
from steelyard.gateway.chat_turns import BEGINNINGS, PlainTurn, UnescapedTurn, is_canonical, plain_tokens_max
from steelyard.gateway.wire import Body
from steelyard.kernel import limits

_BEGIN, _END = b'"messages":', b"}]"
_BEGIN_BYTES, _END_BYTES = len(_BEGIN), len(_END)
_HOLE, _ONE_TURN = b"0", b'[{"role":"user","content":""}]'
_encode = msgspec.json.encode
_unescaped_turns_of = msgspec.json.Decoder(
    Annotated[list[UnescapedTurn], Meta(min_length=1, max_length=limits.MESSAGES_MAX)]
).decode
_turns_of = msgspec.json.Decoder(Annotated[list[PlainTurn], Meta(min_length=1, max_length=limits.MESSAGES_MAX)]).decode
_fields_of = msgspec.json.Decoder(dict[str, Raw]).decode


class Known(msgspec.Struct, frozen=True):
    """What a body asks for beside its messages."""

    asked: ChatOrder  # about one turn without a text
    tokens: int  # of a prompt without turns, at most


class KnownChats:
    """What was asked for beside messages, when it was so twice. One per dialect, and bounded."""

    def __init__(self) -> None:
        self._known: dict[bytes, Known | None] = {}  # by what stands around the messages; None: met once

    def read(self, body: Body, request_id: bytes) -> ChatOrder:
        """What `parse_chat` returns or raises."""
        data: bytes = body if type(body) is bytes else body.obj  # type: ignore[union-attr, assignment]  # see Body
        length = len(body)
        start = 0 if data is body else len(data) - length
        at, end = data.find(_BEGIN, start) + _BEGIN_BYTES, data.rfind(_END, start) + _END_BYTES
        if not start + _BEGIN_BYTES <= at < end or length - end + at > limits.CHAT_KNOWN_BYTES_MAX:
            return parse_chat(bytes(body), request_id)
        if length > limits.JSON_BRACKETS_MAX:  # those that stand in texts are counted, too
            return parse_chat(bytes(body), request_id)
        around = data[start:at] + data[end:]
        known = self._known.get(around)
        if known is None:
            body = bytes(body)
            asked = parse_chat(body, request_id)
            self._learn(body, at - start, end - start, around)
            return asked
        try:
            if end - at < limits.BODY_COPIED_BYTES:
                turns: Sequence[PlainTurn | UnescapedTurn] = _turns_of(data[at:end])
                text: Body = _encode(turns)
            else:
                text, turns = _long_turns_in(data, at, end)
        except (msgspec.DecodeError, UnicodeDecodeError):
            del self._known[around]
            return parse_chat(bytes(body), request_id)
        asked = known.asked
        params = {**asked.order.params, "messages": Raw(text)}
        tokens = known.tokens + plain_tokens_max(turns)
        order = msgspec.structs.replace(asked.order, request_id=request_id, params=params, prompt_tokens_max=tokens)
        return ChatOrder(order, asked.include_usage, asked.unknown, asked.tier)

    def _learn(self, body: bytes, at: int, end: int, around: bytes) -> None:
        """Of a body that was understood. With a number in the place of its messages, `messages` is that number: so it
        is they, and all of them, that are looked for there."""
        if around not in self._known:
            if len(self._known) >= limits.CHATS_KNOWN_MAX:
                self._known.clear()
            self._known[around] = None
            return
        try:
            _turns_of(body[at:end])
            is_there = bytes(_fields_of(body[:at] + _HOLE + body[end:]).get("messages", b"")) == _HOLE
        except (msgspec.DecodeError, UnicodeDecodeError):
            is_there = False
        if not is_there:
            del self._known[around]
            return
        asked = parse_chat(body[:at] + _ONE_TURN + body[end:], b"")
        self._known[around] = Known(asked, asked.order.prompt_tokens_max - plain_tokens_max(_turns_of(_ONE_TURN)))


def _long_turns_in(data: bytes, at: int, end: int) -> tuple[Body, Sequence[PlainTurn | UnescapedTurn]]:
    """How the turns that stand there are written in the canonical form, and they themselves.

    A long text that is written so already is not copied, and where nothing in it is escaped it is read without making a
    string of it. Raises what msgspec does.
    """
    text = memoryview(data)[at:end]
    if data.startswith(BEGINNINGS, at + 1) and data.find(b"\\", at, end) < 0 and data.isascii():
        unescaped = _unescaped_turns_of(text)
        if is_canonical(data, at, end, unescaped):
            return text, unescaped
    turns = _turns_of(text)
    return text if is_canonical(data, at, end, turns) else _encode(turns), turns
