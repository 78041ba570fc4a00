"""Leases: both ends over queues that may hold every message up, and how much of a wallet is spent before refusals."""

import random
from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.fakes.ledger import Requests, shares_of

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.errors import CallerError
from steelyard.kernel.money import INT64_MAX
from steelyard.kernel.records import Granted, HoldAsk, Limit, LimitKind, Scope, Use
from steelyard.kernel.settled import Kind, Opened
from steelyard.ledger.gauges import WINDOW_NS, Seed
from steelyard.ledger.leases import DRY, LASTING, LOW, Leases, Pools
from steelyard.ledger.shares import Share
from steelyard.ledger.sublimits import by_subject, use_of
from steelyard.ledger.teller import Teller
from steelyard.ledger.wire import Held, Lease, LeaseAsk, Returned

TENANT = 1
SERIES = "w0-1"


def ask(number: int, want: int = 100, floor: int = 100, opened_ns: int = 0) -> HoldAsk:
    return HoldAsk(number.to_bytes(16, "big"), TENANT, want, floor, 3, 7, opened_ns or number, 10, 90)


def lend(leases: Leases, series: str = SERIES, worst_nano: int = 100) -> int:
    return leases.lend(TENANT, series, worst_nano, Use(3, 7, 0, 100)).amount_nano


def limit(kind: LimitKind, amount: int | None) -> Limit:
    return Limit(Scope.KEY, 7, TENANT, "backend", kind, amount)


# --- the teller's end ---------------------------------------------------------------------------------------------


