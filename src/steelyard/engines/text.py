"""From token ids to the text that may leave: whole characters only, and nothing of a stop text.

Owns what is held back: bytes of a character that is not whole yet, and an end that may become a stop text. Pure.
"""

import codecs
from collections.abc import Sequence


class Text:
    """The text of one answer. `pieces` gives the bytes of each token id; special tokens have none."""

    def __init__(self, pieces: Sequence[bytes], stops: Sequence[str]) -> None:
        self._pieces = pieces
        self._stops = stops
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stop: str | None = None  # the stop text that was met

    def feed(self, token: int) -> str:
        """What may leave now that this token is there."""
        return self._passed(self._decoder.decode(self._pieces[token]))

    def rest(self) -> str:
        """What was held back, at an end that no stop text made."""
        if self.stop is not None:
            return ""
        text = self._passed(self._decoder.decode(b"", True))
        if self.stop is None:
            text, self._held = text + self._held, ""
        return text

    def _passed(self, new: str) -> str:
        if not self._stops or not new:
            return new
        text = self._held + new
        met = [(place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if met:
            place, self.stop = min(met)
            self._held = ""
            return text[:place]
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of the text that begin the stop text."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
