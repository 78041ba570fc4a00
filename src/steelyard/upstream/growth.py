"""Whether the pieces of a stream add to what was said or repeat it from the beginning, found out as they come.

Some servers send the whole text so far with every event, even when they were asked for what is new only. Owns that
question for one text; a short beginning that may be either is held back until the next piece tells. Pure.
"""

from steelyard.kernel.errors import UpstreamError

_CERTAIN_CHARACTERS = 12
"""A piece that begins with this much of what was said, all of it, repeats it: no model says that twice in a row."""


class Growth:
    """One text of one answer. `feed` gives what is new."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._said = ""  # only while it matters
        self._held = ""  # begins with all that was said, and may be it again or new
        self._repeats: bool | None = None  # None: not known yet

    def feed(self, piece: str, *, last: bool = False) -> str:
        """What this piece adds. `last`: the answer ends with it. Raises UpstreamError for a text that was changed."""
        if self._repeats is False or not piece:
            return piece + self._rest(last)
        if self._repeats is None and not self._said:
            self._said = piece
            return piece
        if self._repeats is None:
            self._find_out(piece, last)
        if self._repeats:
            return self._added(piece)
        if self._repeats is None:
            self._held = piece
            return ""
        held, self._held, self._said = self._held, "", ""
        return held + piece

    def _find_out(self, piece: str, last: bool) -> None:
        before = self._held or self._said
        certain = last or len(before) >= _CERTAIN_CHARACTERS
        if not piece.startswith(before) or (len(piece) == len(before) and not certain):
            self._repeats = False
        elif certain or self._held:
            self._repeats = True

    def _added(self, piece: str) -> str:
        if not piece.startswith(self._said):
            raise UpstreamError(self._upstream, "took back what it had said")
        added = piece[len(self._said) :]
        self._said, self._held = piece, ""
        return added

    def _rest(self, last: bool) -> str:
        """At an end without a text: one that repeats would have repeated it there, so what was held back is new."""
        if not last:
            return ""
        held, self._held = self._held, ""
        return held
