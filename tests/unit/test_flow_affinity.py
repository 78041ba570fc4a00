"""The conductor sends a conversation back to the offer that holds its beginning, and learns from what it reports."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.fakes.parties import CALLER, COST, KEY, OFFER, FakeAnswer, FakeAsk, FakeTeller, ScriptedUpstream, snapshot

from steelyard.flow import House, paid_request
from steelyard.kernel.clock import ManualClock
from steelyard.kernel.ids import Ids
from steelyard.kernel.offers import Model
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event, Order
from steelyard.metering.energy import EnergyClocks
from steelyard.metering.journal import Journal
from steelyard.metering.meter import Meter
from steelyard.metering.slots import Slots

NAMES = ("first", "second", "third")
clock = ManualClock()
ids = Ids(clock)


def answer(cached: int = 0, *, estimated: bool = False) -> list[Event]:
    return [Event("a", Usage(100 - cached, cached, 1), "stop", estimated=estimated)]


class Scene:
    """A model at three upstreams that are alike."""

    def __init__(self, folder: Path) -> None:
        replace = msgspec.structs.replace
        self.meter = Meter(
            Journal.create(folder / "w0-1", segment_bytes=1 << 20),
            Slots.create(folder / "slots", 4),
            clock,
            EnergyClocks(folder),
        )
        self.offers = tuple(replace(OFFER, id=place, upstream=name) for place, name in enumerate(NAMES, 1))
        costs = {name: (replace(COST, id=10 + place, subject=name),) for place, name in enumerate(NAMES)}
        models = {"m": Model(1, "m", 0, 100, self.offers)}
        self.upstreams = {name: ScriptedUpstream(answer()) for name in NAMES}
        self.house = House(
            FakeTeller(snapshot_=snapshot(models=models, costs=costs)), self.meter, self.upstreams, clock
        )

    async def ask(self, *words: str, session: bytes = b"") -> str:
        """Ask it and return who answered."""
        turns = [{"role": "user", "content": word * 300} for word in words]
        params = {"messages": msgspec.Raw(msgspec.json.encode(turns))}
        order = Order(ids.next(), "m", params, 50, 20, 1, stream=True, session=session)
        return (await paid_request(self.house, FakeAsk(order, f"Bearer {KEY}"), FakeAnswer())).opened.upstream

    def hit(self, upstream: str, *words: str) -> float:
        turns = [{"role": "user", "content": word * 300} for word in words]
        params = {"messages": msgspec.Raw(msgspec.json.encode(turns))}
        order = Order(ids.next(), "m", params, 50, 20, 1, stream=True)
        return self.house.router.affinity.expected(order, CALLER, self.offers, 0)[NAMES.index(upstream)].hit


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.meter.close()


async def test_conversations_return_and_new_ones_spread(scene: Scene) -> None:
    talks = [[f"talk {number} "] for number in range(12)]
    places = [await scene.ask(*talk) for talk in talks]
    for turn in range(4):
        for number, talk in enumerate(talks):
            talk.append(f"turn {turn} ")
            scene.upstreams[places[number]].script = answer(cached=80)
            assert await scene.ask(*talk) == places[number]
    assert all(places.count(name) >= 2 for name in NAMES)


async def test_a_session_stays_where_it_was_though_its_prompts_differ(scene: Scene) -> None:
    for session in range(8):
        place = await scene.ask(f"first {session} ", session=b"s%d" % session)
        assert await scene.ask(f"quite another {session} ", session=b"s%d" % session) == place


async def test_a_reported_miss_is_believed_and_an_estimate_says_nothing(scene: Scene) -> None:
    place = await scene.ask("a ")
    scene.upstreams[place].script = answer(estimated=True)
    assert await scene.ask("a ", "b ") == place
    before = scene.hit(place, "a ", "b ")
    assert before > 0.75
    scene.upstreams[place].script = answer(cached=0)
    assert await scene.ask("a ", "b ", "c ") == place
    assert scene.hit(place, "a ", "b ", "c ") < 0.75 * before
