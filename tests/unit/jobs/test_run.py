"""One job in a worker: what is kept, what is tried again, and how it ends."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from steelyard.jobs.content import Content
from steelyard.jobs.records import Job, JobState, Progress
from steelyard.jobs.run import House, JobLost, LineAsk, Run, Said
from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, ManualClock
from steelyard.kernel.errors import CallerError, unavailable
from steelyard.kernel.ids import Ids

CHAT = "/v1/chat/completions"
INPUT, OUTPUT, ERRORS = b"i" * 16, b"o" * 16, b"e" * 16


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "JOB_LOOK_S", 0.005)
    monkeypatch.setattr(limits, "LINE_WAIT_S", (0, 0))


class FakeDesk:
    """The books: takes reports, and says what state to go on in."""

    series = "w0-1"

    def __init__(self) -> None:
        self.reports: list[Progress] = []
        self.state: JobState | None = None  # instead of what is reported
        self.uncounted: list[bytes] = []
        self.away = 0

    async def command(self, op: str, payload: dict[str, Any]) -> Any:
        if op == "job.uncounted":
            return [one for one in payload["requests"] if one in self.uncounted]
        if self.away:
            self.away -= 1
            raise unavailable("books_unavailable", "Away.")
        progress = msgspec.convert(payload, Progress)
        self.reports.append(progress)
        return (progress.state if progress.state.ended else self.state or progress.state).value

    @property
    def end(self) -> Progress:
        return self.reports[-1]


class FakeGate:
    """Answers what `script` has under a line's custom id, one after another, and 200 then."""

    def __init__(self, script: dict[str, list[Said | Exception]]) -> None:
        self.script = script
        self.asked: list[str] = []
        self.models = {"m"}
        self.on_ask: Callable[[str], None] = lambda name: None

    def offers(self, model: str) -> bool:
        return model in self.models

    async def serve(self, line: LineAsk) -> Said:
        name = json.loads(line.body)["name"]
        self.asked.append(name)
        self.on_ask(name)
        await asyncio.sleep(0)
        if self.script.get(name):
            said = self.script[name].pop(0)
            if isinstance(said, Exception):
                raise said
            return said
        await line.keep(b'{"name":"%b"}' % name.encode())
        return Said(200)


class Place:
    def __init__(self, folder: Path, names: list[str], script: dict[str, list[Said | Exception]]) -> None:
        self.content = Content(folder)
        self.clock = ManualClock()
        self.desk, self.gate = FakeDesk(), FakeGate(script)
        lines = [
            {"custom_id": name, "method": "POST", "url": CHAT, "body": {"model": "m", "name": name}} for name in names
        ]
        self.content.path(INPUT).write_text("".join(json.dumps(line) + "\n" for line in lines))
        now_ns = self.clock.now_ns()
        deadline_ns = now_ns + limits.BATCH_WINDOW_S * NS_PER_S
        self.job = Job(bytes(16), 1, 1, 1, CHAT, INPUT, OUTPUT, ERRORS, now_ns, deadline_ns, 60)

    async def run(self, state: JobState = JobState.VALIDATING, total: int = 0) -> None:
        parts = (self.desk, self.gate, self.content, self.clock, Ids(self.clock).next, asyncio.Semaphore(2), 2)
        await Run(House(*parts), msgspec.structs.replace(self.job, state=state, total=total)).run()

    def found(self, file_id: bytes) -> dict[str, dict]:
        lines = [json.loads(text) for text in self.content.path(file_id).read_text().splitlines()]
        found = {line["custom_id"]: line for line in lines}
        assert len(found) == len(lines)
        return found


REFUSED = Said(400, b'{"error":{"code":"invalid_request"}}')
BUSY = Said(429, b'{"error":{}}', 1)
FAILED = Said(502, b'{"error":{}}')
AWAY = Said(404, b'{"error":{"code":"model_not_found"}}')


async def test_every_line_is_answered_or_reported_once(tmp_path: Path) -> None:
    script: dict[str, list[Said | Exception]] = {
        "b": [REFUSED],
        "c": [BUSY, BUSY, BUSY, BUSY, BUSY],
        "d": [FAILED, FAILED],
        "e": [FAILED] * 5,
        "f": [AWAY, AWAY],
        "g": [Said(401, b"{}")],
        "h": [Said(429, b"{}")],  # waiting does not help
        "i": [Said(429, b"{}", limits.BATCH_WINDOW_S + 1)],
    }
    place = Place(tmp_path, list("abcdefghi"), script)
    place.desk.away = 3
    await place.run()
    assert place.found(OUTPUT).keys() == set("acdf")
    assert {name: line["response"]["status_code"] for name, line in place.found(ERRORS).items()} == {
        "b": 400, "e": 502, "g": 401, "h": 429, "i": 429,
    }  # fmt: skip
    assert place.gate.asked.count("e") == limits.LINE_TRIES_MAX
    end = place.desk.end
    assert (end.state, end.counts.total, end.counts.completed, end.counts.failed) == (JobState.COMPLETED, 9, 4, 5)
    assert (end.output_bytes, end.error_bytes) == (place.content.size(OUTPUT), place.content.size(ERRORS))
    states = [report.state for report in place.desk.reports]
    assert states == sorted(states, key=["in_progress", "finalizing", "completed"].index)


