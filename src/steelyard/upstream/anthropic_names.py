"""A refusal of Anthropic's dialect told about the canonical fields: `messages.2.content.1.…` is a turn of the order.

The vendor counts the messages it was sent, in which turns of one role are merged; a customer knows only his own. Pure.
"""

import re

from steelyard.kernel.errors import UpstreamError
from steelyard.upstream.anthropic_request import Sent

_NAMES = (
    (re.compile(r"stop_sequences(\.\d+)?"), "stop"),
    (re.compile(r"output_config\.effort"), "reasoning_effort"),
    (re.compile(r"output_config(\.format)?(\.[\w-]+)*"), "response_format"),
    (re.compile(r"thinking(\.[\w-]+)*"), "thinking"),
    (re.compile(r"tool_choice(\.[\w-]+)*"), "tool_choice"),
    (re.compile(r"tools"), "tools"),
    (re.compile(r"system|messages"), "messages"),
)
_TOOL = re.compile(r"tools\.(\d+)((?:\.[\w-]+)*)")
_TURN = re.compile(r"messages\.(\d+)(?:\.content(?:\.(\d+))?)?(?:\.[\w-]+)*")
_SYSTEM = re.compile(r"system\.(\d+)(?:\.[\w-]+)*")
_PATH = re.compile(r"^([a-z_]+(?:\.[\w-]+)*)(?=: )")


def in_canonical_words(error: UpstreamError, sent: Sent) -> UpstreamError:
    """The same error, about the field of the order; its `param` is set where the vendor begins with a field."""
    found = _PATH.match(error.message)
    if error.status == 0 or found is None:
        return error
    name = _canonical(found[1], sent)
    told = f"'{name}'{error.message[found.end() :]}"
    changed = UpstreamError(error.upstream, told, status=error.status, retryable=error.retryable, param=name)
    return changed.known_as(error.fault)


def _canonical(path: str, sent: Sent) -> str:
    if (turn := _TURN.fullmatch(path)) and int(turn[1]) < len(sent.messages):
        places = sent.messages[int(turn[1])].places
        return f"messages[{places[min(int(turn[2] or 0), len(places) - 1)]}].content"
    if (block := _SYSTEM.fullmatch(path)) and int(block[1]) < len(sent.system_places):
        return f"messages[{sent.system_places[int(block[1])]}].content"
    if tool := _TOOL.fullmatch(path):
        part = ".function.parameters" if ".input_schema" in tool[2] else ""
        return f"tools[{tool[1]}]{part}"
    return next((name for pattern, name in _NAMES if pattern.fullmatch(path)), path)
