"""Runs of events that differ from each other in one text only, read in one go.

Most of a stream is the same line over and over with another token in it: once such an event has been read, others of
its frame need no parser. Owns the proof that nothing but that text differs, byte for byte; whatever is not proved is
left to the parser of single events. Knows JSON's texts and no dialect.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from operator import itemgetter

import msgspec

_TRIES_MAX = 8
"""Events learnt from in vain, after which an upstream is known to change more than the text."""
_texts_from = msgspec.json.Decoder(list[str]).decode
_text_from = msgspec.json.Decoder(str).decode
_TEXT = re.compile(rb'\s*:\s*"([^"\\]*(?:\\.[^"\\]*)*)"')


class Run(msgspec.Struct, frozen=True, gc=False):
    """Texts of one field that came one after the other; `pieces` of them were not empty. `end`: where what is behind
    them begins."""

    field: str
    text: str
    pieces: int
    end: int


class Runs(msgspec.Struct, eq=False):
    """The frame of one stream's events, as far as it is known."""

    before: bytes = b""  # what stood on the wire before the data of the last event
    behind: bytes = b""  # and behind it
    known: bool = False  # whether there is a frame at all
    begin: bytes = b""  # what stands before each text
    _field: str = ""
    _tail: bytes = b""
    _between: bytes = b""
    _cut: bytes = b""
    _begins: int = 0  # how long each of these is
    _tails: int = 0
    _betweens: int = 0
    _cuts: int = 0
    _ends: int = 0  # where a tail stops being JSON
    _text: Callable[[bytes], bytes] = itemgetter(slice(0))  # of an event's data
    _tries: int = 0

    def learn(self, field: str, data: bytes) -> None:
        """The parser has read `data`, the last event's, and found a text in this field and nothing else in it."""
        if self._tries >= _TRIES_MAX:
            return
        self._tries += 1
        parts = data.split(_named(field))
        found = _TEXT.match(parts[1]) if len(parts) == 2 else None
        if found is None:
            return
        stop = found.end() - len(parts[1]) - 1  # from the end
        start = len(data) + stop - found.end(1) + found.start(1)
        if b"\\" in data[:start] or b"\\" in data[stop:]:  # another name for the field may stand there
            return
        before, behind = self.before, self.behind
        self.known, self._field = True, field
        self.begin, self._tail = before + data[:start], data[stop:] + behind
        self._between, self._cut = self._tail + self.begin, behind + before
        self._begins, self._tails = len(self.begin), len(self._tail)
        self._betweens, self._cuts, self._ends = self._begins + self._tails, len(self._cut), len(behind)
        self._text = itemgetter(slice(start, stop))

    def take(self, buffer: bytes, at: int) -> Run | None:
        """The run that begins at `at`; None where there is none, or it is not surely one."""
        if not self.known or not buffer.startswith(self.begin, at):
            return None
        tail = self._tail
        first = at + self._begins
        end = buffer.find(tail, first)
        if end < 0:
            return None
        try:
            if end + self._tails == len(buffer):  # the only one, as where tokens come one by one
                text = _text_from(b'"%b"' % buffer[first:end])
                self._tries = 0
                return Run(self._field, text, 1 if text else 0, end + self._tails)
            last = buffer.rfind(self._between, first)
            if last >= 0 and (end := buffer.find(tail, last + self._betweens)) < 0:
                end = last  # the event behind it is not whole yet
            text, pieces = self._texts(buffer[at + self._cuts - self._ends : end + self._tails - self._ends])
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.known = False  # until another event is learnt from: to fail at every line would take for ever
            return None
        self._tries = 0
        return Run(self._field, text, pieces, end + self._tails)

    def _texts(self, events: bytes) -> tuple[str, int]:
        """What stands in the place of the text in these events, and in how many of them anything does. Raises
        DecodeError when it is no text, or when they are not alike otherwise."""
        pieces = [*map(self._text, events.split(self._cut))]
        if self._between.join(pieces) != events[self._begins + self._ends - self._cuts : self._ends - self._tails]:
            raise msgspec.DecodeError("the events are not of one frame")
        whole = b"".join(pieces)
        if whole.isascii() and b"\\" not in whole:  # no letter goes on from one into the next
            return _text_from(b'"%b"' % whole), len(pieces) - pieces.count(b"")
        quoted = b'","'.join(pieces)
        texts = _texts_from(b'["%b"]' % quoted)
        if len(texts) != len(pieces) or b'\\","' in quoted:  # a text that ends so may have gone on into the next one
            raise msgspec.DecodeError("the texts are none")
        return "".join(texts), len(texts) - texts.count("")


@lru_cache(maxsize=16)
def _named(field: str) -> bytes:
    return b'"%b"' % field.encode()
