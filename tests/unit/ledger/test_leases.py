"""Leases: both ends over queues that may hold every message up, and how much of a wallet is spent before refusals."""

import random
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.fakes.ledger import Requests

from steelyard.kernel import limits
from steelyard.kernel.records import Granted, HoldAsk, Limit, LimitKind, Scope, Use
from steelyard.kernel.settled import Kind, Opened
from steelyard.ledger.leases import DRY, LASTING, LOW, Leases, Pools
from steelyard.ledger.sublimits import Seed, use_of
from steelyard.ledger.teller import Teller
from steelyard.ledger.wire import Held, Lease, LeaseAsk, Returned

TENANT = 1
SERIES = "w0-1"


def ask(number: int, want: int = 100, floor: int = 100) -> HoldAsk:
    return HoldAsk(number.to_bytes(16, "big"), TENANT, want, floor, 3, 7, number, 10, 90)


def limit(kind: LimitKind, amount: int | None) -> Limit:
    return Limit(Scope.KEY, 7, TENANT, "backend", kind, amount)


# --- the teller's end ---------------------------------------------------------------------------------------------


def test_only_large_wallets_without_limits_lend() -> None:
    worth = limits.LEASE_WALLET_WORST_CASES_MIN
    for money, lent in ((100 * worth - 1, 0), (100 * worth, 100 * worth // 16), (10**9, 6400)):
        teller = Teller({TENANT: money})
        leases = Leases(teller)
        assert leases.lend(TENANT, SERIES, 100) == lent
        assert (teller.held(TENANT), leases.amount(TENANT, SERIES)) == (lent, lent)
        assert leases.complaints([SERIES]) == teller.complaints() == []
    teller.limit(Seed(limit(LimitKind.RPM, 5)))
    assert leases.lend(TENANT, SERIES, 100) == 0
    teller.limit(Seed(limit(LimitKind.RPM, None)))
    assert leases.lend(TENANT, SERIES, 100) == 6400


def test_a_lease_has_one_living_holder() -> None:
    leases = Leases(Teller({TENANT: 10**9}))
    leases.lend(TENANT, SERIES, 100)
    assert leases.complaints([]) == ["I7: tenant 1: nobody has the lease of w0-1"]
    leases.drop(SERIES)
    assert leases.holders(TENANT) == leases.complaints([]) == []


def test_nothing_is_lent_while_a_lease_is_called_back() -> None:
    leases = Leases(Teller({TENANT: 10**9}))
    leases.lend(TENANT, SERIES, 100)
    assert leases.call_back(TENANT) == [SERIES]
    assert leases.lend(TENANT, SERIES, 100) == leases.lend(TENANT, "w1-2", 100) == 0
    leases.dissolve(TENANT, SERIES, ())
    assert leases.lend(TENANT, "w1-2", 100) == 6400


def test_a_lease_that_is_called_back_waits_for_its_workers_word_even_when_nothing_is_left_of_it() -> None:
    """Else the word would end the next lease, whose money the worker has."""
    leases = Leases(Teller({TENANT: 10**9}))
    leases.lend(TENANT, SERIES, 100)
    leases.call_back(TENANT)
    leases.give_back(TENANT, SERIES, 6400)
    assert leases.lend(TENANT, SERIES, 100) == 0
    leases.dissolve(TENANT, SERIES, ())
    assert leases.lend(TENANT, SERIES, 100) == 6400


def test_what_was_settled_while_the_lease_was_called_back_is_not_held_again() -> None:
    teller = Teller({TENANT: 10**9})
    leases = Leases(teller)
    leases.lend(TENANT, SERIES, 100)
    leases.call_back(TENANT)
    assert leases.settle(TENANT, SERIES, ask(1).request_id, 100)
    teller.settle(ask(1).request_id, TENANT, 100, 60)
    told = [Held(ask(number).request_id, TENANT, 100, use_of(ask(number), 90)) for number in (1, 2)]
    leases.dissolve(TENANT, SERIES, told)  # the worker had not heard of it yet
    assert (teller.balance(TENANT), teller.held(TENANT)) == (10**9 - 60, 100)
    assert teller.owned(SERIES) == {ask(2).request_id}


def test_a_series_from_an_earlier_epoch_has_no_say() -> None:
    teller = Teller({TENANT: 10**9})
    leases = Leases(teller)
    leases.lend(TENANT, "w0-9", 100)
    leases.give_back(TENANT, SERIES, 100)
    leases.dissolve(TENANT, SERIES, [Held(ask(1).request_id, TENANT, 100)])
    assert not leases.settle(TENANT, SERIES, ask(1).request_id, 100)
    assert (leases.amount(TENANT, "w0-9"), teller.held(TENANT)) == (6400, 6400)


def test_open_records_from_before_leases_are_read() -> None:
    record = Requests().opened()
    fields = record.__struct_fields__
    later = fields.index("lease")
    assert fields[:later][-1] == "stream", "fields are only ever added at the end"
    written = [int(Kind.OPENED), *(getattr(record, name) for name in fields[:later])]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(written), type=Opened) == record


# --- the worker's end ---------------------------------------------------------------------------------------------


def test_a_worker_asks_for_a_lease_only_when_it_is_busy() -> None:
    pools = Pools()
    for number in range(limits.LEASE_ROUND_TRIPS_MIN - 1):
        assert not pools.wants(ask(number), 5, round_trip=True)
    assert not pools.wants(ask(0), 6, round_trip=True), "another second begins at one"
    asked = [pools.wants(ask(number), 6, round_trip=True) for number in range(100)]
    assert asked.count(True) == 1, "one answer is waited for"
    assert pools.lend(TENANT, 0, 6) == 0
    assert not pools.wants(ask(0), 6, round_trip=True), "refused: quiet for a while"


def test_a_lease_is_drawn_refilled_and_goes_back_when_idle() -> None:
    pools = Pools()
    assert pools.lend(TENANT, 500, 0) == 500, "nobody asked for it"
    assert any(pools.wants(ask(0), 0, round_trip=True) for _ in range(limits.LEASE_ROUND_TRIPS_MIN))
    assert pools.lend(TENANT, 400, 0) == 0
    assert [pools.draw(ask(number), 1) for number in range(2)] == [LASTING, LASTING]
    assert not pools.wants(ask(1), 1, round_trip=False)
    assert pools.draw(ask(2), 1) == LOW
    assert pools.wants(ask(2), 1, round_trip=False), "below a half"
    assert pools.draw(ask(3, want=200), 1) == DRY
    assert pools.release(ask(0).request_id, TENANT, 100)
    assert not pools.release(ask(0).request_id, TENANT, 100)
    assert pools.free(TENANT) == 200
    assert list(pools.idle(2)) == []
    assert list(pools.idle(1 + limits.LEASE_IDLE_S)) == [(TENANT, 200)]
    assert pools.dissolve(TENANT, 4) == {ask(1).request_id, ask(2).request_id}
    assert not pools.release(ask(1).request_id, TENANT, 100), "the books hold it one by one now"


# --- how much of a wallet is spent before a storm of refusals ------------------------------------------------------


class _Running(NamedTuple):
    worker: int
    asked: HoldAsk
    granted: Granted


def spent_share(worst_cases: int, workers: int, seed: int) -> tuple[float, int]:
    """The share of a wallet worth so many worst cases that is spent at the 51st refusal, and the round trips; four
    requests run at a time, each holds 100 and costs 8 on average."""
    chance = random.Random(seed)
    wallet = worst_cases * 100_000
    teller = Teller({TENANT: wallet})
    leases, pools = Leases(teller), [Pools() for _ in range(workers)]
    holds: dict[bytes, Held] = {}
    running: list[_Running] = []
    refusals = round_trips = number = 0
    while refusals < 51:
        number += 1
        worker, asked, now_s = chance.randrange(workers), ask(number, 100_000, 100_000), number // 500
        series = f"w{worker}-1"
        leased = pools[worker].draw(asked, now_s)
        granted: Granted | None = Granted(100_000, 90, series)
        if not leased:
            round_trips += 1
            granted = teller.grant(asked, series, whole=True)
            if granted is None:
                for one in leases.call_back(TENANT):
                    told = pools[int(one[1])].dissolve(TENANT, now_s)
                    leases.dissolve(TENANT, one, [holds[request_id] for request_id in told])
                granted = teller.grant(asked, series)
        assert granted is not None
        if granted.amount_nano:
            running.append(_Running(worker, asked, granted))
            holds[asked.request_id] = Held(asked.request_id, TENANT, granted.amount_nano, use_of(asked, 90))
            if pools[worker].wants(asked, now_s, round_trip=not leased):
                pools[worker].lend(TENANT, leases.lend(TENANT, series, asked.want_nano), now_s)
        else:
            refusals += 1
        if len(running) == 4 or (not granted.amount_nano and running):
            ended = running.pop(chance.randrange(len(running)))
            charge = min(100_000, int(chance.expovariate(1 / 8000)))
            request_id = ended.asked.request_id
            if ended.granted.lease:
                leases.settle(TENANT, ended.granted.lease, request_id, 100_000)
            teller.settle(request_id, TENANT, 100_000, charge, Use(3, 7, 0, 5))
            pools[ended.worker].settled(request_id, TENANT)
            del holds[request_id]
            assert teller.complaints() == []
            assert leases.complaints({f"w{worker}-1" for worker in range(workers)}) == []
    assert 0 <= teller.balance(TENANT) <= wallet, "overspent"
    return (wallet - teller.balance(TENANT)) / wallet, round_trips


@pytest.mark.parametrize(("worst_cases", "least"), [(20, 0.91), (200, 0.97)])
def test_a_wallet_is_spent_before_refusals_begin(worst_cases: int, least: float) -> None:
    shares = [spent_share(worst_cases, 4, seed)[0] for seed in range(5)]
    assert sum(shares) / 5 >= least, shares


def test_a_large_wallet_is_held_out_of_leases() -> None:
    share, round_trips = spent_share(1000, 4, 1)
    assert share > 0.99
    assert round_trips < 60_000, "of some 250,000 requests"


# --- both ends over slow queues ------------------------------------------------------------------------------------


@dataclass
class _Worker:
    """What `TellerClient` does, message by message."""

    series: str
    pools: Pools = field(default_factory=Pools)
    holds: dict[bytes, Held] = field(default_factory=dict)
    leased: dict[bytes, str] = field(default_factory=dict)  # open records: request → lease
    to_books: deque[object] = field(default_factory=deque)
    to_worker: deque[object] = field(default_factory=deque)


class Recall(NamedTuple):
    tenant_id: int


class Slow(RuleBasedStateMachine):
    """Whatever is under way: nothing is promised twice, nothing leaks, and all comes back in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        self.epoch = 0
        self.now_s = 0
        self.balance = 200_000
        self.workers: list[_Worker] = []
        self.restart_books()
        for _ in range(2):
            self.add_worker()

    def add_worker(self) -> None:
        self.epoch += 1
        self.workers.append(_Worker(f"w{self.epoch}"))

    def worker_of(self, series: str) -> _Worker | None:
        return next((worker for worker in self.workers if worker.series == series), None)

    @rule(which=st.integers(0, 1), want=st.integers(1, 900))
    def hold(self, which: int, want: int) -> None:
        self.number += 1
        worker, asked = self.workers[which], ask(self.number, want, want)
        leased = worker.pools.draw(asked, self.now_s)
        if not leased:
            granted = self.teller.grant(asked, worker.series)
            if granted is None or not granted.amount_nano:
                return
            for _ in range(limits.LEASE_ROUND_TRIPS_MIN - 1):  # as if it were busy
                worker.pools.wants(asked, self.now_s, round_trip=True)
        worker.holds[asked.request_id] = Held(asked.request_id, TENANT, want, use_of(asked, 90))
        worker.leased[asked.request_id] = worker.series if leased else ""
        if worker.pools.wants(asked, self.now_s, round_trip=not leased):
            worker.to_books.append(LeaseAsk(TENANT, want))

    @rule(data=st.data(), which=st.integers(0, 1))
    def release(self, data: st.DataObject, which: int) -> None:
        worker = self.workers[which]
        open_ = sorted(worker.leased.keys() & worker.holds.keys())
        if open_:
            request_id = data.draw(st.sampled_from(open_))
            held = worker.holds.pop(request_id)
            del worker.leased[request_id]
            if not worker.pools.release(request_id, TENANT, held.amount_nano):
                worker.to_books.append(request_id)

    @rule(data=st.data(), which=st.integers(0, 1), part=st.integers(0, 100))
    def settle(self, data: st.DataObject, which: int, part: int) -> None:
        """The journal is read on its own way, past all queues."""
        worker = self.workers[which]
        if worker.leased:
            request_id = data.draw(st.sampled_from(sorted(worker.leased)))
            self._settle(worker, request_id, part)
            worker.to_worker.append(request_id)

    def _settle(self, worker: _Worker, request_id: bytes, part: int) -> None:
        amount, lease = worker.holds[request_id].amount_nano, worker.leased.pop(request_id)
        if lease:
            self.leases.settle(TENANT, lease, request_id, amount)
        taken = self.teller.settle(request_id, TENANT, amount, amount * part // 100, Use(3, 7, 0, 5))
        assert taken == amount * part // 100, "a charge within its hold is always paid"
        self.balance -= taken

    @rule(which=st.integers(0, 1))
    def to_books(self, which: int) -> None:
        worker = self.workers[which]
        if not worker.to_books:
            return
        match worker.to_books.popleft():
            case LeaseAsk() as asked:
                amount = self.leases.lend(TENANT, worker.series, asked.worst_nano)
                worker.to_worker.append(Lease(TENANT, amount))
            case Returned(holds=None) as told:
                self.leases.give_back(TENANT, worker.series, told.amount_nano)
            case Returned(holds=holds):
                self.leases.dissolve(TENANT, worker.series, holds or ())
            case bytes() as request_id:
                hold = self.teller.find(request_id)
                if hold is not None and hold.owner == worker.series:
                    self.teller.release(request_id)

    @rule(which=st.integers(0, 1))
    def to_worker(self, which: int) -> None:
        worker = self.workers[which]
        if not worker.to_worker:
            return
        match worker.to_worker.popleft():
            case Lease() as lease:
                over = worker.pools.lend(TENANT, lease.amount_nano, self.now_s)
                if over:
                    worker.to_books.append(Returned(TENANT, over))
            case Recall():
                told = worker.pools.dissolve(TENANT, self.now_s)
                worker.to_books.append(Returned(TENANT, 0, tuple(worker.holds[one] for one in sorted(told))))
            case bytes() as request_id:
                if worker.holds.pop(request_id, None) is not None:
                    worker.pools.settled(request_id, TENANT)

    @rule()
    def recall(self) -> None:
        for series in self.leases.call_back(TENANT):
            worker = self.worker_of(series)
            if worker is not None:
                worker.to_worker.append(Recall(TENANT))

    @rule()
    def later(self) -> None:
        self.now_s += 3
        for worker in self.workers:
            worker.to_books.extend(Returned(TENANT, amount) for _, amount in worker.pools.idle(self.now_s))

    @rule(which=st.integers(0, 1))
    def reconnect(self, which: int) -> None:
        """The link is lost with all that was on it; the worker tells all its holds."""
        worker = self.workers[which]
        worker.to_books.clear()
        worker.to_worker.clear()
        worker.pools.void()
        worker.holds = {request_id: held for request_id, held in worker.holds.items() if request_id in worker.leased}
        self.leases.drop(worker.series)
        for request_id, held in worker.holds.items():
            self.teller.release(request_id)
            self.teller.hold(request_id, TENANT, held.amount_nano, 0, worker.series, held.use)
        for request_id in self.teller.owned(worker.series) - worker.holds.keys():
            self.teller.release(request_id)

    @rule(which=st.integers(0, 1), part=st.integers(0, 100))
    def die(self, which: int, part: int) -> None:
        """What the dead worker had opened is settled from its slots, the rest goes back."""
        worker = self.workers.pop(which)
        for request_id in list(worker.leased):
            self._settle(worker, request_id, part)
        self.teller.owner_gone(worker.series)
        self.leases.drop(worker.series)
        self.add_worker()

    @rule()
    def restart_books(self) -> None:
        self.teller = Teller({TENANT: self.balance})
        self.leases = Leases(self.teller)
        for which in range(len(self.workers)):
            self.reconnect(which)

    @precondition(lambda self: self.number > 3)
    @rule()
    def settle_down(self) -> None:
        """Every message arrives, every request ends: nothing is held by anybody."""
        for _ in range(3):
            self.recall()
            for which, worker in enumerate(self.workers):
                while worker.to_books or worker.to_worker:
                    self.to_books(which)
                    self.to_worker(which)
        for worker in self.workers:
            for request_id in list(worker.leased):
                self._settle(worker, request_id, 50)
                worker.holds.pop(request_id)
        assert self.teller.held(TENANT) == 0
        assert self.leases.holders(TENANT) == []

    @invariant()
    def nothing_is_promised_twice(self) -> None:
        promised = sum(
            sum(worker.holds[one].amount_nano for one in worker.leased) + worker.pools.free(TENANT)
            for worker in self.workers
        )
        assert promised <= self.teller.held(TENANT) <= self.teller.balance(TENANT) == self.balance

    @invariant()
    def books_agree(self) -> None:
        assert self.teller.complaints({TENANT: self.balance}) == []
        assert self.leases.complaints(worker.series for worker in self.workers) == []


TestSlow = Slow.TestCase
TestSlow.settings = settings(max_examples=60, stateful_step_count=60)
