"""What holds when a request is opened holds for all of it: hold, journal and bill go by the same variant."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest
from tests.fakes.parties import COST, PRICE, FakeAnswer, FakeAsk, ScriptedUpstream, snapshot, words
from tests.unit.test_flow import Scene, clock, order

from steelyard.flow import paid_request
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.quantities import Meter
from steelyard.kernel.tariff import Condition, TariffLine, Thinking, Variant
from steelyard.rating.bounds import worst_case_nano
from steelyard.rating.rate import charge_nano, rate
from steelyard.rating.varied import standing

PEAK = Variant(
    "peak", Condition("Asia/Shanghai", hours=((540, 720),)), (TariffLine(Meter.OUTPUT, "20", 20_000_000, 1),)
)
THINKS = Variant("thinking", Condition(thinking=True), (TariffLine(Meter.INPUT, "3", 3_000_000, 1),))
NIGHT = Variant(
    "night", Condition("Asia/Shanghai", hours=((22 * 60, 540),)), (TariffLine(Meter.ENERGY, "0.1", 10**11, 3600),)
)
VARIED = msgspec.structs.replace(PRICE, variants=(PEAK, THINKS))
COSTS = msgspec.structs.replace(COST, variants=(NIGHT,))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    made.teller.snapshot = snapshot(prices={"m": (VARIED,)}, costs={"fake": (COSTS,)})
    yield made
    made.meter.close()


def at(local: str) -> None:
    """Move the clock on to the next such time of day in Beijing."""
    zone = ZoneInfo("Asia/Shanghai")
    now = datetime.fromtimestamp(clock.now_ns() // NS_PER_S, zone)
    wanted = datetime.combine(now.date(), datetime.strptime(local, "%H:%M:%S").time(), zone)
    seconds = int((wanted - now).total_seconds()) % 86_400
    clock.advance(seconds * NS_PER_S - clock.now_ns() % NS_PER_S)


class Slow(ScriptedUpstream):
    """A minute passes before each event."""

    async def stream(self, *arguments: object):  # type: ignore[no-untyped-def, override]
        async for event in super().stream(*arguments):  # type: ignore[arg-type]
            clock.advance(60 * NS_PER_S)
            yield event


async def sold(scene: Scene, said: str, **params: object):  # type: ignore[no-untyped-def]
    at(said)
    answer = FakeAnswer()
    asked = order(params={name: msgspec.Raw(msgspec.json.encode(value)) for name, value in params.items()})
    settled = await paid_request(scene.house(Slow(words("a", "b", "c"))), FakeAsk(asked), answer)
    return settled, answer


async def test_a_stream_that_goes_on_beyond_the_window_is_priced_as_it_was_opened(scene: Scene) -> None:
    settled, answer = await sold(scene, "11:59:00")
    assert settled.opened.price_when == 0b01
    peak = standing(VARIED, 0b01)
    assert settled.opened.hold_nano == worst_case_nano(peak, 50, 20, 1) == 50 * 2000 + 20 * 20_000
    charged = rate(settled, VARIED, COSTS).charge_nano
    assert charged == 10 * 2000 + 3 * 20_000 <= settled.opened.hold_nano
    assert charge_nano(settled.closed.usage, answer.quote.price) == charged, "the answer tells what is posted"


async def test_a_stream_that_runs_into_the_window_is_not_in_it(scene: Scene) -> None:
    settled, _ = await sold(scene, "08:59:00")
    assert (settled.opened.price_when, settled.opened.cost_when) == (0, 1)
    assert settled.opened.hold_nano == worst_case_nano(PRICE, 50, 20, 1)
    assert rate(settled, VARIED, COSTS).charge_nano == 10 * 2000 + 3 * 10_000


async def test_what_is_said_of_thinking_is_journalled_and_priced(scene: Scene) -> None:
    settled, _ = await sold(scene, "13:00:00", enable_thinking=True)
    assert (settled.opened.price_when, settled.opened.thinking) == (0b10, Thinking.ON)
    settled, _ = await sold(scene, "13:00:00", reasoning_effort="none")
    assert (settled.opened.price_when, settled.opened.thinking) == (0, Thinking.OFF)
    assert scene.records()[0].price_when == 0b10
