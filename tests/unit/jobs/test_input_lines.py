"""The input file of a batch: every complaint names its line."""

import json
from pathlib import Path
from typing import Any

import pytest

from steelyard.jobs.input_lines import Checked, check, lines_of
from steelyard.kernel import limits

CHAT = "/v1/chat/completions"


def line(custom_id: object = "a", **changes: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": []} | changes.pop("body", {})
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body} | changes


def checked(tmp_path: Path, *lines: object) -> Checked:
    path = tmp_path / "in"
    path.write_bytes(b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in lines))
    return check(path, CHAT)


def test_a_batch_is_as_many_requests_as_it_has_lines_that_are_not_blank(tmp_path: Path) -> None:
    found = checked(tmp_path, b"\xef\xbb\xbf" + json.dumps(line("a")).encode(), b"", line("b", extra=1), b"  ")
    assert (found.total, found.model, found.problems) == (2, "m", ())
    assert [one.custom_id for one in lines_of(tmp_path / "in")] == ["a", "b"]


@pytest.mark.parametrize(
    ("wrong", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"\xff{}", "invalid_json_line", None),
        (b"[" * 100_000, "invalid_line", None),
        (b"[]", "invalid_line", None),
        ({"custom_id": "b"}, "invalid_line", "method"),
        (line(7), "invalid_line", "custom_id"),
        (line(""), "invalid_line", "custom_id"),
        (line("x" * 513), "invalid_line", "custom_id"),
        (line("a"), "duplicate_custom_id", "custom_id"),
        (line("b", method="GET"), "invalid_method", "method"),
        (line("b", url="/v1/embeddings"), "mismatched_url", "url"),
        (line("b", body={"model": "other"}), "mismatched_model", "body.model"),
        (line("b", body={"model": 3}), "invalid_line", "body.model"),
        (line("b", body={"stream": True}), "stream_not_supported", "body.stream"),
        ({**line("b"), "body": []}, "invalid_line", "body"),
        ({**line("b"), "body": {}}, "invalid_line", "body.model"),
    ],
)
def test_a_line_at_fault_is_named(tmp_path: Path, wrong: object, code: str, param: str | None) -> None:
    (problem,) = checked(tmp_path, line("a"), wrong, line("c")).problems
    assert (problem.code, problem.line, problem.param) == (code, 2, param)
    assert problem.message.endswith(".")


def test_a_file_without_lines_is_no_batch(tmp_path: Path) -> None:
    assert [one.code for one in checked(tmp_path, b"", b" ").problems] == ["empty_file"]


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BATCH_LINES_MAX", 2)
    (problem,) = checked(tmp_path, *(line(str(n)) for n in range(4))).problems
    assert (problem.code, problem.line) == ("too_many_lines", 3)
    monkeypatch.setattr(limits, "BATCH_LINES_MAX", 100)
    monkeypatch.setattr(limits, "BATCH_PROBLEMS_MAX", 3)
    assert len(checked(tmp_path, *[b"{"] * 9).problems) == 3
    large = json.dumps(line("b", body={"x": "y" * (limits.BODY_BYTES_MAX + 2**17)})).encode()
    found = checked(tmp_path, line("a"), large, line("c"))
    assert (found.total, [(one.code, one.line) for one in found.problems]) == (3, [("line_too_large", 2)])
