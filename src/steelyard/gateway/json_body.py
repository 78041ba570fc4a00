"""A request's JSON body, read twice: as the fields we know and as what they were. Errors name the field at fault."""

from typing import TypeVar

import msgspec
from msgspec import Raw

from steelyard.kernel.errors import CallerError, bad_request

T = TypeVar("T")
_fields_decoder = msgspec.json.Decoder(dict[str, Raw])
_NULL = b"null"


def read_json(body: bytes, decoder: "msgspec.json.Decoder[T]") -> tuple[T, dict[str, Raw]]:
    """The typed request and its fields as they came, without those that are null. Raises CallerError 400."""
    try:
        fields = {name: raw for name, raw in _fields_decoder.decode(body).items() if bytes(raw) != _NULL}
        return decoder.decode(body), fields
    except msgspec.ValidationError as error:
        raise _field_error(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    except RecursionError:
        raise bad_request("The body is nested too deeply.", code="invalid_json") from None


def _field_error(text: str) -> CallerError:
    """msgspec says `Expected …, got … - at `$.field[0].x``; keep the sentence, lift the path into `param`."""
    sentence, _, place = text.partition(" - at `$")
    path = place.rstrip("`").lstrip(".")
    if not path and "missing required field" in sentence:
        path = sentence.rpartition("field ")[2].strip("`")
    where = f"'{path}': " if path else ""
    return bad_request(f"{where}{sentence}.", path or None)
