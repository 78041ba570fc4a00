"""What a worker remembers of an offer: quantiles, habits, the breaker, bounds. Time comes in."""

import random

import msgspec
from tests.fakes.parties import CALLER, COST, OFFER, PRICE

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.faults import Fault
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Order, Quote
from steelyard.routing.health import Habit, Latency, OfferState, Size, expected, most, size_of, times
from steelyard.routing.pace import Bucket

BROKEN = UpstreamError("x", "no", status=500)
QUOTE = Quote(CALLER, OFFER, PRICE, COST, 1, 20, False, 0)


def order(prompt: int = 300, sequences: int = 1) -> Order:
    return Order(bytes(16), "m", {}, prompt, 20, sequences, True)


def test_quantiles_follow_what_is_measured_and_forget_what_was() -> None:
    dice = random.Random(3)
    latency = Latency()
    for scale in (10**6, 10**8, 10**7):
        for _ in range(1500):
            latency.note(int(dice.lognormvariate(0, 0.5) * scale), 0)
        assert 0.75 * scale < latency.p50 < 1.35 * scale
        assert 1.7 * scale < latency.p95 < 3.6 * scale  # exactly 2.28
    assert latency.median(0) == latency.p50
    late = (limits.LATENCY_KEPT_S + 1) * NS_PER_S
    assert latency.median(late) == 0
    latency.note(5, late)
    assert (latency.p50, latency.p95, latency.count) == (5, 5, 1)


def test_habits_say_what_a_request_will_use() -> None:
    habit = Habit()
    for _ in range(40):
        habit.note(order(300), Usage(60, 40, 50, cpu_ns=11_000, energy_uj=110))
    states = [state_with(habit), OfferState()]
    assert size_of(states) == Size(1024 * 100 // 300, 50)
    load, least = expected(order(3000, 2), 30, states, [0, 0]), most(order(3000, 2), 30, states)
    assert (load.prompt, load.output) == (2 * (3000 * 341 // 1024), 60), "as large wherever it is served"
    assert load.cached == [load.prompt * 409 // 1024, 0]
    assert (least.prompt, least.cached, least.output) == (6000, [0, 0], 60)
    assert least.cpu_ns[0] > load.cpu_ns[0] > 0 == load.cpu_ns[1]
    assert expected(order(3000), 30, states, [1024, 0]).usage(0).input == 0
    assert expected(order(), 7, [OfferState()], [0]).output == 7


def state_with(habit: Habit) -> OfferState:
    state = OfferState()
    state.habit = habit
    return state


def test_the_breaker_opens_lets_one_probe_through_and_stays_open_longer_each_time() -> None:
    state = OfferState()
    for _ in range(limits.BREAKER_FAILURES):
        assert state.left_out(0) == ""
        state.failed(BROKEN, 0, None)
    assert (state.left_out(0), state.breaker(0)) == ("open", "open")
    now, spans = 0, []
    for _ in range(9):
        wait = state.back_ns() - now
        spans.append(wait // NS_PER_S)
        now = state.back_ns()
        assert (state.left_out(now), state.breaker(now)) == ("", "half-open")
        probe = state.begin(order(), QUOTE, now)
        assert state.left_out(now) == "probing"
        probe.ended()
        state.failed(BROKEN, now, None)
    assert spans == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    now = state.back_ns()
    state.begin(order(), QUOTE, now).spoke(now)
    assert (state.left_out(now), state.failures) == ("", 0)


def test_half_of_the_calls_failing_opens_it_too() -> None:
    state = OfferState()
    for _ in range(60):
        for _ in range(2):
            state.failed(BROKEN, 0, None)
        if state.why:
            break
        state.worked()
    assert state.why == "open"


def test_a_busy_offer_is_left_alone_as_long_as_it_says_or_longer_and_longer() -> None:
    state, busy = OfferState(), UpstreamError("x", "busy", status=429)
    state.failed(busy, 0, 7 * NS_PER_S)
    assert (state.back_ns(), state.told, state.left_out(0)) == (7 * NS_PER_S, True, "rate_limited")
    state.worked()
    waits = []
    for _ in range(8):
        state.failed(busy, 0, None)
        waits.append(state.back_ns() // NS_PER_S)
    assert waits == [1, 2, 4, 8, 16, 32, 32, 32]
    state.failed(busy, 0, 10**6 * NS_PER_S)
    assert state.back_ns() == limits.COOL_DOWN_S_MAX * NS_PER_S


def test_whoever_is_told_of_a_bad_request_has_answered() -> None:
    state = OfferState()
    state.failed(BROKEN, 0, None)
    state.failed(UpstreamError("x", "no", status=400), 0, None)
    assert state.failures == 0
    state.failed(UpstreamError("x", "no").known_as(Fault.MODEL_MISSING), 0, None)
    assert (state.left_out(0), state.back_ns()) == ("model_missing", limits.DISABLED_S * NS_PER_S)


def test_a_bucket_refills_with_time_and_never_holds_more_than_ten_seconds() -> None:
    bucket = Bucket()
    taken, now = 0, 0
    for now in range(0, 180 * NS_PER_S, NS_PER_S // 7):
        while bucket.has(60, 1, now):
            bucket.take(1)
            taken += 1
    assert 180 <= taken <= 190
    assert bucket.has(60, 10**6, now + 60 * NS_PER_S), "more than a bucket is taken from a full one"
    bucket.take(1000)
    assert not bucket.has(60, 1, now + 61 * NS_PER_S)


def test_each_worker_has_its_share_of_the_bounds() -> None:
    offer = msgspec.structs.replace(OFFER, concurrency=4, rpm=600)
    state = OfferState()
    calls = [state.begin(order(), QUOTE, 0) for _ in range(2)]
    assert state.full(offer, 1, 10, 0) == ""
    assert state.full(offer, 2, 10, 0) == "concurrency"
    for call in calls:
        call.ended()
        call.ended()
    assert state.in_flight == 0
    for _ in range(50):
        state.take(offer, 2, 10, 0)
    assert state.full(offer, 2, 10, 0) == "rpm"


def test_an_answer_in_one_piece_tells_the_time_of_a_token_and_none_of_a_first_one() -> None:
    state, used = OfferState(), Usage(10, 0, 100)
    asked = msgspec.structs.replace(order(), stream=False)
    quote = msgspec.structs.replace(QUOTE, offer=msgspec.structs.replace(OFFER, kind="openai"))
    call = state.begin(asked, quote, 0)
    call.spoke(NS_PER_S)
    call.came_whole(asked, used, NS_PER_S)
    assert (state.first.count, state.token.p50) == (0, NS_PER_S // 100)
    assert times([state], 50, NS_PER_S) == [NS_PER_S // 2]
    state.first.note(NS_PER_S // 2, NS_PER_S)
    later = state.begin(asked, quote, NS_PER_S)
    later.came_whole(asked, used, 2 * NS_PER_S)
    assert state.token.p50 < NS_PER_S // 100, "the time to the first one is known by then"
