"""What only reads goes the same way through the conductor: held for, weighed, closed, and priced by its input alone."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.fakes.parties import CALLER, OFFER, PRICE, FakeAnswer, FakeAsk, FakeTeller, ScriptedUpstream, snapshot, words
from tests.unit.test_flow import Scene, order

from steelyard.flow import paid_request
from steelyard.kernel.errors import CallerError, UpstreamError
from steelyard.kernel.offers import Capability, Model, Offer
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event, Order, Snapshot
from steelyard.kernel.settled import End, Opened
from steelyard.rating.rate import charge_of

INPUT_ONLY = msgspec.structs.replace(PRICE, lines=PRICE.lines[:1])  # 2 per token
READ = Event(usage=Usage(30), finish="stop", found=(msgspec.Raw(b"[1]"), msgspec.Raw(b"[2]")))


class Reader(ScriptedUpstream):
    """Answers with an event, or raises."""

    def __init__(self, said: Event | Exception = READ) -> None:
        super().__init__(words("never"))
        self.said = said
        self.asked: list[Capability] = []

    async def read(self, offer: Offer, capability: Capability, params: dict[str, msgspec.Raw]) -> Event:
        self.asked.append(capability)
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


def reading(**changes: object) -> Order:
    fields = {"capability": Capability.EMBEDDING, "parts": 2, "max_tokens": 0, "stream": False}
    return order(**{**fields, **changes})


def selling(*capabilities: Capability, output: int = 0, **changes: object) -> Snapshot:
    offer = msgspec.structs.replace(OFFER, capabilities=capabilities, max_output_tokens=output)
    return snapshot(models={"m": Model(1, "m", 0, output, (offer,))}, **changes)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    made.teller = FakeTeller(snapshot_=selling(Capability.EMBEDDING, prices={"m": (INPUT_ONLY,)}))
    yield made
    made.meter.close()


async def test_a_price_of_the_input_is_enough_and_is_what_is_charged(scene: Scene) -> None:
    answer, upstream = FakeAnswer(), Reader()
    settlement = await paid_request(scene.house(upstream), FakeAsk(reading()), answer)
    assert answer.sent == [b"end 30"]
    assert (settlement.closed.usage, settlement.closed.end) == (Usage(30), End.COMPLETE)
    assert sum(line.amount_nano for line in charge_of(settlement.closed.usage, INPUT_ONLY)) == 30 * 2000
    opened = scene.records()[0]
    assert isinstance(opened, Opened)
    assert (opened.hold_nano, opened.max_tokens, opened.sequences) == (50 * 2000, 0, 1)
    assert upstream.asked == [Capability.EMBEDDING] and not upstream.calls


async def test_each_part_has_the_context_for_itself_in_the_worst_case(scene: Scene) -> None:
    for bound, parts, held in ((5000, 2, 2000), (5000, 9, 5000), (700, 1, 700)):
        order_ = reading(prompt_tokens_max=bound, parts=parts)
        await paid_request(scene.house(Reader()), FakeAsk(order_), FakeAnswer())
        assert scene.teller.asked[-1] == (held * 2000, held * 2000)  # all or nothing: there is nothing to lower


async def test_a_wallet_short_of_the_worst_case_is_refused_before_the_call(scene: Scene) -> None:
    scene.teller.purse_nano = 50 * 2000 - 1
    upstream = Reader()
    with pytest.raises(CallerError) as error:
        await paid_request(scene.house(upstream), FakeAsk(reading()), FakeAnswer())
    assert error.value.status == 402 and not upstream.asked


@pytest.mark.parametrize("capabilities", [(Capability.TEXT,), (Capability.TEXT, Capability.EMBEDDING)])
async def test_a_model_that_writes_is_still_not_sold_by_its_input_price(
    scene: Scene, capabilities: tuple[Capability, ...]
) -> None:
    scene.teller = FakeTeller(snapshot_=selling(*capabilities, output=500, prices={"m": (INPUT_ONLY,)}))
    with pytest.raises(CallerError) as error:
        await paid_request(scene.house(Reader()), FakeAsk(order()), FakeAnswer())
    assert (error.value.status, error.value.code) == (503, "price_missing")


@pytest.mark.parametrize(
    ("served", "asked", "says"),
    [
        ((Capability.EMBEDDING,), Capability.TEXT, "/v1/embeddings"),
        ((Capability.EMBEDDING, Capability.RERANK), Capability.TEXT, "/v1/rerank"),
        ((Capability.TEXT,), Capability.EMBEDDING, "/v1/chat/completions"),
        ((Capability.RERANK,), Capability.MODERATION, "/v1/rerank"),
    ],
)
async def test_a_model_asked_for_what_it_does_not_do_says_where_to_ask(
    scene: Scene, served: tuple[Capability, ...], asked: Capability, says: str
) -> None:
    scene.teller = FakeTeller(snapshot_=selling(*served, output=500))
    order_ = reading(capability=asked) if asked is not Capability.TEXT else order()
    with pytest.raises(CallerError) as error:
        await paid_request(scene.house(Reader()), FakeAsk(order_), FakeAnswer())
    assert (error.value.status, error.value.code, error.value.param) == (400, "wrong_capability", "model")
    assert says in error.value.message
    assert not scene.records()


async def test_an_upstream_that_refuses_is_paid_nothing(scene: Scene) -> None:
    refused = UpstreamError("fake", "too long", status=400)
    with pytest.raises(UpstreamError):
        await paid_request(scene.house(Reader(refused)), FakeAsk(reading()), FakeAnswer())
    closed = scene.records()[-1]
    assert closed.usage == Usage() and closed.end == End.REFUSED  # type: ignore[union-attr]


async def test_a_customer_who_left_before_the_answer_pays_nothing(scene: Scene) -> None:
    settlement = await paid_request(scene.house(Reader()), FakeAsk(reading()), FakeAnswer(pieces=0))
    assert (settlement.closed.usage.total, settlement.closed.end) == (0, End.CLIENT_GONE)
    assert settlement.opened.tenant_id == CALLER.tenant_id
