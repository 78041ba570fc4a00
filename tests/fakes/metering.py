"""What metering's tests need: a disk that fails on command, and records made from small numbers."""

import errno
import threading
import time
from array import array
from collections.abc import Callable

from tests.fakes.parties import FakeAnswer

from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.offers import Offer
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Caller, Event, Order, Quote
from steelyard.kernel.settled import Closed, End, Moved, Opened
from steelyard.kernel.tariff import Tariff
from steelyard.metering.disk import Disk
from steelyard.metering.energy import EnergyGauge
from steelyard.metering.meter import Reading
from steelyard.metering.slots import Cell, Slots


class FaultyDisk(Disk):
    """The machine's disk until told otherwise."""

    def __init__(self) -> None:
        self.full = False  # nothing more can be allocated
        self.bytes_left: int | None = None  # a pwrite stores at most this many bytes, then ENOSPC
        self.sync_fails = False
        self.syncs = 0
        self.may_sync = threading.Event()
        self.may_sync.set()

    def allocate(self, fd: int, size: int) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().allocate(fd, size)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        if self.bytes_left is None:
            return super().pwrite(fd, data, offset)
        if self.bytes_left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = super().pwrite(fd, data[: self.bytes_left], offset)
        self.bytes_left -= written
        return written

    def sync(self, fd: int) -> None:
        assert self.may_sync.wait(30)
        self.syncs += 1
        if self.sync_fails:
            raise OSError(errno.EIO, "Input/output error")
        super().sync(fd)


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


def request_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def opened(number: int, *, slot: int = 0, model: str = "m", opened_ns: int = 1_000) -> Opened:
    return Opened(
        request_id=request_id(number),
        opened_ns=opened_ns,
        slot=slot,
        tenant_id=1,
        project_id=1,
        key_id=1,
        model=model,
        upstream="local",
        price_id=1,
        cost_id=2,
        currency="CNY",
        hold_nano=10**6,
        max_tokens=64,
        sequences=1,
        stream=True,
    )


def closed(number: int, output: int = 1) -> Closed:
    return Closed(request_id(number), 2_000, Usage(10, 0, output), End.COMPLETE.value, 5, 9)


def moved(number: int, upstream: str = "elsewhere") -> Moved:
    return Moved(request_id(number), 1_500, "m", upstream, 1, 3, 32)


def order(number: int, sequences: int = 1) -> Order:
    return Order(request_id(number), "m", {}, 100, None, sequences, True)


def quote(watts_milli: int = 0, priced_ns: int = 1_790_000_000 * NS_PER_S) -> Quote:
    price, cost = Tariff(1, "m", "CNY", 0, ()), Tariff(2, "local", "CNY", 0, (), watts_milli=watts_milli)
    caller, offer = Caller(1, 1, 1, "t", "p", "CNY"), Offer(1, "m", "local", "h:1", "m", 99, 99)
    return Quote(caller, offer, price, cost, 10**6, 64, False, priced_ns)


def intend(slots: Slots, index: int, usage: Usage, cpu_ns: int = 0, estimated: bool = False) -> None:
    """As a request in this cell does before it sends."""
    gauge = EnergyGauge(memoryview(array("Q", [0, cpu_ns, *bytes(4)])) if cpu_ns else None)
    guessed = frozenset({0} if estimated else ())
    Cell(opened(1, slot=index), slots, gauge, lambda: 0, 0, _running=1, guessed=guessed).intend(usage)


def commit(slots: Slots, index: int, last_ns: int = 0, *, first: bool = False) -> None:
    """As it does when that has left, `last_ns` after its open; `first`: for the first time."""
    seen_ns = 0 if first else 1
    Cell(opened(1, slot=index), slots, EnergyGauge(None), lambda: last_ns, 0, _first_token_ns=seen_ns).commit(Usage())


def hear(reading: Reading, sequence: int, estimated: bool) -> None:
    """An event of which nothing is sent."""
    assert reading.pass_on(FakeAnswer(), sequence, Event(estimated=estimated), Usage()) is None
