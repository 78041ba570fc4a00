"""The prefix index: what it believes of caches, how it spreads, what it forgets, and that it stays small."""

import pytest
from bench.routing import Arrival, conversations, indexed, infinite, longest_prefix, replay

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.prefix import Prompt
from steelyard.routing.prefix import PrefixIndex

OFFERS = (11, 12, 13)


def chain(*blocks: int) -> Prompt:
    return Prompt(blocks)


def test_a_conversation_returns_to_the_offer_that_holds_it() -> None:
    index = PrefixIndex()
    index.use(chain(1, 2, 3), 12, 0)
    assert index.choose(chain(1, 2, 3, 4), OFFERS, 0) == 12
    assert index.hit(chain(1, 2, 3, 4), 12) == 0.75
    assert index.hit(chain(1, 2, 3, 4), 11) == 0.0


def test_the_longest_beginning_counts_and_only_a_beginning() -> None:
    index = PrefixIndex()
    index.use(chain(1, 2), 11, 0)
    index.use(chain(1, 2, 3), 12, 0)
    assert index.choose(chain(1, 2, 3, 4), OFFERS, 0) == 12
    assert [index.hit(chain(*blocks), 12) for blocks in ((9, 2, 3), (1, 9, 3), (1, 2, 3))] == [
        0.0,
        pytest.approx(1 / 3),
        1.0,
    ]


def test_a_hot_prefix_spreads_before_its_offer_has_too_much() -> None:
    index = PrefixIndex()
    for serial in range(300):
        prompt = chain(1, 2, 3, 4, 1000 + serial)
        index.use(prompt, index.choose(prompt, OFFERS, 0), 0)
    took = [index._caches[offer].requests for offer in OFFERS]
    assert max(took) - 100 < limits.PREFIX_EXCESS_REQUESTS + 1
    assert min(took) > 60


def test_old_work_weighs_less() -> None:
    index = PrefixIndex()
    for _ in range(40):
        index.use(Prompt(), 11, NS_PER_S)
    later = NS_PER_S * (1 + limits.PREFIX_HALF_LIFE_S)
    excess, less = (index.strains(Prompt(), OFFERS, now_ns)[0] - 1 for now_ns in (NS_PER_S, later))
    assert excess > 3 * less


def test_a_session_is_kept_together_where_no_beginning_is_known() -> None:
    index = PrefixIndex()
    index.use(Prompt((1, 2), session=7), 13, 0)
    assert index.choose(Prompt((8, 9), session=7), OFFERS, 0) == 13
    assert index.hit(Prompt((8, 9), session=7), 13) == 0.0  # it is no reason to expect a cheaper prompt
    index.use(chain(8, 9), 11, 0)
    assert index.choose(Prompt((8, 9), session=7), OFFERS, 0) == 11  # a known beginning goes first
    assert index.choose(Prompt((8, 7), session=7), (11, 12), 0) == 11  # its offer is not to be had


def test_workers_that_know_nothing_of_each_other_send_what_begins_alike_to_the_same_offer() -> None:
    homes = []
    for home in range(1, 200):
        one, other = PrefixIndex(), PrefixIndex()
        prompt = Prompt((home,), home=home)
        homes.append(one.choose(prompt, OFFERS, 0))
        assert other.choose(prompt, OFFERS, 0) == homes[-1]
        assert homes[-1] == 12 or one.choose(prompt, (11, 13), 0) == homes[-1]  # one that goes moves no others
    assert all(homes.count(offer) > 40 for offer in OFFERS)


def test_the_oldest_blocks_are_forgotten_first() -> None:
    index = PrefixIndex(100)
    index.use(chain(*range(1000, 1020)), 11, 0)
    index.use(chain(*range(2000, 2040)), 11, 0)
    index.use(chain(*range(1000, 1020)), 11, 0)  # used again
    index.use(chain(*range(3000, 3040)), 11, 0)
    index.use(chain(*range(4000, 4030)), 11, 0)
    assert index.hit(chain(*range(2000, 2040)), 11) == 0.0
    assert index.hit(chain(*range(1000, 1020)), 11) == 1.0


