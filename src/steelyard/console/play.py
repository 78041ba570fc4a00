"""The playground's words: what a page asks for and what comes back while the answer runs.

Owns shapes only. The house turns a `PlayOrder` into an ordinary paid request of the tenant who pays; nothing here
knows how. A stream ends with exactly one `Ended` or `Failed`.
"""

from dataclasses import dataclass

from steelyard.kernel.errors import CallerError
from steelyard.kernel.frozen import Record
from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import AmountLine, End, Receipt


class Message(Record, frozen=True):
    """One turn of a conversation: `role` is "system", "user" or "assistant"."""

    role: str
    content: str


class PlayOrder(Record, frozen=True):
    """What the operator asks in the playground. `temperature` is decimal text, passed on as written; None: default."""

    project_id: int
    model: str
    messages: tuple[Message, ...]
    max_tokens: int | None = None
    temperature: str | None = None


class Text(Record, frozen=True):
    """A piece of the answer."""

    text: str


class Bill(Record, frozen=True):
    """The bill so far; counts are cumulative."""

    usage: Usage
    charge_nano: int
    lines: tuple[AmountLine, ...]
    currency: str


class Ended(Record, frozen=True):
    """The answer is over and what left is settled. `request_id` is the text of the receipt's id (`req_…`)."""

    end: End
    request_id: str
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Failed:
    """Nothing was sold, or the answer broke off; the error says why."""

    error: CallerError


PlayEvent = Text | Bill | Ended | Failed
