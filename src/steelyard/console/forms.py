"""Reads a posted form: URL-encoded fields, bounded. Knows no page."""

from urllib.parse import parse_qsl

from starlette.requests import Request

from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, bad_request

_FIELDS_MAX = 50


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form, the last value of each. Raises CallerError 413 or 400."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limits.FORM_BYTES_MAX:
            raise CallerError(413, "body_too_large", "The form is too large. Send a shorter text.")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=_FIELDS_MAX)
    except ValueError:
        raise bad_request("The form could not be read. Reload the page and send it again.") from None
    return dict(pairs)
