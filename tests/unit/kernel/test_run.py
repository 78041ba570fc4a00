"""A coroutine without a task begins at once, goes on in the call that brings what it waits for, and ends as told."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from steelyard.kernel.run import Run, Signal, Watch


class Ends:
    """What a run ended with."""

    def __init__(self) -> None:
        self.runs: list[Run] = []

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> Run:
        run = Run(coroutine, asyncio.get_running_loop(), self.runs.append)
        run.start()
        return run


@pytest.fixture
def ends() -> Ends:
    return Ends()


async def heard(signal: Signal[str], said: list[str]) -> str:
    said.append("begun")
    word = await signal
    said.append(word)
    return word


async def test_it_begins_and_goes_on_inside_the_calls_that_move_it(ends: Ends) -> None:
    signal, said = Signal[str](), []
    run = ends.begin(heard(signal, said))
    assert said == ["begun"] and signal.wanted and not run.over
    signal.give("word")
    assert said == ["begun", "word"] and run.over and run.result == "word" and ends.runs == [run]


async def test_what_was_brought_before_is_not_waited_for(ends: Ends) -> None:
    signal = Signal[str]()
    signal.give("early")
    signal.give("late")
    assert ends.begin(heard(signal, [])).result == "early"


async def test_an_error_that_was_raised_is_not_kept_by_those_its_traceback_knows(ends: Ends) -> None:
    """Else signal and error would keep each other, and every frame between."""
    signal = Signal[str]()
    run = ends.begin(heard(signal, []))
    signal.fail(ValueError("no"))
    assert isinstance(run.error, ValueError) and signal.error is None


async def test_an_error_is_raised_at_the_await_and_told_at_the_end(ends: Ends) -> None:
    signal = Signal[str]()
    run = ends.begin(heard(signal, []))
    signal.fail(LookupError("gone"))
    assert isinstance(run.error, LookupError) and ends.runs == [run]


async def test_under_a_task_a_signal_is_a_future() -> None:
    signal = Signal[str]()
    task = asyncio.ensure_future(heard(signal, []))
    await asyncio.sleep(0)
    assert signal.wanted
    signal.give("word")
    assert await task == "word"


async def test_a_cancelled_task_no_longer_wants_its_signal() -> None:
    signal = Signal[str]()
    task = asyncio.ensure_future(heard(signal, []))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not signal.wanted
    signal.give("to nobody")


async def test_cancel_ends_it_where_it_waits_and_what_is_brought_later_comes_to_nobody(ends: Ends) -> None:
    signal, said = Signal[str](), []
    run = ends.begin(heard(signal, said))
    assert run.cancel() and run.cancel()
    assert not signal.wanted
    signal.give("late")
    await asyncio.sleep(0)
    assert run.over and isinstance(run.error, asyncio.CancelledError)
    assert said == ["begun"] and not run.cancel() and ends.runs == [run]


async def test_cancel_reaches_one_that_waits_for_a_future(ends: Ends) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait() -> None:
        await future

    run = ends.begin(wait())
    run.cancel()
    assert future.cancelled()
    while not run.over:
        await asyncio.sleep(0)
    assert isinstance(run.error, asyncio.CancelledError)


async def test_a_run_that_asks_for_its_own_end_ends_at_its_next_wait(ends: Ends) -> None:
    runs: list[Run] = []

    async def cancels_itself() -> None:
        await asyncio.sleep(0)
        runs[0].cancel()
        await asyncio.get_running_loop().create_future()

    runs.append(ends.begin(cancels_itself()))
    while not runs[0].over:
        await asyncio.sleep(0)
    assert isinstance(runs[0].error, asyncio.CancelledError)


async def test_one_that_asks_for_its_own_end_does_not_wait_for_a_signal(ends: Ends) -> None:
    runs: list[Run] = []

    async def cancels_itself() -> None:
        await asyncio.sleep(0)
        runs[0].cancel()
        await Signal[None]()

    runs.append(ends.begin(cancels_itself()))
    for _ in range(5):
        await asyncio.sleep(0)
    assert runs[0].over and isinstance(runs[0].error, asyncio.CancelledError)


async def test_time_outs_of_asyncio_hold_inside(ends: Ends) -> None:
    async def patient() -> str:
        try:
            async with asyncio.timeout(0.001):
                await Signal[None]()
        except TimeoutError:
            return "late"
        return "in time"

    run = ends.begin(patient())
    while not run.over:
        await asyncio.sleep(0.001)
    assert run.result == "late" and run.cancelling() == 0


async def test_a_task_that_resumes_one_is_still_the_current_one_afterwards(ends: Ends) -> None:
    signal, seen = Signal[str](), []

    async def look() -> None:
        await signal
        seen.append(asyncio.current_task())

    run = ends.begin(look())
    me = asyncio.current_task()
    signal.give("on")
    assert seen == [run] and asyncio.current_task() is me


async def test_one_run_may_move_another(ends: Ends) -> None:
    first, second = Signal[str](), Signal[str]()
    said: list[str] = []

    async def passes_on() -> None:
        second.give(await first)
        said.append("passed on")

    ends.begin(heard(second, said))
    ends.begin(passes_on())
    first.give("word")
    assert said == ["begun", "word", "passed on"]


async def test_ordinary_futures_and_pauses_are_waited_for(ends: Ends) -> None:
    async def waits() -> int:
        await asyncio.sleep(0)
        return await asyncio.to_thread(lambda: 7)

    run = ends.begin(waits())
    while not run.over:
        await asyncio.sleep(0.001)
    assert run.result == 7


class Steps:
    """What a watch looks at: words that have come; nothing, a word or an error is found."""

    def __init__(self) -> None:
        self.found: list[str | Exception | None] = []
        self.looks = 0

    def __call__(self) -> str | None:
        self.looks += 1
        one = self.found.pop(0)
        if isinstance(one, Exception):
            raise one
        return one


async def test_a_watch_looks_in_each_call_and_is_brought_by_what_it_finds(ends: Ends) -> None:
    steps, said = Steps(), []
    watch = Watch(steps)
    run = ends.begin(heard(watch, said))
    steps.found = [None, None, "word", "late"]
    watch.give()
    watch.give()
    assert steps.looks == 2 and not run.over
    watch.give()
    watch.give()
    assert steps.looks == 3 and said == ["begun", "word"] and run.result == "word"


async def test_what_a_watch_finds_to_be_wrong_is_raised_where_it_is_awaited(ends: Ends) -> None:
    steps = Steps()
    watch = Watch(steps)
    run = ends.begin(heard(watch, []))
    steps.found = [None, LookupError("gone")]
    watch.give()
    watch.give()
    assert isinstance(run.error, LookupError)


async def test_nobody_looks_for_one_who_waits_no_more_or_not_yet(ends: Ends) -> None:
    steps = Steps()
    watch = Watch(steps)
    watch.give()
    run = ends.begin(heard(watch, []))
    run.cancel()
    watch.give()
    await asyncio.sleep(0)
    watch.give()
    assert steps.looks == 0 and isinstance(run.error, asyncio.CancelledError)


async def test_under_a_task_nobody_looks_but_the_task_itself() -> None:
    steps, said = Steps(), []
    watch = Watch(steps)
    task = asyncio.ensure_future(heard(watch, said))
    await asyncio.sleep(0)
    watch.give()
    watch.give()
    assert steps.looks == 0 and said == ["begun"]
    assert await task is None
    other = Watch(steps)
    cancelled = asyncio.ensure_future(heard(other, []))
    await asyncio.sleep(0)
    other.give()
    cancelled.cancel()
    other.give()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert steps.looks == 0
