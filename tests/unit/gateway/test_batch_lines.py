"""A line of a batch through the real flow: what is kept is counted, what is not kept is not."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fakes.parties import KEY, PRICE, ScriptedUpstream, snapshot, words
from tests.unit.gateway.test_public import HELLO, Site

from steelyard.catalog.tariffs import BATCH_TIER
from steelyard.gateway.batch_lines import BatchGate
from steelyard.jobs.run import LineAsk
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.ids import secret_hash
from steelyard.kernel.offers import Model
from steelyard.kernel.records import Order, Snapshot
from steelyard.kernel.settled import Opened, Position
from steelyard.metering.reader import read

BATCH_PRICE = msgspec.structs.replace(PRICE, id=77, tier=BATCH_TIER)


class Keeper:
    """Where answers are kept."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.trouble: OSError | None = None
        self.asked, self.go = asyncio.Event(), asyncio.Event()
        self.go.set()

    async def keep(self, body: bytes) -> None:
        self.asked.set()
        await self.go.wait()
        if self.trouble is not None:
            raise self.trouble
        self.kept.append(body)

    def line(self, site: Site, body: object = HELLO, key_id: int | None = None) -> LineAsk:
        known = site.teller.snapshot.callers[secret_hash(KEY)].key_id
        text = json.dumps(body).encode()
        return LineAsk("/v1/chat/completions", text, key_id or known, bytes(range(16)), self.keep)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, ScriptedUpstream(words("Hel", "lo")))
    with closing(made.meter):
        yield made


async def test_a_kept_answer_is_counted_at_the_price_of_batches(site: Site) -> None:
    site.teller.snapshot = snapshot(prices={"m": (PRICE, BATCH_PRICE)})
    keeper = Keeper()
    said = await BatchGate(site.house).serve(keeper.line(site))
    assert (said.status, said.kept, said.body) == (200, True, keeper.kept[0])
    assert json.loads(said.body)["choices"][0]["message"]["content"] == "Hello"
    (closed,) = site.closed()
    assert (closed.end, closed.usage.output > 0) == ("complete", True)
    records = read(site.folder, Position(0, 0), until=site.journal.end, max_records=9).records
    assert [one.price_id for one in records if isinstance(one, Opened)] == [BATCH_PRICE.id]


async def test_the_deadline_of_its_batch_goes_with_a_line(site: Site) -> None:
    orders: list[Order] = []
    costs_of = site.house.costs.of

    def seen(snapshot: Snapshot, model: Model, order: Order, *rest: Any) -> Any:
        orders.append(order)
        return costs_of(snapshot, model, order, *rest)

    site.house.costs.of = seen  # type: ignore[method-assign]
    await BatchGate(site.house).serve(Keeper().line(site)._replace(deadline_ns=77))
    assert [(one.deadline_ns, one.tier) for one in orders] == [(77, "batch")]


async def test_strict_durability_parts_no_line(tmp_path: Path) -> None:
    site, keeper = Site(tmp_path, ScriptedUpstream(words("Hello")), strict=True), Keeper()
    with closing(site.meter):
        await BatchGate(site.house).serve(keeper.line(site))
    assert len(keeper.kept) == 1 and json.loads(keeper.kept[0])


async def test_an_answer_that_cannot_be_kept_is_not_charged(site: Site) -> None:
    keeper = Keeper()
    keeper.trouble = OSError(28, "full")
    with pytest.raises(OSError, match="full"):
        await BatchGate(site.house).serve(keeper.line(site))
    (closed,) = site.closed()
    assert (closed.end, closed.usage.total, closed.short_by_one_read) == ("client_gone", 0, True)


async def test_an_answer_that_is_being_kept_is_counted_though_the_worker_stops(site: Site) -> None:
    keeper = Keeper()
    keeper.go.clear()

    async def puller() -> None:
        await BatchGate(site.house).serve(keeper.line(site))
        await asyncio.sleep(60)

    work = asyncio.ensure_future(puller())
    await keeper.asked.wait()
    work.cancel()
    await asyncio.sleep(0)
    keeper.go.set()
    with pytest.raises(asyncio.CancelledError):
        await work
    (closed,) = site.closed()
    assert (len(keeper.kept), closed.end, closed.usage.output > 0) == (1, "complete", True)


async def test_refusals_are_told_with_their_status_and_sell_nothing(site: Site) -> None:
    keeper, gate = Keeper(), BatchGate(site.house)
    revoked = await gate.serve(keeper.line(site, key_id=999))
    assert (revoked.status, json.loads(revoked.body)["error"]["code"]) == (401, "invalid_api_key")
    wrong = await gate.serve(keeper.line(site, HELLO | {"max_tokens": -1}))
    assert (wrong.status, wrong.retry_after_s) == (400, None)
    away = Site(site.folder.parent / "b", ScriptedUpstream([UpstreamError("fake", "x", retryable=True)]))
    with closing(away.meter):
        said = await BatchGate(away.house).serve(keeper.line(site))
    assert (said.status, said.retry_after_s) == (503, 2)
    assert keeper.kept == [] and site.closed() == []
