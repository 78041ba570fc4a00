"""The lines of a head as bytes: how they are written, found, and known again when an upstream repeats itself.

A head like one that the parser has read is compared, and not read again. Only values that mean nothing to the parser
may be others, and of the length only the number; whoever compares sees to it that the whole body follows and nothing
else. Owns no connection.
"""

import re
from functools import lru_cache
from typing import NamedTuple

FORM = b"\ncontent-type:"
_SAME = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"content-type", b"content-encoding"})
"""What must be the same again: it says how the answer ends, or what it is."""
_UNKNOWN = frozenset({b"transfer-encoding", b"upgrade", b"trailer"})
"""What leaves a head to the parser."""
_LENGTH = b"content-length"
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = rb"[\t -~\x80-\xff]*"  # RFC 9110 section 5.5


def header_block(headers: dict[str, str]) -> bytes:
    """Header lines as bytes. Raises ValueError for what would end a line early."""
    for name, value in headers.items():
        if not name.isascii() or any(character in name + value for character in "\r\n\0"):
            raise ValueError(f"the header {name!r} cannot be sent")
    return b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in headers.items())


def header_of(head: bytes, name: bytes) -> bytes:
    """The value of a header, of repeated ones the last; empty when there is none. `name` in lower case."""
    return line_of(head, b"\n%b:" % name)[len(name) + 2 :].strip()


def line_of(head: bytes, begins: bytes) -> bytes:
    """The last line that begins so, in whatever case; `begins` with the end of the line before."""
    lines = head[: head.find(b"\r\n\r\n")]
    at = lines.lower().rfind(begins)
    if at < 0:
        return b""
    end = lines.find(b"\n", at + 1)
    return lines[at : end if end >= 0 else None]


@lru_cache(maxsize=64)
def form_in(line: bytes) -> bytes:
    """What kind of body follows such a line of a head, in lower case and without parameters; of none, empty. An
    upstream writes it the same for all its answers of a kind."""
    return line.partition(b":")[2].partition(b";")[0].strip().lower()


class KnownAnswer(NamedTuple):
    """What heads look like of answers that end with the length they tell, on a connection that is kept."""

    head: re.Pattern[bytes]  # its first group is the length
    form: bytes  # see `form_in`


def known_of(head: bytes) -> KnownAnswer | None:
    """How to know one like this again, which told of 200 on a connection that is kept; None: the parser shall read
    it."""
    first, *lines = head[: head.find(b"\r\n\r\n")].split(b"\r\n")
    names = (line.partition(b":")[0] for line in lines)
    parts = (line if name.lower() in _SAME else name for name, line in zip(names, lines, strict=True))
    return _known(first, tuple(parts), form_in(line_of(head, FORM)))


@lru_cache(maxsize=64)
def _known(first: bytes, parts: tuple[bytes, ...], form: bytes) -> KnownAnswer | None:
    """Connections to one upstream learn the same. `parts`: a line where it must be the same, otherwise its name."""
    names = [part.partition(b":")[0].lower() for part in parts]
    if names.count(_LENGTH) != 1 or not _UNKNOWN.isdisjoint(names) or not all(map(_NAME.fullmatch, names)):
        return None
    pattern = [re.escape(first)]
    for part, name in zip(parts, names, strict=True):
        value = b": *([1-9][0-9]{0,8})" if name == _LENGTH else b"" if name in _SAME else b":" + _VALUE
        pattern.append(re.escape(part) + value)
    return KnownAnswer(re.compile(b"\r\n".join((*pattern, b"\r\n"))), form)