def test_only_large_wallets_without_limits_lend() -> None:
    worth = limits.LEASE_WALLET_WORST_CASES_MIN
    for money, lent in ((100 * worth - 1, 0), (100 * worth, 100 * worth // 16), (10**9, 6400)):
        teller = Teller({TENANT: money})
        leases = Leases(teller)
        assert lend(leases) == lent
        assert (teller.held(TENANT), leases.amount(TENANT, SERIES)) == (lent, lent)
        assert leases.complaints([SERIES]) == teller.complaints() == []
    teller.limit(Seed(limit(LimitKind.RPM, 5)))
    assert lend(leases) == 0
    teller.limit(Seed(limit(LimitKind.RPM, None)))
    assert lend(leases) == 6400


def test_a_lease_has_one_living_holder() -> None:
    leases = Leases(Teller({TENANT: 10**9}))
    lend(leases)
    assert leases.complaints([]) == ["I7: tenant 1: nobody has the lease of w0-1"]
    leases.drop(SERIES)
    assert leases.holders(TENANT) == leases.complaints([]) == []


def test_nothing_is_lent_while_a_lease_is_called_back() -> None:
    leases = Leases(Teller({TENANT: 10**9}))
    lend(leases)
    assert leases.call_back(TENANT) == [SERIES]
    assert lend(leases) == lend(leases, "w1-2") == 0
    leases.dissolve(TENANT, SERIES, ())
    assert lend(leases, "w1-2") == 6400


def test_a_lease_that_is_called_back_waits_for_its_workers_word_even_when_nothing_is_left_of_it() -> None:
    """Else the word would end the next lease, whose money the worker has."""
    leases = Leases(Teller({TENANT: 10**9}))
    lend(leases)
    leases.call_back(TENANT)
    leases.give_back(TENANT, SERIES, 6400)
    assert lend(leases) == 0
    leases.dissolve(TENANT, SERIES, ())
    assert lend(leases) == 6400


def test_what_was_settled_while_the_lease_was_called_back_is_not_held_again() -> None:
    teller = Teller({TENANT: 10**9})
    leases = Leases(teller)
    lend(leases)
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
    lend(leases, "w0-9")
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
    assert pools.lend(TENANT, 0, 6)
    assert not pools.wants(ask(0), 6, round_trip=True), "refused: quiet for a while"


def test_a_lease_is_drawn_refilled_and_goes_back_when_idle() -> None:
    pools = Pools()
    assert not pools.lend(TENANT, 500, 0), "nobody asked for it"
    assert any(pools.wants(ask(0), 0, round_trip=True) for _ in range(limits.LEASE_ROUND_TRIPS_MIN))
    assert pools.lend(TENANT, 400, 0)
    assert [pools.draw(ask(number), 1) for number in range(2)] == [LASTING, LASTING]
    assert not pools.wants(ask(1), 1, round_trip=False)
    assert pools.draw(ask(2), 1) == LOW
    assert pools.wants(ask(2), 1, round_trip=False), "below a half"
    assert pools.draw(ask(3, want=200), 1) == DRY
    assert pools.release(ask(0).request_id)
    assert not pools.release(ask(0).request_id)
    assert pools.free(TENANT) == 200
    assert list(pools.idle(2)) == []
    assert list(pools.idle(1 + limits.LEASE_IDLE_S)) == [(TENANT, 200, ())]
    assert pools.dissolve(TENANT, 4) == [ask(1), ask(2)]
    assert not pools.release(ask(1).request_id), "the books hold it one by one now"


@pytest.mark.parametrize("used", [0, 30, 100, 150])
def test_both_ends_count_what_a_request_used_of_a_share(used: int) -> None:
    teller, pools = Teller({TENANT: 10**9}), Pools()
    leases = Leases(teller)
    teller.limit(Seed(limit(LimitKind.TPM, 1_000_000)))
    assert any(pools.wants(ask(0), 0, round_trip=True) for _ in range(limits.LEASE_ROUND_TRIPS_MIN))
    lent = leases.lend(TENANT, SERIES, 100, use_of(ask(0), 90))
    assert pools.lend(TENANT, lent.amount_nano, 0, lent.share)
    assert pools.draw(ask(1), 0) == LASTING
    assert leases.settle(TENANT, SERIES, ask(1).request_id, 100, Use(3, 7, 1, used))
    teller.settle(ask(1).request_id, TENANT, 100, 0, Use(3, 7, 1, used))
    pools.settled([(ask(1).request_id, used)])
    ((tenant_id, amount_nano, shares),) = pools.idle(limits.LEASE_IDLE_S)
    assert shares == (Share(3, 7, 63, 6400 - used),)
    assert teller.shares_aside() == by_subject([(TENANT, shares[0])])
    leases.give_back(tenant_id, SERIES, amount_nano, shares)
    assert teller.shares_aside() == {}


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
                pools[worker].lend(TENANT, lend(leases, series, asked.want_nano), now_s)
        else:
            refusals += 1
        if len(running) == 4 or (not granted.amount_nano and running):
            ended = running.pop(chance.randrange(len(running)))
            charge = min(100_000, int(chance.expovariate(1 / 8000)))
            request_id = ended.asked.request_id
            if ended.granted.lease:
                leases.settle(TENANT, ended.granted.lease, request_id, 100_000)
            teller.settle(request_id, TENANT, 100_000, charge, Use(3, 7, 0, 5))
            pools[ended.worker].settled([(request_id, 5)])
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
    asks: dict[bytes, HoldAsk] = field(default_factory=dict)
    leased: dict[bytes, str] = field(default_factory=dict)  # open records: request → lease
    to_books: deque[object] = field(default_factory=deque)
    to_worker: deque[object] = field(default_factory=deque)


class Recall(NamedTuple):
    tenant_id: int


class Slow(RuleBasedStateMachine):
    """Whatever is under way: nothing is promised twice, nothing leaks, and all comes back in the end."""

    limited: tuple[Limit, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.used: list[tuple[int, int]] = []  # (opened, tokens) of what has ended
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
        worker, asked = self.workers[which], ask(self.number, want, want, self.now_s * NS_PER_S + self.number)
        leased = worker.pools.draw(asked, self.now_s)
        if not leased:
            try:
                granted = self.teller.grant(asked, worker.series, whole=True)
            except CallerError:
                return
            if granted is None or not granted.amount_nano:
                return
            for _ in range(limits.LEASE_ROUND_TRIPS_MIN - 1):  # as if it were busy
                worker.pools.wants(asked, self.now_s, round_trip=True)
        worker.holds[asked.request_id] = Held(asked.request_id, TENANT, want, use_of(asked, 90))
        worker.asks[asked.request_id] = asked
        worker.leased[asked.request_id] = worker.series if leased else ""
        if worker.pools.wants(asked, self.now_s, round_trip=not leased):
            worker.to_books.append(LeaseAsk(TENANT, want, use_of(asked, 90)))

    @rule(which=st.integers(0, 1), count=st.integers(1, 12))
    def crowd(self, which: int, count: int) -> None:
        """Requests in a row, and for once nothing is slow."""
        for _ in range(count):
            self.hold(which, 100)
            self.arrive(which)

    def arrive(self, which: int) -> None:
        worker = self.workers[which]
        while worker.to_books or worker.to_worker:
            self.to_books(which)
            self.to_worker(which)

    @rule(data=st.data(), which=st.integers(0, 1))
    def release(self, data: st.DataObject, which: int) -> None:
        worker = self.workers[which]
        open_ = sorted(worker.leased.keys() & worker.holds.keys())
        if open_:
            request_id = data.draw(st.sampled_from(open_))
            del worker.holds[request_id], worker.leased[request_id]
            if not worker.pools.release(request_id):
                worker.to_books.append(request_id)

    @rule(data=st.data(), which=st.integers(0, 1), part=st.integers(0, 100))
    def settle(self, data: st.DataObject, which: int, part: int) -> None:
        """The journal is read on its own way, past all queues."""
        worker = self.workers[which]
        if worker.leased:
            request_id = data.draw(st.sampled_from(sorted(worker.leased)))
            self._settle(worker, request_id, part)
            worker.to_worker.append((request_id, part))

    def _settle(self, worker: _Worker, request_id: bytes, part: int) -> None:
        amount, lease = worker.holds[request_id].amount_nano, worker.leased.pop(request_id)
        opened_ns = worker.asks[request_id].opened_ns
        used = Use(3, 7, opened_ns, part)
        self.used.append((opened_ns, part))
        if lease:
            self.leases.settle(TENANT, lease, request_id, amount, used)
        taken = self.teller.settle(request_id, TENANT, amount, amount * part // 100, used)
        assert taken == amount * part // 100, "a charge within its hold is always paid"
        self.balance -= taken

    @rule(which=st.integers(0, 1))
    def to_books(self, which: int) -> None:
        worker = self.workers[which]
        if not worker.to_books:
            return
        match worker.to_books.popleft():
            case LeaseAsk() as asked:
                lent = self.leases.lend(TENANT, worker.series, asked.worst_nano, asked.use)
                worker.to_worker.append(Lease(TENANT, *lent))
            case Returned(holds=None) as told:
                self.leases.give_back(TENANT, worker.series, told.amount_nano, told.shares)
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
                if not worker.pools.lend(TENANT, lease.amount_nano, self.now_s, lease.share):
                    shares = () if lease.share is None else (lease.share,)
                    worker.to_books.append(Returned(TENANT, lease.amount_nano, shares=shares))
            case Recall():
                told = worker.pools.dissolve(TENANT, self.now_s)
                worker.to_books.append(Returned(TENANT, 0, tuple(worker.holds[one.request_id] for one in told)))
            case (request_id, used):
                if worker.holds.pop(request_id, None) is not None:
                    worker.pools.settled([(request_id, used)])

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
            for _, amount, shares in worker.pools.idle(self.now_s):
                worker.to_books.append(Returned(TENANT, amount, shares=shares))

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
        for limit_ in self.limited:
            self.teller.limit(Seed(limit_, recent=tuple(self.used)))
        for which in range(len(self.workers)):
            self.reconnect(which)

    @precondition(lambda self: self.number > 3)
    @rule()
    def settle_down(self) -> None:
        """Every message arrives, every request ends: nothing is held by anybody."""
        for _ in range(3):
            self.recall()
            for which in range(len(self.workers)):
                self.arrive(which)
        for worker in self.workers:
            for request_id in list(worker.leased):
                self._settle(worker, request_id, 50)
                worker.holds.pop(request_id)
        assert self.teller.held(TENANT) == 0
        assert self.leases.holders(TENANT) == []
        assert self.teller.shares_aside() == {}

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


class Limited(Slow):
    """... and no key gets a request or a token more than its limits say."""

    most_requests = most_tokens = INT64_MAX
    bounds: ClassVar = {"LEASE_WALLET_WORST_CASES_MIN": 4, "LEASE_WALLET_PARTS": 2}

    def __init__(self) -> None:
        self.before = {name: getattr(limits, name) for name in self.bounds}
        self._bound_by(self.bounds)
        super().__init__()

    def teardown(self) -> None:
        self._bound_by(self.before)

    @staticmethod
    def _bound_by(bounds: dict[str, int]) -> None:
        for name, value in bounds.items():
            setattr(limits, name, value)

    def promised(self) -> tuple[int, int]:
        """Requests and tokens that workers may let in, or have let in by themselves and nobody has settled yet."""
        drawn = sum(
            lease != "" and self.teller.find(one) is None
            for worker in self.workers
            for one, lease in worker.leased.items()
        )
        shares = [share for worker in self.workers for share in shares_of(worker.pools, TENANT)]
        return sum(one.requests for one in shares) + drawn, sum(one.tokens for one in shares) + 100 * drawn

    @invariant()
    def no_share_is_promised_twice(self) -> None:
        requests, tokens = self.promised()
        lent = self.teller.shares_aside().get((Scope.KEY.value, 7), (0, 0))
        assert requests <= lent[0] and tokens <= lent[1]
        if not any(worker.to_books or worker.to_worker for worker in self.workers):
            assert (requests, tokens) == lent, "nothing leaks"

    @invariant()
    def limits_hold(self) -> None:
        running = [worker.asks[one] for worker in self.workers for one in worker.leased]
        used = self.used + [(asked.opened_ns, 100) for asked in running]
        for moment, _ in used:
            window = [tokens for opened, tokens in used if moment - WINDOW_NS < opened <= moment]
            assert len(window) <= self.most_requests
            assert sum(window) <= self.most_tokens


class FewRequests(Limited):
    most_requests = 24
    limited = (limit(LimitKind.RPM, most_requests),)


class FewTokens(Limited):
    most_tokens = 1800
    limited = (limit(LimitKind.TPM, most_tokens),)


TestSlow, TestFewRequests, TestFewTokens = Slow.TestCase, FewRequests.TestCase, FewTokens.TestCase
for case in (TestSlow, TestFewRequests, TestFewTokens):
    case.settings = settings(max_examples=60, stateful_step_count=60)