async def test_a_file_that_is_no_batch_runs_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path, ["a", "a"], {})
    await place.run()
    assert (place.desk.end.state, place.gate.asked) == (JobState.FAILED, [])
    assert [problem.code for problem in place.desk.end.problems] == ["duplicate_custom_id"]
    place = Place(tmp_path, ["a"], {})
    place.gate.models = set()
    await place.run()
    assert [problem.code for problem in place.desk.end.problems] == ["model_not_found"]
    place.content.remove(INPUT)
    await place.run(JobState.IN_PROGRESS, 1)
    assert [problem.code for problem in place.desk.end.problems] == ["file_lost"]


async def test_who_goes_on_runs_only_what_has_no_result(tmp_path: Path) -> None:
    place = Place(tmp_path, list("abcd"), {"c": [OSError(28, "full")], "b": [REFUSED]})
    with pytest.raises(OSError, match="full"):
        await place.run()
    kept = place.found(OUTPUT)
    assert "a" in kept and "c" not in kept
    before = len(place.gate.asked)
    await place.run(JobState.IN_PROGRESS, 4)
    assert not {"a", "b", *kept} & set(place.gate.asked[before:])
    assert place.found(OUTPUT).keys() == set("acd")
    assert place.desk.end.state is JobState.COMPLETED


async def test_no_line_is_begun_whose_answer_a_full_disk_would_not_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its vendor would be paid for it, and then again every few seconds for as long as the disk is full."""
    place = Place(tmp_path, list("abc"), {})
    with monkeypatch.context() as full, pytest.raises(OSError, match="kept free for the books"):
        full.setattr(limits, "FILES_FREE_BYTES_MIN", 1 << 60)
        await place.run()
    assert place.gate.asked == []
    await place.run(JobState.IN_PROGRESS, total=3)
    assert place.found(OUTPUT).keys() == set("abc")


async def test_an_answer_that_was_kept_and_not_counted_runs_again(tmp_path: Path) -> None:
    place = Place(tmp_path, list("abc"), {})
    await place.run()
    ran = {name: bytes.fromhex(line["response"]["request_id"][4:]) for name, line in place.found(OUTPUT).items()}
    place.desk.uncounted = [ran["b"]]
    await place.run(JobState.IN_PROGRESS, 3)
    assert place.gate.asked.count("b") == 2 and place.gate.asked.count("a") == 1
    again = place.found(OUTPUT)
    assert again.keys() == ran.keys()
    assert bytes.fromhex(again["b"]["response"]["request_id"][4:]) != ran["b"]


async def test_at_the_deadline_the_rest_is_reported_as_expired(tmp_path: Path) -> None:
    place = Place(tmp_path, list("abcdef"), {"b": [BUSY] * 1000})

    def late(name: str) -> None:
        if name == "d":
            place.clock.advance(limits.BATCH_WINDOW_S * NS_PER_S)

    place.gate.on_ask = late
    await place.run()
    answered, expired = place.found(OUTPUT), place.found(ERRORS)
    assert answered.keys() | expired.keys() == set("abcdef") and not answered.keys() & expired.keys()
    assert {"a", "c", "d"} <= answered.keys() and {"b", "f"} <= expired.keys()
    assert {line["error"]["code"] for line in expired.values()} == {"batch_expired"}
    assert place.desk.end.state is JobState.EXPIRED


async def test_a_cancelled_job_begins_no_line_and_reports_the_rest(tmp_path: Path) -> None:
    place = Place(tmp_path, [f"n{n}" for n in range(50)], {"n3": [BUSY] * 10**6})

    def cancelled(name: str) -> None:
        if name == "n3":
            place.desk.state = JobState.CANCELLING

    place.gate.on_ask = cancelled
    await place.run()
    answered, left_out = place.found(OUTPUT), place.found(ERRORS)
    assert len(answered) + len(left_out) == 50 and "n3" in left_out and "n0" in answered
    assert {line["error"]["code"] for line in left_out.values()} == {"batch_cancelled"}
    assert place.desk.end.state is JobState.CANCELLED


async def test_a_job_that_belongs_to_another_is_left_alone(tmp_path: Path) -> None:
    place = Place(tmp_path, ["a"], {"a": [BUSY] * 10**6})

    async def lost(op: str, payload: dict[str, Any]) -> Any:
        if len(place.gate.asked) > 3:
            raise CallerError(409, "job_lost", "Lost.")
        return "in_progress"

    place.desk.command = lost  # type: ignore[method-assign]
    with pytest.raises(JobLost):
        await place.run()
    assert place.content.size(OUTPUT) == 0


async def test_a_job_cancelled_before_it_was_looked_at_runs_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path, list("abc"), {})
    place.desk.state = JobState.CANCELLING
    await place.run(JobState.CANCELLING)
    assert place.gate.asked == []
    assert place.found(ERRORS).keys() == set("abc")
    assert (place.desk.end.state, place.desk.end.counts.total) == (JobState.CANCELLED, 3)


async def test_a_model_whose_engine_is_just_starting_is_waited_for(tmp_path: Path) -> None:
    place = Place(tmp_path, ["a"], {})
    looks = iter([False, False, True])
    place.gate.offers = lambda model: next(looks)  # type: ignore[method-assign]
    await place.run()
    assert place.desk.end.state is JobState.COMPLETED
