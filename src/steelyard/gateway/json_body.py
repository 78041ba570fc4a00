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
_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


def read_json(body: bytes, decoder: "msgspec.json.Decoder[T]") -> tuple[T, dict[str, Raw]]:
    """The typed request and its fields as they came, without those that are null. Raises CallerError 400."""
    try:
        if not body.isascii():
            body.decode()  # values that are passed on as they are would carry broken text to an upstream
        if _is_deep(body):
            raise bad_request(
                f"The body is nested too deeply: at most {limits.JSON_DEPTH_MAX} levels.", code="invalid_json"
            )
        fields = {name: raw for name, raw in _fields_decoder.decode(body).items() if bytes(raw) != _NULL}
        return decoder.decode(body), fields
    except msgspec.ValidationError as error:
        raise _field_error(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    except RecursionError:
        raise bad_request("The body is nested too deeply.", code="invalid_json") from None


def _is_deep(body: bytes) -> bool:
    """Whether lists and objects stand in each other beyond the bound. An engine's reader has no better one."""
    if body.count(b"{") + body.count(b"[") <= limits.JSON_DEPTH_MAX:
        return False
    depth = deepest = 0
    for bracket in _BRACKET.findall(_TEXT.sub(b"", body)):
        depth += 1 if bracket in b"{[" else -1
        deepest = max(deepest, depth)
    return deepest > limits.JSON_DEPTH_MAX


def _field_error(text: str) -> CallerError:
    """msgspec says `Expected …, got … - at `$.field[0].x``; keep the sentence, lift the path into `param`."""
    sentence, _, place = text.partition(" - at `$")
    path = place.rstrip("`").lstrip(".")
    if not path and "missing required field" in sentence:
        path = sentence.rpartition("field ")[2].strip("`")
    where = f"'{path}': " if path else ""
    return bad_request(f"{where}{sentence}.", path or None)
