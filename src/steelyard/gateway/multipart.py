"""Reads multipart/form-data (RFC 7578) piece by piece, so that a file never stands in memory as a whole.

Owns the framing and its bounds. Knows no field: it yields which part begins, its data, and where it ends.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, bad_request

_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_PARAMETER = re.compile(r';\s*(name|filename)=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))', re.IGNORECASE)
_QUOTED = re.compile(r"\\(.)")


class Part(NamedTuple):
    """A part begins. `filename` None: it is a field."""

    name: str
    filename: str | None


class Data(NamedTuple):
    """A piece of the part that began last."""

    piece: bytes


class PartEnd(NamedTuple):
    """The part is whole."""


Token = Part | Data | PartEnd


def boundary_of(content_type: str | None) -> bytes:
    """Raises CallerError 415 when this is no form."""
    kind, _, _ = (content_type or "").partition(";")
    found = _BOUNDARY.search(content_type or "")
    if kind.strip().lower() != "multipart/form-data" or found is None:
        raise CallerError(415, "not_a_form", "Send a form: Content-Type multipart/form-data with a boundary.")
    return (found[1] or found[2]).encode("latin-1")


class Multipart:
    """`feed` it what arrives; `finished` once the closing boundary came."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._buffer = b"\r\n"  # the first boundary has no line before it
        self._parts = 0
        self._in_part = self._at_boundary = False
        self.finished = False

    def feed(self, data: bytes) -> Iterator[Token]:
        """Raises CallerError 400."""
        if self.finished:
            return
        self._buffer += data
        while not self.finished:
            if self._at_boundary:
                part = self._begun()
                if part is None:
                    return
                yield part
            else:
                found = self._buffer.find(self._delimiter)
                end = found if found >= 0 else max(0, len(self._buffer) - len(self._delimiter) + 1)
                if end and self._in_part:
                    yield Data(self._buffer[:end])
                self._buffer = self._buffer[end:]
                if found < 0:
                    return
                if self._in_part:
                    yield PartEnd()
                self._buffer = self._buffer[len(self._delimiter) :]
                self._at_boundary, self._in_part = True, False

    def _begun(self) -> Part | None:
        """The part that begins behind a boundary; None when more must come first, or none will."""
        if self._buffer[:2] == b"--":
            self.finished = True
            return None
        end = self._buffer.find(b"\r\n\r\n")
        if len(self._buffer) >= 2 and self._buffer[:2] != b"\r\n":
            raise bad_request("The form is broken: a boundary is not followed by the end of its line.")
        if end < 0:
            if len(self._buffer) > limits.UPLOAD_PART_HEADER_BYTES_MAX:
                raise bad_request("The form is broken: the header of a part does not end.")
            return None
        self._parts += 1
        if self._parts > limits.UPLOAD_FIELDS_MAX:
            raise bad_request(f"The form has more than {limits.UPLOAD_FIELDS_MAX} fields.")
        header = self._buffer[2:end] if end > 0 else b""
        self._buffer = self._buffer[end + 4 :]
        self._at_boundary, self._in_part = False, True
        return _part_of(header)


def _part_of(header: bytes) -> Part:
    for line in header.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-disposition":
            text = value.decode("utf-8", "replace")
            found = {m[1].lower(): _unquoted(m[2]) if m[2] is not None else m[3] for m in _PARAMETER.finditer(text)}
            if "name" in found:
                return Part(found["name"], found.get("filename"))
    raise bad_request("The form is broken: a part has no name.")


def _unquoted(text: str) -> str:
    """What browsers and HTTP libraries put in quotes: they escape a quote as %22 or with a backslash."""
    return _QUOTED.sub(r"\1", text).replace("%22", '"')
