"""The dialect of /v1/responses: OpenAI's newer one. Errors have the shape of the older."""

import re

from steelyard.gateway.dialect import Asked
from steelyard.gateway.errors import error_body, error_headers
from steelyard.gateway.left import openai_rates
from steelyard.gateway.responses_answer import STREAM_END, ResponseBody, ResponseStream
from steelyard.gateway.responses_request import order_of, read_responses
from steelyard.gateway.wire import Body, Headers, Heads, text_of
from steelyard.kernel.errors import CallerError, bad_request
from steelyard.kernel.left import Left

REFERRING = "previous_response_id"
NAMES = (
    (re.compile(r"^max_tokens$"), "max_output_tokens"),
    (re.compile(r"^response_format\b.*"), "text.format"),
    (re.compile(r"^reasoning_effort$"), "reasoning.effort"),
    (re.compile(r"^(tools\[\d+\])\.function\b"), r"\1"),
)


class Responses:
    name = b"responses"
    stream_end = STREAM_END

    def authorization(self, heads: Heads) -> str | None:
        return text_of(heads, b"authorization")

    def read(self, body: Body, heads: Heads, request_id: bytes, created_ns: int) -> Asked:
        """A request that refers to nothing stored, whose answer is not stored either."""
        understood = read_responses(bytes(body))
        if understood.refers:
            raise bad_request("What is stored cannot be referred to here. Send all items as 'input'.", REFERRING)
        parsed = order_of(understood, request_id)
        parsed.echo["store"] = False
        form = ResponseStream if parsed.order.stream else ResponseBody
        return Asked(parsed.order, form(parsed, created_ns), parsed.unknown, parsed.places, NAMES)

    def rates(self, left: Left, now_ns: int) -> Headers:
        return openai_rates(left, now_ns)

    def refusal(self, error: CallerError, request_id: bytes) -> tuple[int, Headers, bytes]:
        return error.status, error_headers(error), error_body(error)
