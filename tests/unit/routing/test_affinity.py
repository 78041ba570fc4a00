"""From a request to a prompt's chain, and what a worker makes of it before and after a call."""

import msgspec
import pytest
from tests.fakes.parties import CALLER, OFFER

from steelyard.kernel import limits
from steelyard.kernel.offers import Capability
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Order
from steelyard.routing.affinity import Affinity
from steelyard.routing.chain import prompt_of

HERE, THERE, ELSEWHERE = OFFERS = tuple(msgspec.structs.replace(OFFER, id=number) for number in (1, 2, 3))
MISS = Usage(100, 0, 5)
Turn = dict[str, str]


def turn(role: str, text: str) -> Turn:
    return {"role": role, "content": text}


def order(turns: list[Turn], model: str = "m", **changes: object) -> Order:
    params = {"messages": msgspec.Raw(msgspec.json.encode(turns))}
    made = Order(turns[-1]["content"].encode()[:16].ljust(16), model, params, 5000, 10, 1, stream=True)
    return msgspec.structs.replace(made, **changes)


TALK = [turn("system", "You are terse. " * 40), turn("user", "Name the rivers of Asia. " * 100)]
NEXT = [*TALK, turn("assistant", "Ob, Lena, Indus. " * 20), turn("user", "And of Europe?")]


def test_the_next_turn_of_a_conversation_begins_with_the_chain_of_the_last() -> None:
    first, second = prompt_of(order(TALK), CALLER), prompt_of(order(NEXT), CALLER)
    assert second.chain[: len(first.chain)] == first.chain
    assert len(second.chain) > len(first.chain) > 8
    assert second.home == first.home != 0
    assert first.reach(len(first.chain)) <= first.size < second.size


@pytest.mark.parametrize(
    "other",
    [
        order(NEXT, model="another"),
        order(NEXT, params=order(NEXT).params | {"tools": msgspec.Raw(b'[{"type":"function"}]')}),
        order([turn("system", "You are kind. " * 40), *NEXT[1:]]),
    ],
    ids=["another model", "tools", "another beginning"],
)
def test_what_begins_otherwise_shares_no_block(other: Order) -> None:
    assert not set(prompt_of(other, CALLER).chain) & set(prompt_of(order(NEXT), CALLER).chain)


def test_what_ends_a_list_of_turns_is_in_no_block() -> None:
    def blocks(length: int) -> int:
        spent = len(msgspec.json.encode([turn("user", "")]))
        return len(prompt_of(order([turn("user", "a" * (length - spent))]), CALLER).chain)

    assert [blocks(512), blocks(513)] == [1, 2]


def test_a_short_prompt_and_what_only_reads_have_no_chain() -> None:
    assert prompt_of(order([turn("user", "Hello?")]), CALLER).chain == ()
    assert prompt_of(order(NEXT, capability=Capability.EMBEDDING), CALLER).chain == ()


def test_a_completions_prompt_is_a_chain_too() -> None:
    asked = order(TALK, params={"prompt": msgspec.Raw(msgspec.json.encode("Once upon a time. " * 200))})
    longer = order(TALK, params={"prompt": msgspec.Raw(msgspec.json.encode("Once upon a time. " * 300))})
    chain = prompt_of(asked, CALLER).chain
    assert chain and prompt_of(longer, CALLER).chain[: len(chain)] == chain


def test_no_prompt_is_hashed_beyond_the_bound() -> None:
    long = prompt_of(order([turn("user", "a" * (2 * limits.PREFIX_BYTES_MAX))]), CALLER)
    assert len(long.chain) == 16 + 14 + (limits.PREFIX_BYTES_MAX // 1024 - 32) // 4
    assert long.reach(len(long.chain)) * 256 == limits.PREFIX_BYTES_MAX
    assert long.size * 256 >= 2 * limits.PREFIX_BYTES_MAX  # the rest counts as new


def test_a_session_is_a_tenants_own_and_of_one_model() -> None:
    def of(**changes: object) -> int:
        caller = msgspec.structs.replace(CALLER, tenant_id=changes.pop("tenant", 1))
        return prompt_of(order(TALK, **changes), caller).session  # type: ignore[arg-type]

    assert of() == 0
    sessions = [of(session=b"1"), of(session=b"2"), of(session=b"1", tenant=2), of(session=b"1", model="another")]
    assert len(set(sessions)) == 4
    assert of(session=b"1") == sessions[0]


def call(affinity: Affinity, asked: Order, at: int, usage: Usage = MISS) -> None:
    affinity.look(asked, CALLER, OFFERS, 0)
    use = affinity.called(asked.request_id, OFFERS[at], 0)
    affinity.ended(asked.request_id)
    assert use is not None
    affinity.answered(use, usage)


def test_the_conversation_is_expected_where_it_was() -> None:
    affinity = Affinity()
    call(affinity, order(TALK), at=1)
    likely = affinity.look(order(NEXT), CALLER, OFFERS, 0)
    assert [one.hit > 0.7 for one in likely] == [False, True, False]
    assert likely[1].strain < min(likely[0].strain, likely[2].strain)
    assert affinity.expected(order(NEXT), CALLER, OFFERS, 0) == likely


def test_what_an_upstream_reports_corrects_what_is_expected_of_it() -> None:
    affinity = Affinity()
    call(affinity, order(TALK), at=1)
    before = affinity.look(order(NEXT), CALLER, OFFERS, 0)[1].hit
    call(affinity, order(NEXT), at=1)  # nothing was cached
    longer = order([*NEXT, turn("assistant", "Volga. " * 90), turn("user", "More?")])
    assert affinity.look(longer, CALLER, OFFERS, 0)[1].hit < 0.7 * before
    call(affinity, longer, at=1, usage=Usage(10, 90, 5))
    assert affinity.look(longer, CALLER, OFFERS, 0)[1].hit > 0.7 * before


def test_one_offer_and_nothing_to_go_by_cost_nothing() -> None:
    affinity = Affinity()
    one = affinity.look(order(NEXT), CALLER, OFFERS[:1], 0)
    none = affinity.look(order([turn("user", "Hello?")]), CALLER, OFFERS, 0)
    assert len(one) == 1 and len(none) == 3 and {(likely.hit, likely.strain) for likely in one + none} == {(0.0, 0.0)}
    assert affinity.called(order(NEXT).request_id, HERE, 0) is None


def test_prompts_that_are_never_called_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SLOTS_PER_WORKER", 3)
    affinity = Affinity()
    for number in range(5):
        affinity.look(order(NEXT, request_id=b"%16d" % number), CALLER, OFFERS, 0)
    kept = [affinity.called(b"%16d" % number, HERE, 0) is not None for number in range(5)]
    assert kept == [False, False, True, True, True]
