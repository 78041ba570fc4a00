"""A coroutine without a task: begun at once, and gone on with in the very call that brings what it waits for.

Owns how a coroutine is resumed. `Run` drives one; `Signal` is what it waits for when somebody of ours will bring it,
`Watch` what stands in for it as long as nothing but looking is to be done.
Futures, time-outs and cancellation of asyncio work inside a `Run` as inside a task: it takes part in
`asyncio.current_task` as a task of a third party may ("Extending" in asyncio's documentation). Under a task a `Signal`
is a future. Knows no network and no flow.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Generator
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

T = TypeVar("T")

_current: Any  # the current task of each loop, as asyncio knows it
if sys.version_info < (3, 14):
    _current = asyncio.tasks._current_tasks  # type: ignore[attr-defined]
else:

    class _Current:
        """The same, where that is no dict any more."""

        get = staticmethod(asyncio.current_task)

        def __setitem__(self, loop: asyncio.AbstractEventLoop, task: Any) -> None:
            asyncio.tasks._swap_current_task(loop, task)

        def __delitem__(self, loop: asyncio.AbstractEventLoop) -> None:
            asyncio.tasks._swap_current_task(loop, None)

    _current = _Current()

_resumed: "Run | None" = None
"""The run that is being resumed, of whatever loop; None as well when it has resumed another one meanwhile."""


class Run(msgspec.Struct, eq=False):
    """One coroutine on its way. `done(run)` is called once, when it has returned or raised; see `error`.

    What the coroutine raises is never raised into whoever resumes it.
    """

    _coroutine: Coroutine[Any, Any, Any]
    _loop: asyncio.AbstractEventLoop
    _done: Callable[["Run"], None]
    over: bool = False
    result: Any = None
    error: BaseException | None = None
    _asked: int = 0  # how often it was asked to end
    _must_cancel: bool = False
    _waits_for: "asyncio.Future[Any] | Signal[Any] | None" = None

    def cancel(self, msg: object = None) -> bool:
        """Raise CancelledError where it waits, in the loop's next turn; False when it is over. As Task.cancel."""
        if self.over:
            return False
        self._asked += 1
        self._must_cancel = True
        waits_for = self._waits_for
        if isinstance(waits_for, Signal):
            waits_for.resume = None
            self._end_soon()
        elif waits_for is not None and waits_for.cancel():
            self._must_cancel = False  # the future brings it
        return True

    def cancelling(self) -> int:
        """How many requests to end were not taken back; as Task.cancelling."""
        return self._asked

    def uncancel(self) -> int:
        """Take one back; as Task.uncancel, which asyncio.timeout calls."""
        self._asked = max(0, self._asked - 1)
        return self._asked

    def done(self) -> bool:
        """As Future.done: what asks a current task for it finds an answer."""
        return self.over

    def _wake(self, future: "asyncio.Future[Any]") -> None:
        self._go_on()

    def _go_on(self) -> None:
        """Resume it until it waits again. Whoever calls may be inside a task or another run: that one stands aside."""
        global _resumed  # noqa: PLW0603 - a thread that sees another one's sees that it is not of its loop
        loop = self._loop
        outer = _current.get(loop)
        _current[loop] = _resumed = self
        self._waits_for = None
        try:
            if self._must_cancel:
                self._must_cancel = False
                waits_for = self._coroutine.throw(asyncio.CancelledError())
            else:
                waits_for = self._coroutine.send(None)
        except StopIteration as end:
            self.over, self.result = True, end.value
        except BaseException as error:  # noqa: BLE001 - as a task: who resumes it is a stranger; `_done` hears of it
            self.over, self.error = True, error
        else:
            if isinstance(waits_for, Signal) and not self._must_cancel:
                self._waits_for, waits_for.resume = waits_for, self._go_on
            else:
                self._wait(waits_for)
        finally:
            _resumed = None
            if outer is None:
                del _current[loop]
            else:
                _current[loop] = outer
        if self.over:
            self._done(self)

    start = _go_on
    """Run until it waits for the first time, or to its end."""

    def _end_soon(self) -> None:
        self._waits_for = None
        self._loop.call_soon(self._go_on)

    def _wait(self, waits_for: Any) -> None:
        self._waits_for = waits_for
        if isinstance(waits_for, Signal):
            self._end_soon()  # it is to be cancelled
        elif waits_for is None:  # asyncio.sleep(0)
            self._loop.call_soon(self._go_on)
        else:
            waits_for._asyncio_future_blocking = False
            waits_for.add_done_callback(self._wake)
            if self._must_cancel and waits_for.cancel():
                self._must_cancel = False


class Signal(msgspec.Struct, Generic[T], eq=False, kw_only=True):
    """Something that will be brought once: `give(value)` or `fail(error)`, and one `await`.

    Under a `Run`, the awaiting coroutine goes on inside `give`: call it last, when everything is in order. What was
    brought before the await is there without waiting. `wanted` tells whether somebody waits. Who needs no coroutine for
    what he does then sets `resume`. A struct, because one is made for every piece of an answer.
    """

    stays: ClassVar[bool] = False
    """Whether it is to be given to again and again, see `Watch`."""

    resume: Callable[[], None] | None = None
    _future: asyncio.Future[None] | None = None
    _brought: bool = False
    _value: T | None = None
    error: BaseException | None = None

    @property
    def wanted(self) -> bool:
        return self.resume is not None or self._future is not None

    def fail(self, error: BaseException) -> None:
        """Bring an error: the await raises it."""
        if not self._brought:
            self.error = error
            self.give()

    def give(self, value: T | None = None) -> None:
        """Bring it; of several the first counts."""
        if self._brought:
            return
        self._brought, self._value = True, value
        if (resume := self.resume) is not None:  # under a run
            self.resume = None
            resume()
        elif self._future is not None and not self._future.done():
            self._future.set_result(None)

    def __await__(self) -> Generator[Any, None, T]:
        if not self._brought:
            loop, run = asyncio.get_running_loop(), _resumed
            if (run is not None and run._loop is loop) or isinstance(_current.get(loop), Run):
                yield self
            else:
                self._future = loop.create_future()
                try:
                    yield from self._future
                finally:
                    self._future = None
        if self.error is not None:
            try:
                raise self.error
            finally:
                self.error = None  # whose traceback has this frame: they would keep each other, and all they know
        return self._value  # type: ignore[return-value]


class Watch(Signal[T], eq=False):
    """A signal that stays: each `give` has `step` look at what has come, in that very call. It is brought when `step`
    returns something or raises, and that comes out of the await.

    So what comes often needs no coroutine to be resumed. When nobody waits any more, nobody looks. Under a task it is
    brought by the first `give`, with nothing: what `step` found there would be lost if the task were cancelled.
    """

    stays: ClassVar[bool] = True
    _step: Callable[[], T | None]

    def give(self, value: T | None = None) -> None:
        if self.resume is None:
            if self._future is not None:
                super().give()
            return
        try:
            found = self._step()
        except BaseException as error:  # noqa: BLE001 - told to whoever waits, who settles; its giver is a stranger
            self.error = error
            super().give()
        else:
            if found is not None:
                super().give(found)
