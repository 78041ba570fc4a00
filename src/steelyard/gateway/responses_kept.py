"""What is stored of a response: its own input items as they can be listed, and reading stored ones back as items.

Every item has an id, and an id made here holds the digits of its response: whoever refers to an item names the response
it stands in. Pure; knows no database.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from steelyard.kernel.errors import CallerError
from steelyard.kernel.ids import text_from_id
from steelyard.kernel.stored import StoredResponse

_ID = re.compile(r"[a-z]+_([0-9a-f]{32})[0-9a-z]*")
_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
_encode = msgspec.json.encode


Shown = dict[str, Any]
"""An item as JSON."""


class _Body(msgspec.Struct):
    output: list[Shown]


_items = msgspec.json.Decoder(list[Shown])
_body = msgspec.json.Decoder(_Body)


def kept_input(raw: msgspec.Raw | None, request_id: bytes, known: Mapping[str, Shown]) -> bytes:
    """The input of a request as JSON, every item with its type and an id. References give way to what they mean."""
    given = [] if raw is None else msgspec.json.decode(raw)
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    return _encode([_whole(item, f"{request_id.hex()}i{place:x}", known) for place, item in enumerate(items)])


def _whole(item: Shown, digits: str, known: Mapping[str, Shown]) -> Shown:
    kind = item.get("type") or ("message" if item.get("role") else "item_reference")
    if kind == "item_reference":
        return known[item["id"]]
    item_id = item.get("id") or f"{_PREFIXES[kind]}_{digits}"
    whole = {**item, "id": item_id, "type": kind, "status": item.get("status") or "completed"}
    content = item.get("content")
    if kind == "message" and isinstance(content, str):
        said = {"type": "output_text", "text": content, "annotations": [], "logprobs": []}
        whole["content"] = [said if item.get("role") == "assistant" else {"type": "input_text", "text": content}]
    return whole


def response_of(item_id: str) -> bytes | None:
    """The id of the response that an item, or the response itself, stands for; None when nobody here made it."""
    found = _ID.fullmatch(item_id)
    return None if found is None else bytes.fromhex(found[1])


def items_in(stored: Iterable[StoredResponse]) -> Iterator[Shown]:
    """Every item of stored responses in order, what was asked and what was answered, as they are shown."""
    for one in stored:
        yield from _items.decode(one.input)
        yield from _body.decode(one.body).output


def asked_in(stored: StoredResponse) -> list[Shown]:
    """The items of one response's own request."""
    return _items.decode(stored.input)


def not_found(request_id: bytes | None, said: str) -> CallerError:
    """404: no such response in this project."""
    name = said if request_id is None else text_from_id(request_id, "resp")
    return CallerError(404, "response_not_found", f"There is no stored response {name!r}.", param="response_id")
