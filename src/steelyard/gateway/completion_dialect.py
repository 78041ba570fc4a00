"""The dialect of /v1/completions: OpenAI's old one, which is asked and answered like its chat in everything else."""

from steelyard.gateway.chat_dialect import Chat
from steelyard.gateway.completion_answer import CompletionBody, CompletionStream
from steelyard.gateway.completion_request import parse_completion
from steelyard.gateway.dialect import Asked
from steelyard.gateway.wire import Body, Heads


class Completions(Chat):
    name = b"completions"

    def read(self, body: Body, heads: Heads, request_id: bytes, created_ns: int) -> Asked:
        parsed = parse_completion(bytes(body), request_id)
        order = parsed.order
        if order.stream:
            return Asked(order, CompletionStream(order, created_ns, parsed.include_usage), parsed.unknown)
        return Asked(order, CompletionBody(order, created_ns), parsed.unknown)
