"""The input file of a job: one request a line, checked as a whole before the first one runs.

Owns what a line is and every complaint about one. Reads the disk, so call it in a thread. Knows no dialect: what is in
a body is checked by the dialect when the line runs, and then only this line fails.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from steelyard.jobs.records import Problem
from steelyard.kernel import limits

CustomId = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.BATCH_CUSTOM_ID_CHARACTERS_MAX)]


class Line(msgspec.Struct, frozen=True):
    """One line of the file."""

    custom_id: CustomId
    method: str
    url: str
    body: msgspec.Raw


class _Body(msgspec.Struct, frozen=True):
    """What is looked at before a line runs."""

    model: str
    stream: bool | None = None


class Checked(NamedTuple):
    """What a file holds; it is a batch when there are no problems."""

    total: int
    model: str
    problems: tuple[Problem, ...]


_decode_line = msgspec.json.Decoder(Line).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_LINE_BYTES_MAX = limits.BODY_BYTES_MAX + 64 * 1024  # a body, and what stands around it


class _Wrong(Exception):
    """One line is no request of this batch."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


def lines_of(path: Path) -> Iterator[Line]:
    """The lines of a file that was checked."""
    for _, raw in _raw_lines(path):
        yield _decode_line(raw)


def check(path: Path, endpoint: str) -> Checked:
    """Look at every line. A bounded number of problems is told."""
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    total, model = 0, ""
    for number, raw in _raw_lines(path):
        total += 1
        if total > limits.BATCH_LINES_MAX:
            text = f"A batch has at most {limits.BATCH_LINES_MAX} lines. Split it."
            problems.append(Problem("too_many_lines", text, number))
            break
        try:
            line, body = _read(raw, endpoint)
            first = seen.setdefault(line.custom_id, number)
            if first != number:
                raise _Wrong(
                    "duplicate_custom_id",
                    f"This custom_id stands in line {first} already. Give each its own.",
                    "custom_id",
                )
            model = model or body.model
            if body.model != model:
                raise _Wrong(
                    "mismatched_model", f"All lines of a batch ask one model, and line 1 asks {model!r}.", "body.model"
                )
        except _Wrong as wrong:
            problems.append(Problem(wrong.code, str(wrong), number, wrong.param))
            if len(problems) >= limits.BATCH_PROBLEMS_MAX:
                break
    if not total:
        problems.append(Problem("empty_file", "The input file has no line."))
    return Checked(total, model, tuple(problems))


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number from 1 and bytes of every line that is not blank. Of one beyond the bound only the beginning."""
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(_LINE_BYTES_MAX + 1):
            number += 1
            while not raw.endswith(b"\n") and len(raw) > _LINE_BYTES_MAX and (rest := file.readline(_LINE_BYTES_MAX)):
                if rest.endswith(b"\n"):
                    break
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if raw.strip():
                yield number, raw


def _read(raw: bytes, endpoint: str) -> tuple[Line, _Body]:
    if len(raw) > _LINE_BYTES_MAX:
        raise _Wrong("line_too_large", f"The line is larger than {limits.BODY_BYTES_MAX // 2**20} MB.")
    try:
        line = _decode_line(raw)
    except msgspec.ValidationError as error:
        raise _Wrong("invalid_line", f"{error}.", _field(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Wrong("invalid_json_line", f"This line is not valid JSON: {error}.") from None
    if line.method != "POST":
        raise _Wrong("invalid_method", "The method must be POST.", "method")
    if line.url != endpoint:
        raise _Wrong("mismatched_url", f"The url must be the endpoint of the batch, {endpoint}.", "url")
    try:
        body = _decode_body(line.body)
    except msgspec.ValidationError as error:
        field = _field(str(error))
        raise _Wrong("invalid_line", f"The body: {error}.", f"body.{field}" if field else "body") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Wrong("invalid_json_line", f"The body is not valid JSON: {error}.") from None
    if body.stream:
        raise _Wrong("stream_not_supported", "A batch answers in a file: leave 'stream' out.", "body.stream")
    return line, body


def _field(said: str) -> str | None:
    """The field at fault in a decoder's sentence."""
    sentence, _, place = said.partition(" - at `$")
    if "missing required field" in sentence:
        return sentence.rpartition("field ")[2].strip("`")
    return place.rstrip("`").lstrip(".") or None
