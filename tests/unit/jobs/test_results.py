"""The files a job writes: whole lines only, kept when they are on the medium, never two writers."""

import asyncio
import json
from pathlib import Path

import pytest

from steelyard.jobs.content import Content
from steelyard.jobs.records import Job
from steelyard.jobs.results import LineError, Results
from steelyard.kernel.ids import text_from_id

JOB = Job(bytes(16), 1, 1, 1, "/v1/chat/completions", b"i" * 16, b"o" * 16, b"e" * 16, 0, 1, 60)
ONE, TWO, THREE = (bytes([n]) * 16 for n in (1, 2, 3))


@pytest.fixture
def content(tmp_path: Path) -> Content:
    return Content(tmp_path)


def written(content: Content, file_id: bytes) -> list[dict]:
    return [json.loads(line) for line in content.path(file_id).read_text().splitlines()]


async def test_lines_have_the_shape_of_the_batch_api(content: Content) -> None:
    results = Results(content, JOB)
    await asyncio.gather(
        results.keep("a", ONE, b'{"x":\n1}'),
        results.refuse("b", 402, TWO, b'{"error":{}}'),
        results.leave_out({"c": THREE}, LineError("batch_expired", "Late.")),
    )
    assert written(content, JOB.output_id) == [
        {
            "id": text_from_id(ONE, "batch_req"),
            "custom_id": "a",
            "response": {"status_code": 200, "request_id": text_from_id(ONE), "body": {"x": 1}},
            "error": None,
        }
    ]
    refused, left_out = sorted(written(content, JOB.error_id), key=lambda one: one["custom_id"])
    assert (refused["response"]["status_code"], refused["error"]) == (402, None)
    assert (left_out["response"], left_out["error"]) == (None, {"code": "batch_expired", "message": "Late."})
    assert (results.completed, results.failed) == (1, 2)
    assert results.sizes_bytes == tuple(content.size(one) for one in (JOB.output_id, JOB.error_id))
    await results.close()


async def test_a_torn_line_was_never_kept(content: Content) -> None:
    results = Results(content, JOB)
    await results.keep("a", ONE, b"{}")
    await results.close()
    whole = content.path(JOB.output_id).read_bytes()
    for torn in (whole[:-1], b'{"custom_id":"b"', b"\0" * 30 + b"\n"):
        content.path(JOB.output_id).write_bytes(whole + torn)
        results = Results(content, JOB)
        assert (results.completed, results.has("a"), results.has("b")) == (1, True, False)
        await results.keep("b", TWO, b"{}")
        await results.close()
        assert [one["custom_id"] for one in written(content, JOB.output_id)] == ["a", "b"]


async def test_what_was_not_counted_is_taken_out_and_may_come_again(content: Content) -> None:
    results = Results(content, JOB)
    for name, request_id in (("a", ONE), ("b", TWO), ("c", THREE)):
        await results.keep(name, request_id, b"{}")
    await results.close()
    results = Results(content, JOB)
    assert results.last_answers == [ONE, TWO, THREE]
    results.forget_answers({TWO})
    assert (results.completed, results.has("b"), results.last_answers) == (2, False, [ONE, THREE])
    await results.keep("b", b"\4" * 16, b"{}")
    assert [one["custom_id"] for one in written(content, JOB.output_id)] == ["a", "c", "b"]
    with pytest.raises(BlockingIOError):
        Results(content, JOB)
    await results.close()


async def test_a_disk_that_refuses_leaves_what_was_kept(content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results(content, JOB)
    await results.keep("a", ONE, b"{}")

    def torn(fd: int, data: bytes, offset: int) -> None:
        import os

        os.pwrite(fd, data[:5], offset)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("steelyard.jobs.results.write_whole", torn)
        with pytest.raises(OSError, match="No space"):
            await results.keep("b", TWO, b"{}")
    assert not results.has("b")
    await results.keep("c", THREE, b"{}")
    assert [one["custom_id"] for one in written(content, JOB.output_id)] == ["a", "c"]
    await results.close()


async def test_what_could_not_be_synced_is_not_there_either(content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody was charged for it, so its line is to run again."""
    results = Results(content, JOB)
    await results.keep("a", ONE, b"{}")

    def refused(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("steelyard.jobs.results._disk.sync", refused)
        asked = [results.keep(name, request, b"{}") for name, request in (("b", TWO), ("c", THREE))]
        said = await asyncio.gather(*asked, return_exceptions=True)
    assert [str(one) for one in said] == ["[Errno 5] Input/output error"] * 2
    await results.keep("d", b"\4" * 16, b"{}")
    await results.close()
    results = Results(content, JOB)
    assert [one["custom_id"] for one in written(content, JOB.output_id)] == ["a", "d"]
    assert (results.completed, results.has("b")) == (2, False)
    await results.close()


async def test_what_cannot_be_opened_whole_is_let_go_whole(content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both files' locks are free for the next try."""
    with monkeypatch.context() as broken:
        broken.setattr(Content, "sync_names", lambda _: Path("nowhere").stat())
        for _ in range(2):
            with pytest.raises(OSError, match="nowhere"):
                Results(content, JOB)
    results = Results(content, JOB)
    with pytest.raises(BlockingIOError):
        Results(content, JOB)
    await results.close()
