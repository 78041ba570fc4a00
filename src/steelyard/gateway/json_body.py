"""A request's JSON body, read twice: as the fields we know and as what they were. Errors name the field at fault."""

import re
from typing import TypeVar

import msgspec
from msgspec import Raw

from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, bad_request

T = TypeVar("T")
_fields_decoder = msgspec.json.Decoder(dict[str, Raw])
_NULL = b"null"
_NAMED = re.compile(rb'\s*"((?:[^"\\]|\\.)*)"\s*:\s*', re.DOTALL)
_NEXT = re.compile(rb"\s*,|\s*(?=\})")
_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))
_OPEN = ord("[")
_SHORT_BYTES = 4096


def read_json(body: bytes, decoder: "msgspec.json.Decoder[T]") -> tuple[T, dict[str, Raw]]:
    """The typed request and its fields as they came, without those that are null. Raises CallerError 400."""
    try:
        if not body.isascii():
            body.decode()  # values that are passed on as they are would carry broken text to an upstream
        _check_nesting(body)
        return decoder.decode(body), _fields(body)
    except msgspec.ValidationError as error:
        raise _field_error(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(f"The body is not valid JSON: {_fault(str(error), body)}.", code="invalid_json") from None
    except RecursionError:
        raise bad_request("The body is nested too deeply.", code="invalid_json") from None


def _fields(body: bytes) -> dict[str, Raw]:
    """The fields that are not null. Raises CallerError 400 for one that stands there twice: two readers of such a body
    may take it for two requests."""
    found = _fields_decoder.decode(body)
    size = 1  # of a body of exactly these fields, without blanks
    fields = {}
    for name, raw in found.items():
        value = bytes(raw)
        size += len(name) + len(value) + 4
        if value != _NULL:
            fields[name] = raw
    if size != len(body) and (twice := _twice(body, found)) is not None:
        raise bad_request(f"The field '{twice}' stands in the body twice. Send it once.", twice, "invalid_json")
    return fields


def _twice(body: bytes, found: dict[str, Raw]) -> str | None:
    """A name that the outermost object has twice. Of such a name `found` has the first place and the last value, so a
    walk over the body that expects its fields in order stumbles."""
    if body == _as_often_written(found):
        return None
    at = body.index(b"{") + 1
    for name, raw in found.items():
        named = _NAMED.match(body, at)
        if named is None:
            return name
        if _text(named[1]) != name:
            return _text(named[1])
        value = bytes(raw)
        after = _NEXT.match(body, named.end() + len(value)) if body.startswith(value, named.end()) else None
        if after is None:
            return name
        at = after.end()
    named = _NAMED.match(body, at)
    return None if named is None else _text(named[1])


def _as_often_written(found: dict[str, Raw]) -> bytes:
    """A body of these fields with the blanks that most writers of JSON put in."""
    pieces: list[bytes | Raw] = []
    for name, raw in found.items():
        pieces += (b', "', name.encode(), b'": ', raw)
    return b"".join([b'{"', *pieces[1:], b"}"])


def _text(quoted: bytes) -> str:
    return msgspec.json.decode(b'"%b"' % quoted, type=str)


def _fault(text: str, body: bytes) -> str:
    """The decoder says the same of half a surrogate pair as of a body that ends too early."""
    if "truncated" in text and body.rstrip().endswith(b"}"):
        return "it ends within a text or a list, or a text has half of a surrogate pair (\\ud800 to \\udfff)"
    return text


def _has_few_brackets(body: bytes) -> bool:
    """Whether so few open that they cannot be too deep. Looked for one by one: in a long prompt there are few, and the
    next one is found fifteen times as fast as all bytes are counted (7 instead of 122 µs of 100 KB)."""
    left = limits.JSON_DEPTH_MAX
    if len(body) < _SHORT_BYTES:
        return body.count(b"{") + body.count(b"[") <= left
    for bracket in (b"{", b"["):
        at = body.find(bracket)
        while at >= 0:
            left -= 1
            if left < 0:
                return False
            at = body.find(bracket, at + 1)
    return True


def _check_nesting(body: bytes) -> None:
    """Refuse lists and objects that stand in each other beyond the bound (an engine's reader has no better one), or
    that are so many that looking would keep the worker from everybody else."""
    if _has_few_brackets(body):
        return
    opened = body.count(b"{") + body.count(b"[")
    if opened <= limits.JSON_DEPTH_MAX:
        return
    if opened > limits.JSON_BRACKETS_MAX:
        most = f"{limits.JSON_BRACKETS_MAX:,}"
        raise bad_request(f"The body has too many lists and objects: at most {most}.", code="invalid_json")
    depth = 0
    for bracket in _TEXT.sub(b"", body).translate(_ONE_KIND, _NO_BRACKET):
        depth += 1 if bracket == _OPEN else -1
        if depth > limits.JSON_DEPTH_MAX:
            message = f"The body is nested too deeply: at most {limits.JSON_DEPTH_MAX} levels."
            raise bad_request(message, code="invalid_json")


def _field_error(text: str) -> CallerError:
    """msgspec says `Expected …, got … - at `$.field[0].x``; keep the sentence, lift the path into `param`."""
    sentence, _, place = text.partition(" - at `$")
    path = place.rstrip("`").lstrip(".")
    if not path and "missing required field" in sentence:
        path = sentence.rpartition("field ")[2].strip("`")
    where = f"'{path}': " if path else ""
    return bad_request(f"{where}{sentence}.", path or None)