def test_a_reported_miss_forgets_what_was_not_used_for_longer() -> None:
    index = PrefixIndex()
    index.use(chain(5, 6), 11, 0)
    index.use(chain(1, 2), 11, 0)
    index.use(chain(8, 9), 11, 0)
    use = index.use(chain(1, 2, 3), 11, 0)
    index.learn(use, 0.0)
    assert index.hit(chain(5, 6), 11) == 0.0
    assert index.hit(chain(8, 9), 11) > 0.5  # used since, so it may still be there
    assert index.hit(chain(1, 2, 3), 11) > 0.5  # it has just been computed
    assert index.blocks == 5


def test_a_reported_miss_forgets_the_older_half_of_the_cache_whole() -> None:
    index = PrefixIndex(8)
    index.use(chain(5, 6, 7), 11, 0)
    index.use(chain(1, 2), 11, 0)  # now five blocks are the older half
    use = index.use(chain(1, 2, 3), 11, 0)
    assert index.hit(chain(5, 6, 7), 11) == 1.0
    index.learn(use, 0.0)
    assert index.hit(chain(5, 6, 7), 11) == 0.0
    assert index.blocks == 3


def test_a_report_that_is_about_right_forgets_nothing() -> None:
    index = PrefixIndex()
    index.use(chain(5, 6), 11, 0)
    index.use(chain(1, 2, 3, 4), 11, 0)
    index.learn(index.use(chain(1, 2, 3, 4), 11, 0), 0.9)  # rounded down by the upstream
    assert index.hit(chain(5, 6), 11) > 0.9


def test_an_upstream_that_never_reports_a_hit_is_not_expected_to_have_one() -> None:
    index = PrefixIndex()
    turns: tuple[int, ...] = (1,)
    for turn in range(2, 60):
        turns += (turn,)
        index.learn(index.use(Prompt(turns), 11, 0), 0.0)
    assert index.hit(Prompt(turns), 11) < 0.05
    for turn in range(60, 120):  # until it does
        turns += (turn,)
        index.learn(index.use(Prompt(turns), 11, 0), 1.0)
    assert index.hit(Prompt(turns), 11) > 0.9


def test_the_index_keeps_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PREFIX_BLOCKS_MAX", 500)
    monkeypatch.setattr(limits, "PREFIX_OFFERS_MAX", 8)
    monkeypatch.setattr(limits, "PREFIX_SESSIONS_MAX", 50)
    index = PrefixIndex(200)
    for serial in range(400):
        index.use(Prompt(tuple(range(serial * 100, serial * 100 + 7)), session=serial + 1), serial % 20, serial)
        assert index.blocks == sum(cache.kept for cache in index._caches.values()) <= 500
        assert len(index._caches) <= 8
        assert len(index._sessions) <= 50
    for serial in range(400):
        index.use(chain(*range(serial * 100, serial * 100 + 7)), serial % 4, serial)
        assert index.blocks == sum(cache.kept for cache in index._caches.values()) <= 500
    index.forget(list(index._caches))
    assert index.blocks == 0


def test_on_a_trace_it_hits_nearly_as_often_as_one_endless_cache_and_spreads_the_work() -> None:
    trace = conversations(seed=5, requests=2500)
    best = infinite(trace)
    ours, greedy = replay(trace, indexed(blocks_max=5000), 8, 5000), replay(trace, longest_prefix(), 8, 5000)
    assert ours == replay(trace, indexed(blocks_max=5000), 8, 5000)  # the same trace, the same choices
    assert ours.hit_rate >= 0.95 * best
    assert max(ours.blocks_skew, ours.computed_skew, ours.requests_skew) <= 1.10
    assert greedy.blocks_skew > 1.10, "the trace is no test: following prefixes alone would do"


def test_without_the_weight_of_work_the_bounds_above_do_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PREFIX_EXCESS_REQUESTS", 10_000)
    outcome = replay(conversations(seed=5, requests=2500), indexed(blocks_max=5000), 8, 5000)
    assert outcome.blocks_skew > 1.10


def test_a_trace_is_replayed_block_by_block() -> None:
    trace = [Arrival(0, (1, 2)), Arrival(1, (1, 2, 3)), Arrival(2, (9,))]
    assert infinite(trace) == pytest.approx(2 / 6)
