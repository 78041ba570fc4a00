"""The books over their socket: commands, holds, settlement, restarts of either side. Database and journals are real."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from tests.fakes.ledger import Requests, outside, put_tariffs

from steelyard import flow
from steelyard.kernel import limits
from steelyard.kernel.clock import SystemClock
from steelyard.kernel.directory import DatabaseUrl, DataDir
from steelyard.kernel.errors import CallerError
from steelyard.kernel.ids import secret_hash
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Granted, HoldAsk
from steelyard.kernel.settled import Opened
from steelyard.ledger.teller_client import TellerClient
from steelyard.metering.journal import Journal
from steelyard.processes.books import Books

SEGMENT_BYTES = 256 * 1024


async def until(condition: Callable[[], object], what: str, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
    assert condition(), what


class House:
    """A books process in this loop, and workers that talk to it."""

    def __init__(self, root: Path, place: Path | DatabaseUrl = Path()) -> None:
        self.data = DataDir(root, place) if isinstance(place, DatabaseUrl) else DataDir(root)
        self.data.prepare()
        self.requests = Requests()
        self.books: Books | None = None
        self._running: asyncio.Task[None] | None = None
        self.clients: list[TellerClient] = []
        self.journals: list[Journal] = []

    async def open_books(self) -> Books:
        self.books = await Books.open(self.data, SystemClock(), flow.settle)
        await self.books.serve()
        self._running = asyncio.create_task(self.books.run())
        return self.books

    async def furnish(self) -> TellerClient:
        """Open the books and let acme in, with 5 CNY and tariffs to pay by. Returns the office."""
        await self.open_books()
        office = await self.client(None)
        await office.command("tenant.add", {"name": "acme"})
        await office.command("wallet.topup", {"tenant": "acme", "amount": "5"})
        engine = outside(self.data.database)
        with engine.begin() as connection:
            put_tariffs(connection)
        engine.dispose()
        return office

    async def close_books(self) -> None:
        assert self.books is not None and self._running is not None
        self.books.stop()
        await self._running
        self.books = None

    async def client(self, worker: int | None = 0) -> TellerClient:
        client = TellerClient()
        await client.connect(self.data.socket, worker)
        self.clients.append(client)
        return client

    async def worker(self, worker: int = 0) -> tuple[TellerClient, Journal]:
        client = await self.client(worker)
        journal = Journal.create(self.data.journals / client.series, segment_bytes=SEGMENT_BYTES)
        self.journals.append(journal)
        return client, journal

    async def held(self, client: TellerClient, want: int = 1_000_000, floor: int = 1) -> Opened:
        """An open record with the hold it was given."""
        opened = self.requests.opened(hold_nano=0)
        granted = (await client.hold(HoldAsk(opened.request_id, 1, want, floor))).amount_nano
        values = {name: getattr(opened, name) for name in opened.__struct_fields__}
        return Opened(**values | {"hold_nano": granted})

    async def close(self) -> None:
        for client in self.clients:
            await client.close()
        for journal in self.journals:
            journal.close()
        if self.books is not None:
            await self.close_books()


@pytest.fixture
async def house(tmp_path: Path, place: Path | DatabaseUrl) -> AsyncIterator[House]:
    house = House(tmp_path / "data", place)
    await house.furnish()
    yield house
    await house.close()


async def wallet(client: TellerClient) -> tuple[int, int]:
    shown = await client.command("wallet.show", {"tenant": "acme"})
    return shown["balance_nano"], shown["held_nano"]


async def clean(client: TellerClient) -> None:
    answer = await client.command("verify", {})
    assert answer["ok"], answer


@pytest.mark.postgres
async def test_a_request_is_held_settled_and_receipted(house: House) -> None:
    client, journal = await house.worker()
    opened = await house.held(client)
    journal.append(opened)
    assert await wallet(client) == (5_000_000_000, 1_000_000)
    assert client.open_holds == 1
    journal.append(house.requests.closed(opened))
    client.closed()
    await until(lambda: client.open_holds == 0, "the settled notice")
    assert await wallet(client) == (5_000_000_000 - 97_000, 0)
    receipt = await client.command("receipt", {"request_id": opened.request_id, "tenant_id": 1})
    assert (receipt["state"], receipt["amount_nano"], receipt["prompt_tokens"]) == ("posted", 97_000, 120)
    with pytest.raises(CallerError) as refused:
        await client.command("receipt", {"request_id": opened.request_id, "tenant_id": 2})
    assert refused.value.status == 404
    await clean(client)


async def test_a_running_request_has_an_open_receipt(house: House) -> None:
    client, journal = await house.worker()
    opened = await house.held(client)
    journal.append(opened)
    journal.sync()
    receipt = await client.command("receipt", {"request_id": "req_" + opened.request_id.hex()})
    assert (receipt["state"], receipt["hold_nano"]) == ("open", 1_000_000)


async def test_fifty_concurrent_holds_drain_the_wallet_to_the_last_nano(house: House) -> None:
    clients = [await house.client(number) for number in range(2)]
    want = 130_000_001
    asks = [clients[n % 2].hold(HoldAsk(house.requests.ids.next(), 1, want, 1)) for n in range(50)]
    granted = [one.amount_nano for one in await asyncio.gather(*asks)]
    assert sum(granted) == 5_000_000_000
    assert granted.count(want) == 38
    assert granted.count(0) == 11
    assert await wallet(clients[0]) == (5_000_000_000, 5_000_000_000)


async def test_money_of_a_just_finished_request_is_found_before_a_refusal(house: House) -> None:
    client, journal = await house.worker()
    for _ in range(10):
        opened = await house.held(client, want=4_900_000_000, floor=4_900_000_000)
        assert opened.hold_nano == 4_900_000_000
        journal.append(opened)
        journal.append(house.requests.closed(opened))
        client.closed()  # the next hold comes at once, before the journal is even synced
    assert (await client.hold(HoldAsk(house.requests.ids.next(), 1, 5_000_000_000, 5_000_000_000))).amount_nano == 0


async def test_nobody_is_refused_for_money_that_others_hold_at_the_moment(house: House) -> None:
    client = await house.client()
    first, second = house.requests.ids.next(), house.requests.ids.next()
    assert (await client.hold(HoldAsk(first, 1, 5_000_000_000, 1))).amount_nano == 5_000_000_000
    waiting = asyncio.create_task(client.hold(HoldAsk(second, 1, 1000, 1000)))
    await client.command("status", {})  # asked behind the hold, answered before it
    assert not waiting.done()
    client.release(first)
    assert (await waiting).amount_nano == 1000


async def held(client: TellerClient, asked: HoldAsk) -> Granted:
    """Out of a lease or by the books, as the flow asks."""
    return client.draw(asked) or await client.hold(asked)


def bare(granted: Granted) -> Granted:
    """Without what is left beside it."""
    return msgspec.structs.replace(granted, left=None)


async def test_who_waited_in_vain_is_told_whether_the_money_is_held_or_not_there(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HELD_AWAITED_MS", 20)
    client = await house.client()

    async def hold(amount: int) -> Granted:
        return await client.hold(HoldAsk(house.requests.ids.next(), 1, amount, amount))

    assert (await hold(4_999_999_999)).amount_nano == 4_999_999_999
    assert bare(await hold(5_000_000_000)) == Granted(0, busy=True)
    assert bare(await hold(5_000_000_001)) == Granted(0)


async def test_a_release_gives_the_hold_back(house: House) -> None:
    client = await house.client()
    request_id = house.requests.ids.next()
    await client.hold(HoldAsk(request_id, 1, 10, 1))
    client.release(request_id)
    assert await wallet(client) == (5_000_000_000, 0)


async def test_a_cancelled_hold_is_given_back(house: House) -> None:
    client = await house.client()
    task = asyncio.create_task(client.hold(HoldAsk(house.requests.ids.next(), 1, 10, 1)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await wallet(client) == (5_000_000_000, 0)


async def test_without_books_no_hold(house: House) -> None:
    client = await house.client()
    await house.close_books()
    await until(lambda: not client.connected, "the loss to be noticed")
    with pytest.raises(CallerError) as refused:
        await client.hold(HoldAsk(house.requests.ids.next(), 1, 10, 1))
    assert (refused.value.status, refused.value.code) == (503, "books_unavailable")


@pytest.mark.postgres
async def test_who_moves_money_as_the_books_go_away_is_told_that_perhaps_it_moved(house: House) -> None:
    client = await house.client(0)
    asked = asyncio.ensure_future(client.command("wallet.topup", {"tenant": "acme", "amount": "1"}))
    await asyncio.sleep(0)
    assert client._link is not None
    client._link.abort()
    with pytest.raises(CallerError, match="Perhaps it is done: look before you do it again") as lost:
        await asked
    assert (lost.value.status, lost.value.retry_after_s) == (503, None)


async def test_a_worker_outlives_a_restart_of_the_books(house: House) -> None:
    client, journal = await house.worker()
    done, running = await house.held(client), await house.held(client)
    unopened = house.requests.ids.next()
    await client.hold(HoldAsk(unopened, 1, 7, 7))
    for opened in (done, running):
        journal.append(opened)
    series = client.series
    await house.close_books()
    await until(lambda: not client.connected, "the loss to be noticed")
    journal.append(house.requests.closed(done))
    journal.sync()
    await house.open_books()
    await until(lambda: client.connected, "the reconnect")
    assert client.series == series
    await until(lambda: client.open_holds == 2, "news of what was settled meanwhile")
    assert await wallet(client) == (5_000_000_000 - 97_000, 1_000_000 + 7)
    journal.append(house.requests.closed(running))
    client.closed()
    client.release(unopened)
    await until(lambda: client.open_holds == 0, "the rest to be settled")
    assert await wallet(client) == (5_000_000_000 - 2 * 97_000, 0)
    await clean(client)


async def test_books_that_restart_know_what_an_earlier_credit_limit_still_covers(house: House) -> None:
    """Found by the simulator: the new teller drew under the lower limit alone, and had more than the accounts."""
    office = house.clients[0]
    await office.command("wallet.limit", {"tenant": "acme", "amount": "10"})
    client, journal = await house.worker()
    running = await house.held(client, want=12_000_000_000)
    journal.append(running)
    await office.command("wallet.limit", {"tenant": "acme", "amount": "0"})
    await house.close_books()
    await until(lambda: not client.connected, "the loss to be noticed")
    await house.open_books()
    await until(lambda: client.connected, "the reconnect")
    journal.append(house.requests.closed(running, Usage(output=4_000_000)))  # 6 of the wallet's 5
    client.closed()
    await until(lambda: client.open_holds == 0, "the request to be settled")
    await clean(client)
    assert await wallet(client) == (-1_000_000_000, 0)


async def test_a_dead_worker_is_recovered_and_its_holds_are_released(house: House) -> None:
    office = house.clients[0]
    client, journal = await house.worker()
    running = await house.held(client)
    await client.hold(HoldAsk(house.requests.ids.next(), 1, 7, 7))
    journal.append(running)
    epoch = client.epoch
    await client.close()
    journal.close()  # its lock is free: dead

    async def freed() -> bool:
        return (await wallet(office))[1] == 0

    await eventually(freed)
    receipt = await office.command("receipt", {"request_id": running.request_id})
    assert (receipt["state"], receipt["end"], receipt["amount_nano"]) == ("posted", "worker_died", 0)
    await clean(office)
    successor = await house.client(0)
    assert successor.epoch > epoch
    zombie = TellerClient()
    zombie.epoch, zombie.series = epoch, f"w0-{epoch}"
    house.clients.append(zombie)
    connecting = asyncio.create_task(zombie.connect(house.data.socket, 0, patience_s=1))
    async with asyncio.timeout(5):
        await zombie.fenced.wait()
    connecting.cancel()
    await asyncio.gather(connecting, return_exceptions=True)


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)


@pytest.mark.postgres
async def test_what_died_with_the_books_is_settled_at_the_next_start(house: House) -> None:
    client, journal = await house.worker()
    done, running = await house.held(client), await house.held(client)
    await client.close()
    await house.close_books()
    for record in (done, running, house.requests.closed(done)):
        journal.append(record)
    journal.close()
    for _ in range(2):
        await house.open_books()
        office = await house.client(None)
        assert await wallet(office) == (5_000_000_000 - 97_000, 0)
        await clean(office)
        await office.close()
        await house.close_books()
    assert (house.data.journals / client.series / "settled").exists()


async def test_a_command_is_answered_when_every_worker_knows_what_it_changed(house: House) -> None:
    asking, quick, slow = [await house.client(number) for number in range(3)]
    link = slow._link
    assert link is not None
    link._transport.pause_reading()
    answer = asyncio.ensure_future(asking.command("operator.add", {"name": "k"}))
    await until(lambda: asking.snapshot.operators and quick.snapshot.operators, "the others to know the key")
    for _ in range(50):  # an answer that is on its way would be here by now
        await asyncio.sleep(0)
    assert not answer.done()
    link._transport.resume_reading()
    made = await answer
    assert secret_hash(made["key"]) in slow.snapshot.operators
    await asking.command("key.revoke", {"id": made["id"]})
    assert not any(client.snapshot.operators for client in (asking, quick, slow))


async def test_a_key_works_and_ends_for_all_workers_at_once_even_one_that_reads_nothing(house: House) -> None:
    asking, slow = [await house.client(number) for number in range(2)]
    link = slow._link
    assert link is not None
    link._transport.pause_reading()
    made = await asking.command("key.add", {"tenant": "acme", "name": "k"})
    digest = secret_hash(made["key"])
    assert [client.snapshot.callers.get(digest).key_id for client in (asking, slow)] == [made["id"]] * 2
    await asking.command("key.revoke", {"id": made["id"]})
    assert [client.snapshot.callers.get(digest) for client in (asking, slow)] == [None, None]


async def test_keys_outgrow_their_table_while_workers_look_them_up(house: House) -> None:
    office, worker = await house.client(None), await house.client(0)
    first = await office.command("key.add", {"tenant": "acme", "name": "first"})
    table = worker.snapshot.callers
    steps = [("tenant", {"id": "1", "name": "bulk", "currency": "CNY"})]
    steps += [
        ("key", {"id": str(n), "tenant": "1", "name": f"k{n}", "hash": secret_hash(f"k{n}").hex(), "shown": "sk-…"})
        for n in range(1200)
    ]
    asked = {"source": "site", "dry": False, "steps": [{"op": op, "payload": told} for op, told in steps]}
    made, revoked = await asyncio.gather(
        office.command("import", asked), office.command("key.revoke", {"id": first["id"]})
    )
    assert {one["state"] for one in made} == {"created"} and revoked["revoked_at"]
    callers = worker.snapshot.callers
    assert callers is not table and len(callers) == 1200, "the worker went over to the larger table"
    assert all(callers.get(secret_hash(f"k{n}")).tenant == "bulk" for n in range(1200))
    assert callers.get(secret_hash(first["key"])) is None
    assert len(list(house.data.keys.iterdir())) == 1, "the outgrown table is gone"
    await house.close_books()
    await house.open_books()
    await until(lambda: worker.connected and worker.snapshot.callers is not callers, "the worker to be back")
    assert len(worker.snapshot.callers) == 1200
    assert worker.snapshot.callers.of_key(first["id"]) is None


async def test_what_costs_more_than_its_hold_never_overdraws(house: House) -> None:
    client, journal = await house.worker()
    opened = await house.held(client, want=1000)
    journal.append(opened)
    journal.append(house.requests.closed(opened, Usage(output=1_000_000)))
    client.closed()
    await until(lambda: client.open_holds == 0, "the settlement")
    assert await wallet(client) == (5_000_000_000 - 1000, 0)
    await clean(client)


@pytest.mark.postgres
async def test_metrics_and_status_answer(house: House) -> None:
    client, journal = await house.worker()
    opened = await house.held(client)
    journal.append(opened)
    journal.append(house.requests.closed(opened))
    client.closed()
    await until(lambda: client.open_holds == 0, "the settlement")
    text = await client.command("metrics", {})
    assert 'steelyard_requests_total{end="complete",model="small"} 1.0' in text
    assert 'steelyard_charge_nano_total{currency="CNY",model="small"} 97000.0' in text
    assert "steelyard_workers_connected 1.0" in text
    status = await client.command("status", {})
    assert (status["workers"], status["holds"], status["trouble"]) == ([client.series], 0, "")


async def test_who_only_looks_has_nobody_look_for_allowances(house: House) -> None:
    office = house.clients[0]
    assert house.books is not None
    timekeeper = house.books._timekeeper
    await until(lambda: timekeeper._next_ns, "the first look")
    looked_until_ns = timekeeper._next_ns
    await office.command("tenant.list", {})
    await wallet(office)
    assert timekeeper._next_ns == looked_until_ns
    await office.command("wallet.allowance", {"tenant": "acme", "amount": "1", "every": "day"})
    await until(lambda: 0 < timekeeper._next_ns < looked_until_ns, "the end of its window")


async def test_the_socket_is_private(house: House) -> None:
    assert house.data.socket.stat().st_mode & 0o777 == 0o600


async def test_an_unknown_command_is_told(house: House) -> None:
    with pytest.raises(CallerError, match="no command"):
        await house.clients[0].command("wallet.rob", {})


@pytest.mark.postgres
async def test_an_older_request_that_still_runs_is_found_again_after_a_restart(house: House) -> None:
    client, journal = await house.worker()
    running = await house.held(client)
    journal.append(running)
    for _ in range(3):  # each is posted by itself, and the watermark must stay behind the one that runs
        done = await house.held(client)
        journal.append(done)
        journal.append(house.requests.closed(done))
        client.closed()
        await until(lambda: client.open_holds == 1, "the younger request to be settled")
    await house.close_books()
    await until(lambda: not client.connected, "the loss to be noticed")
    await house.open_books()
    await until(lambda: client.connected, "the reconnect")
    assert await wallet(client) == (5_000_000_000 - 3 * 97_000, 1_000_000)
    journal.append(house.requests.closed(running))
    client.closed()
    await until(lambda: client.open_holds == 0, "the older request to be settled")
    assert await wallet(client) == (5_000_000_000 - 4 * 97_000, 0)
    await clean(client)


async def test_a_hold_whose_answer_was_lost_is_given_back_at_the_next_hello(house: House) -> None:
    client = await house.client()
    lost, kept = house.requests.ids.next(), house.requests.ids.next()
    await client.hold(HoldAsk(lost, 1, 10, 1))
    await client.hold(HoldAsk(kept, 1, 20, 1))
    client._holds.pop(lost)  # as if the connection had broken before the answer came
    assert client._link is not None
    client._link.abort()
    await until(lambda: not client.connected, "the loss to be noticed")
    await until(lambda: client.connected, "the reconnect")
    assert await wallet(client) == (5_000_000_000, 20)


async def test_nobody_waits_for_a_pass_when_the_books_have_ended(house: House) -> None:
    """A hold that looks for money while the books stop must not keep them from stopping."""
    assert house.books is not None
    posting = house.books._posting
    house.books.stop()
    before_the_end = asyncio.create_task(posting.free_up())
    await house.books._running
    await asyncio.wait_for(before_the_end, 10)
    await asyncio.wait_for(posting.settled_now(), 10)


async def test_a_worker_that_died_before_its_journal_began_is_not_waited_for(house: House) -> None:
    """Its directory stays behind without a lock; nothing was ever written to it."""
    await house.close_books()
    (house.data.journals / "w7-3").mkdir()
    books = await house.open_books()
    assert books.open_for_holds
    assert books._status()["absent"] == []


@pytest.mark.postgres
async def test_concurrent_redemption_of_one_grant(house: House) -> None:
    """Many requests at once, three workers, worst cases far above what they cost: never more than the grant is used."""
    office = house.clients[0]
    await office.command("wallet.refund", {"tenant": "acme", "amount": "5"})
    expires_ns = SystemClock().now_ns() + 3600 * 10**9
    await office.command("wallet.grant", {"tenant": "acme", "amount": "0.001", "expires_ns": expires_ns})
    workers = [await house.worker(number) for number in range(3)]
    granted: list[int] = []

    async def redeem(number: int) -> None:
        client, journal = workers[number % 3]
        opened = await house.held(client, want=400_000, floor=200_000)
        granted.append(opened.hold_nano)
        if not opened.hold_nano:
            return
        journal.append(opened)
        journal.append(house.requests.closed(opened, Usage(output=100)))  # 150,000
        journal.sync()
        client.closed()

    await asyncio.gather(*(redeem(number) for number in range(24)))
    assert 0 in granted and max(granted) == 400_000
    await until(lambda: house.books is not None and house.books.teller.open_holds == 0, "all is settled")
    shown = await office.command("wallet.show", {"tenant": "acme"})
    served = sum(1 for one in granted if one)
    assert (shown["balance_nano"], shown["granted_nano"]) == (0, 1_000_000 - 150_000 * served)
    assert shown["available_nano"] == shown["granted_nano"] >= 0
    await clean(office)


async def test_a_grant_expires_within_the_books_and_a_refund_leaves_what_is_held(house: House) -> None:
    office = house.clients[0]
    client, journal = await house.worker()
    opened = await house.held(client, want=4_000_000_000)
    with pytest.raises(CallerError) as refused:
        await office.command("wallet.refund", {"tenant": "acme", "amount": "1.000000001"})
    assert refused.value.code == "wallet_short"
    await office.command("wallet.refund", {"tenant": "acme", "amount": "1"})
    assert await wallet(office) == (4_000_000_000, 4_000_000_000)
    expires_ns = SystemClock().now_ns() + 200_000_000
    await office.command("wallet.grant", {"tenant": "acme", "amount": "2", "expires_ns": expires_ns})
    assert house.books is not None
    teller = house.books.teller
    await until(lambda: SystemClock().now_ns() > expires_ns, "its time has come")
    assert teller.purse(1).grants, "what was held before may still use it"
    journal.append(opened)
    journal.append(house.requests.closed(opened, Usage(output=1000)))  # 1,500,000
    journal.sync()
    client.closed()
    await until(lambda: not teller.purse(1).grants, "what nobody holds is swept")
    await clean(office)
