"""The dialect of /v1/chat/completions: OpenAI's."""

from steelyard.gateway.chat_answer import DONE, ChatBody, ChatStream
from steelyard.gateway.dialect import Asked
from steelyard.gateway.errors import error_body, error_headers
from steelyard.gateway.known_chat import KnownChats
from steelyard.gateway.left import openai_rates
from steelyard.gateway.wire import Body, Headers, Heads
from steelyard.kernel.errors import CallerError
from steelyard.kernel.left import Left


class Chat:
    name = b"chat"
    stream_end = DONE

    def __init__(self) -> None:
        self._known = KnownChats()

    def authorization(self, heads: Heads) -> str | None:
        value = heads.get(b"authorization")
        return None if value is None else str(value, "latin-1")

    def read(self, body: Body, heads: Heads, request_id: bytes, created_ns: int) -> Asked:
        parsed = self._known.read(body, request_id)
        order = parsed.order
        if order.stream:
            return Asked(order, ChatStream(order, created_ns, parsed.include_usage, parsed.tier), parsed.unknown)
        return Asked(order, ChatBody(order, created_ns, parsed.tier), parsed.unknown)

    def rates(self, left: Left, now_ns: int) -> Headers:
        return openai_rates(left, now_ns)

    def refusal(self, error: CallerError, request_id: bytes) -> tuple[int, Headers, bytes]:
        return error.status, error_headers(error), error_body(error)
