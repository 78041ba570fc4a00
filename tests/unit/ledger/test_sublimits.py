"""Sub-limits: each kind against a brute-force oracle, window ends, refusals in words, and nothing that leaks."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.errors import CallerError
from steelyard.kernel.records import Granted, HoldAsk, Limit, LimitKind, Scope, Use
from steelyard.ledger.gauges import WINDOW_NS, Seed
from steelyard.ledger.part import money_for, tokens_within
from steelyard.ledger.teller import Teller

NOW_NS = 1_790_000_000 * NS_PER_S
RICH = 10**15


def _id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def limit(kind: LimitKind, amount: int | None, scope: Scope = Scope.KEY, subject_id: int = 7, **more: object) -> Limit:
    made = Limit(scope, subject_id, 1, "backend", kind, amount)
    if kind is LimitKind.BUDGET:
        made = msgspec.structs.replace(made, currency="CNY", every="month")
    return msgspec.structs.replace(made, **more)


def teller(*limits: Limit, money: int = RICH) -> Teller:
    made = Teller({1: money, 2: money})
    for one in limits:
        made.limit(Seed(one))
    return made


def ask(number: int, at_ns: int = NOW_NS, *, key: int = 7, want: int = 100, floor: int = 10, **more: int) -> HoldAsk:
    made = HoldAsk(_id(number), 1, want, floor, 3, key, at_ns, prompt_tokens=10, max_tokens=90)
    return msgspec.structs.replace(made, **more)


def used(asked: HoldAsk, tokens: int = 0) -> Use:
    return Use(asked.project_id, asked.key_id, asked.opened_ns, tokens)


def refused(books: Teller, asked: HoldAsk) -> CallerError:
    with pytest.raises(CallerError) as error:
        books.grant(asked, "w0-1")
    assert books.find(asked.request_id) is None
    return error.value


# --- requests in any 60 seconds -----------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 200), min_size=1, max_size=60), st.integers(1, 6), st.lists(st.booleans(), min_size=60))
def test_never_more_requests_in_any_60_seconds_and_none_refused_with_fewer(
    seconds: list[int], most: int, back: list[bool]
) -> None:
    """In the order of time, with some given back at once: those leave no trace."""
    books, admitted = teller(limit(LimitKind.RPM, most)), list[int]()
    for number, second in enumerate(sorted(seconds)):
        at_ns = NOW_NS + second * NS_PER_S
        within = [one for one in admitted if one > at_ns - WINDOW_NS]
        if len(within) >= most:
            wait = refused(books, ask(number, at_ns)).retry_after_s
            assert wait == (within[-most] + WINDOW_NS - at_ns) // NS_PER_S
        else:
            assert books.grant(ask(number, at_ns), "w0-1") == Granted(100, 90)
            if back[number]:
                books.release(_id(number))
            else:
                admitted.append(at_ns)
                books.settle(_id(number), 1, 100, 5, used(ask(number, at_ns)))


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=60), st.integers(1, 4))
def test_requests_that_come_in_another_order_than_they_were_opened(jitter_ms: list[int], most: int) -> None:
    books, admitted = teller(limit(LimitKind.RPM, most)), list[int]()
    for number, ms in enumerate(jitter_ms):
        at_ns = NOW_NS + number * 7 * NS_PER_S + ms * 1_000_000
        moments = sorted([*admitted, at_ns])
        fits = all(b - a >= WINDOW_NS for a, b in zip(moments, moments[most:], strict=False))
        if fits:
            books.grant(ask(number, at_ns), "w0-1")
            admitted.append(at_ns)
        else:
            refused(books, ask(number, at_ns))


def test_a_window_is_over_to_the_nanosecond() -> None:
    books = teller(limit(LimitKind.RPM, 1))
    books.grant(ask(1), "w0-1")
    assert refused(books, ask(2, NOW_NS + WINDOW_NS - 1)).retry_after_s == 1
    assert books.grant(ask(2, NOW_NS + WINDOW_NS), "w0-1") == Granted(100, 90)


def test_a_refusal_for_another_reason_is_no_request() -> None:
    books = teller(limit(LimitKind.RPM, 1), money=50)
    assert books.grant(ask(1, floor=60), "w0-1") == Granted(0)
    assert books.grant(ask(2, want=50), "w0-1") == Granted(50, 90)
    error = refused(books, ask(3))
    assert (error.status, error.code, error.retry_after_s) == (429, "rate_limit_exceeded", 60)
    assert error.message == "The key 'backend' may make 1 request in 60 seconds. Try again in 60 seconds."


def test_a_clock_that_jumped_ahead_and_came_back_does_not_shut_a_key_out() -> None:
    books = teller(limit(LimitKind.RPM, 1), limit(LimitKind.TPM, 1000))
    for number, at_ns in enumerate((NOW_NS, NOW_NS + 3600 * NS_PER_S, NOW_NS + NS_PER_S + 2 * WINDOW_NS)):
        assert books.grant(ask(number, at_ns), "w0-1") == Granted(100, 90)
        books.settle(_id(number), 1, 100, 5, used(ask(number, at_ns), 990))


# --- tokens in 60 seconds -----------------------------------------------------------------------------------------


def test_tokens_lower_what_is_asked_then_refuse_and_real_counts_make_room() -> None:
    books = teller(limit(LimitKind.TPM, 250))
    assert books.grant(ask(1), "w0-1") == Granted(100, 90)
    assert books.grant(ask(2), "w0-1") == Granted(100, 90)
    third = books.grant(ask(3), "w0-1")
    assert third is not None
    assert third.max_tokens == 40
    assert 49 <= third.amount_nano <= 52
    assert refused(books, ask(4)).retry_after_s == 1
    books.settle(_id(1), 1, 100, 30, used(ask(1), 25))  # 100 were reserved
    assert books.grant(ask(4, NOW_NS + NS_PER_S), "w0-1") == Granted(77, 65)
    books.settle(_id(2), 1, 100, 30, used(ask(2), 100))
    error = refused(books, ask(5, NOW_NS + 20 * NS_PER_S))
    assert error.retry_after_s == 40
    assert "250 tokens in 60 seconds" in error.message
    assert books.grant(ask(5, NOW_NS + 60 * NS_PER_S), "w0-1") == Granted(100, 90)


def test_a_request_that_can_never_fit_is_told_so() -> None:
    error = refused(teller(limit(LimitKind.TPM, 250)), ask(1, prompt_tokens=300))
    assert (error.status, error.retry_after_s) == (429, None)
    assert error.message.startswith("This request needs at least 301 tokens, and the key 'backend' may use 250 tokens")


def test_several_sequences_each_need_a_token() -> None:
    books = teller(limit(LimitKind.TPM, 100))
    assert books.grant(ask(1, prompt_tokens=80, sequences=4), "w0-1") == Granted(17, 5)
    assert refused(books, ask(2, prompt_tokens=97, sequences=4)).retry_after_s is None


def test_what_has_no_output_tokens_needs_room_for_its_prompt_only() -> None:
    books = teller(limit(LimitKind.TPM, 100))
    reads = {"max_tokens": 0, "want": 50, "floor": 50}
    assert books.grant(ask(1, prompt_tokens=60, **reads), "w0-1") == Granted(50, 0)
    assert books.grant(ask(1, prompt_tokens=60, **reads), "w0-1") == Granted(50, 0)  # asked again
    assert books.grant(ask(2, prompt_tokens=40, **reads), "w0-1") == Granted(50, 0)
    assert refused(books, ask(3, prompt_tokens=1, **reads)).status == 429


@given(
    st.integers(1, 400), st.integers(1, 5), st.integers(1, 9000), st.integers(1, 1000), st.integers(0, 10**6), st.data()
)
def test_money_and_tokens_bound_each_other_without_a_price(
    most: int, sequences: int, pico: int, per: int, prompt_nano: int, data: st.DataObject
) -> None:
    """No token that money covers is left out of what is reserved, and no money is missing for tokens."""

    def worst(tokens: int) -> int:
        return prompt_nano - (-tokens * sequences * pico // per)

    asked = HoldAsk(_id(1), 1, worst(most), worst(1), max_tokens=most, sequences=sequences)
    money = data.draw(st.integers(worst(1), worst(most)))
    affordable = max(tokens for tokens in range(1, most + 1) if worst(tokens) <= money)
    assert affordable <= tokens_within(asked, money) <= most
    assert worst(affordable) <= money_for(asked, affordable) <= worst(most)
    assert money_for(asked, affordable) <= worst(affordable) + 3


# --- requests at the same time ------------------------------------------------------------------------------------


def test_concurrency_counts_what_runs() -> None:
    books = teller(limit(LimitKind.CONCURRENCY, 2))
    for number in (1, 2):
        books.grant(ask(number), "w0-1")
    assert refused(books, ask(3)).retry_after_s == 1
    assert books.may_grow(ask(3))
    books.grant(ask(3, key=8), "w0-1")  # another key
    books.settle(_id(1), 1, 100, 5, used(ask(1)))
    books.grant(ask(4), "w0-1")
    books.release(_id(4))
    books.grant(ask(5), "w0-1")
    refused(books, ask(6))
    books.owner_gone("w0-1")
    assert books.grant(ask(6), "w0-1") == Granted(100, 90)


# --- budgets ------------------------------------------------------------------------------------------------------


def _ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * NS_PER_S


def test_a_budget_lowers_the_hold_then_refuses_and_says_when_it_begins_anew() -> None:
    books = teller(limit(LimitKind.BUDGET, 150, zone="Asia/Shanghai"))
    at_ns = _ns("2026-11-27T12:00:00+08:00")
    assert books.grant(ask(1, at_ns), "w0-1") == Granted(100, 90)
    lowered = books.grant(ask(2, at_ns), "w0-1")
    assert lowered is not None
    assert lowered.amount_nano == 50
    error = refused(books, ask(3, at_ns))
    assert (error.status, error.code, error.retry_after_s) == (402, "budget_exceeded", None)
    assert "¥0.00000015 a month of the key 'backend'" in error.message
    assert "begins anew at 2026-12-01T00:00:00+08:00" in error.message
    books.settle(_id(1), 1, 100, 20, used(ask(1, at_ns)))
    books.settle(_id(2), 1, 50, 70, used(ask(2, at_ns)))  # 20 of it are overrun: nobody's budget
    assert books.grant(ask(4, at_ns, want=100), "w0-1") == Granted(80, 72)
    books.release(_id(4))
    assert books.grant(ask(5, at_ns, want=80, floor=80), "w0-1") == Granted(80, 90)


@pytest.mark.parametrize(
    ("every", "zone", "last", "first"),
    [
        ("day", "Asia/Shanghai", "2026-11-27T23:59:59+08:00", "2026-11-28T00:00:00+08:00"),
        ("day", "Europe/Berlin", "2026-10-25T23:59:59+01:00", "2026-10-26T00:00:00+01:00"),  # a day of 25 hours
        ("day", "Europe/Berlin", "2026-03-28T23:59:59+01:00", "2026-03-29T00:00:00+01:00"),  # before one of 23
        ("week", "America/New_York", "2026-11-01T23:59:59-05:00", "2026-11-02T00:00:00-05:00"),
        ("month", "UTC", "2026-11-30T23:59:59+00:00", "2026-12-01T00:00:00+00:00"),
    ],
)
def test_a_window_ends_at_midnight_of_its_zone(every: str, zone: str, last: str, first: str) -> None:
    books = teller(limit(LimitKind.BUDGET, 100, every=every, zone=zone))
    books.grant(ask(1, _ns(last)), "w0-1")
    refused(books, ask(2, _ns(last)))
    assert books.grant(ask(2, _ns(first)), "w0-1") == Granted(100, 90)
    books.settle(_id(1), 1, 100, 100, used(ask(1, _ns(last))))  # opened in the window before: counts there
    books.settle(_id(2), 1, 100, 40, used(ask(2, _ns(first))))
    assert books.grant(ask(3, _ns(first), want=60), "w0-1") == Granted(60, 90)


def test_a_subject_has_one_budget_of_each_length_and_the_tightest_decides() -> None:
    books = teller(limit(LimitKind.BUDGET, 150, every="month"), limit(LimitKind.BUDGET, 100, every="day"))
    books.grant(ask(1, want=90, floor=90), "w0-1")
    assert "a day" in refused(books, ask(2, want=50, floor=50)).message
    books.limit(Seed(limit(LimitKind.BUDGET, None, every="day")))
    assert books.grant(ask(2, want=50, floor=50), "w0-1") == Granted(50, 90)


# --- together -----------------------------------------------------------------------------------------------------


def test_all_or_nothing_over_the_subjects_of_a_request() -> None:
    books = teller(
        limit(LimitKind.RPM, 2, Scope.KEY, 7),
        limit(LimitKind.CONCURRENCY, 1, Scope.PROJECT, 3),
        limit(LimitKind.BUDGET, 10_000, Scope.TENANT, 1),
    )
    books.grant(ask(1), "w0-1")
    for number in range(2, 9):
        refused(books, ask(number))  # by the project; the key's requests are not used up
    books.settle(_id(1), 1, 100, 5, used(ask(1)))
    books.grant(ask(9), "w0-1")
    assert not books.may_grow(ask(10)), "the key's two requests are made, whatever ends"


def test_a_limit_set_later_counts_what_runs_and_what_the_books_say() -> None:
    books = teller()
    books.grant(ask(1), "w0-1")
    books.limit(Seed(limit(LimitKind.CONCURRENCY, 1)))
    books.limit(Seed(limit(LimitKind.RPM, 3), recent=((NOW_NS - NS_PER_S, 5), (NOW_NS, 5))))
    start_ns = _ns("2026-09-01T00:00:00+00:00")
    assert datetime.fromtimestamp(NOW_NS // NS_PER_S, UTC).month == 9
    books.limit(Seed(limit(LimitKind.BUDGET, 1000), spent=((start_ns, 850),)))
    refused(books, ask(2))
    books.limit(Seed(limit(LimitKind.CONCURRENCY, None)))
    assert refused(books, ask(2)).retry_after_s == 59
    books.limit(Seed(limit(LimitKind.RPM, None)))
    assert books.grant(ask(2), "w0-1") == Granted(50, 42)
    books.limit(Seed(limit(LimitKind.BUDGET, None)))
    assert books.grant(ask(3), "w0-1") == Granted(100, 90)


@dataclass
class _Seen:
    asked: HoldAsk
    granted: Granted
    ended: bool = False
    tokens: int = 0
    charged: int = 0
    history: list[str] = field(default_factory=list)


class Sublimited(RuleBasedStateMachine):
    """Grants, settlements and releases in any order, and at any time the limits are made anew from the rows: what the
    teller grants is what an oracle that looks at every request ever made would grant."""

    most_requests, most_tokens, most_running, budget = 4, 400, 3, 700

    def __init__(self) -> None:
        super().__init__()
        self.limits = (
            limit(LimitKind.RPM, self.most_requests),
            limit(LimitKind.TPM, self.most_tokens, Scope.PROJECT, 3),
            limit(LimitKind.CONCURRENCY, self.most_running, Scope.TENANT, 1),
            limit(LimitKind.BUDGET, self.budget, every="day"),
        )
        self.teller = teller(*self.limits)
        self.seen: dict[bytes, _Seen] = {}
        self.number = 0
        self.now_ns = NOW_NS

    def day(self, at_ns: int) -> int:
        return at_ns // (86_400 * NS_PER_S)

    @property
    def running(self) -> list[_Seen]:
        return [one for one in self.seen.values() if not one.ended]

    @rule(seconds=st.sampled_from([0, 1, 5, 30, 59, 60, 40_000]))
    def wait(self, seconds: int) -> None:
        self.now_ns += seconds * NS_PER_S

    @rule(want=st.integers(10, 300), tokens=st.integers(1, 200))
    def hold(self, want: int, tokens: int) -> None:
        self.number += 1
        asked = ask(self.number, self.now_ns, want=want, floor=10, max_tokens=tokens)
        recent = [one for one in self.seen.values() if one.asked.opened_ns > self.now_ns - WINDOW_NS]
        reserved = sum(10 + one.granted.max_tokens for one in self.running)
        left_tokens = self.most_tokens - reserved - sum(one.tokens for one in recent if one.ended)
        today = [one for one in self.seen.values() if self.day(one.asked.opened_ns) == self.day(self.now_ns)]
        spent = sum(one.charged if one.ended else one.granted.amount_nano for one in today)
        fits = (
            len(recent) < self.most_requests
            and len(self.running) < self.most_running
            and left_tokens >= 11
            and self.budget - spent >= 10
        )
        if not fits:
            refused(self.teller, asked)
            return
        granted = self.teller.grant(asked, "w0-1")
        assert granted is not None
        assert 10 <= granted.amount_nano <= min(want, self.budget - spent)
        assert granted.max_tokens <= min(tokens, left_tokens - 10)
        if want <= self.budget - spent and tokens <= left_tokens - 10:
            assert granted == Granted(want, tokens)
        self.seen[asked.request_id] = _Seen(asked, granted)

    @rule(data=st.data(), part=st.integers(0, 100))
    def settle(self, data: st.DataObject, part: int) -> None:
        if self.running:
            one = data.draw(st.sampled_from(self.running))
            one.ended = True
            one.charged = one.granted.amount_nano * part // 100
            one.tokens = (10 + one.granted.max_tokens) * part // 100
            self.teller.settle(
                one.asked.request_id, 1, one.granted.amount_nano, one.charged, used(one.asked, one.tokens)
            )

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.running:
            one = data.draw(st.sampled_from(self.running))
            self.teller.release(one.asked.request_id)
            del self.seen[one.asked.request_id]

    @rule()
    def restart(self) -> None:
        """Limits first, then the holds that are still open, as books do it."""
        ended = [one for one in self.seen.values() if one.ended]
        spent: dict[int, int] = {}
        for one in ended:
            start_ns = self.day(one.asked.opened_ns) * 86_400 * NS_PER_S
            spent[start_ns] = spent.get(start_ns, 0) + one.charged
        recent = tuple((one.asked.opened_ns, one.tokens) for one in ended)
        self.teller = Teller({1: RICH})
        for one_limit in self.limits:
            self.teller.limit(Seed(one_limit, tuple(spent.items()), recent))
        for one in self.running:
            use = Use(3, 7, one.asked.opened_ns, 10 + one.granted.max_tokens)
            self.teller.hold(one.asked.request_id, 1, one.granted.amount_nano, 0, "w0-1", use)

    @invariant()
    def sound(self) -> None:
        assert self.teller.complaints() == []


TestSublimited = Sublimited.TestCase
