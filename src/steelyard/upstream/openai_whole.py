"""An answer of OpenAI's dialect that comes in one piece.

Owns a shortcut and no rule: nearly all such answers are one text with its end and its counts, which are read as they
stand; any other is read as a stream of one chunk, and both come to the same event.
"""

import msgspec

from steelyard.kernel.frozen import Record
from steelyard.kernel.records import Event
from steelyard.upstream.openai_answer import Answer, chunk_decoder
from steelyard.upstream.tally import Tally
from steelyard.upstream.vendor import FAILED, Asked, Vendor

_NOTHING_SAID = Tally("", lambda: 0)


class WholeAnswer(Record, frozen=True, gc=False):
    """See `hearing.Whole`."""

    asked: Asked
    vendor: Vendor

    def in_pieces(self) -> Answer:
        """See `hearing.Whole`."""
        return Answer(self.vendor, self.asked)

    def hear_whole(self, body: bytes) -> Event:
        """See `hearing.Whole`."""
        vendor = self.vendor
        try:
            chunk = chunk_decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self.as_stream(body)
        counts, choices = chunk.usage, chunk.choices
        if counts is None or not choices or chunk.error is not None or chunk.base_resp is not None:
            return self.as_stream(body)
        choice = choices[0]
        said, finish = choice.message, choice.finish_reason
        if (
            said is not None
            and finish
            and len(choices) == 1
            and not (said.refusal or said.tool_calls or said.reasoning_content or said.reasoning)
            and said.reasoning_details is None
            and choice.delta is None
            and choice.logprobs is None
            and choice.usage is None
            and choice.stop_reason is None
            and choice.matched_stop is None
            and not vendor.may_repeat
        ):
            used = counts.usage(_NOTHING_SAID, hides_thoughts=vendor.hides_thoughts)
            end = vendor.ends[finish]
            if used is not None and end != FAILED:
                return Event(said.content or choice.text or "", used, end)
        return self.as_stream(body)

    def as_stream(self, body: bytes) -> Event:
        """A message says what the pieces of a stream say."""
        answer = Answer(self.vendor, self.asked)
        answer.take(body)
        return answer.end()
