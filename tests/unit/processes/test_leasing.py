"""Leases through the real socket: lent to busy workers, called back before anybody is refused, lost with nobody."""

import asyncio
import sqlite3
from typing import Any

import msgspec
import pytest
from tests.fakes.ledger import shares_of
from tests.unit.processes.test_books import House, bare, clean, held, house, until, wallet

from steelyard.kernel import limits
from steelyard.kernel.clock import SystemClock
from steelyard.kernel.errors import CallerError
from steelyard.kernel.records import Granted, HoldAsk
from steelyard.kernel.settled import Opened
from steelyard.ledger import wire
from steelyard.ledger.teller_client import TellerClient
from steelyard.metering.journal import Journal

__all__ = ["house"]  # the fixture
WANT = 1_000_000  # the wallet of 5 CNY is worth 5000 of them


def ask(house: House, want: int = WANT, floor: int = 0) -> HoldAsk:
    return HoldAsk(house.requests.ids.next(), 1, want, floor or want, 1, 1, SystemClock().now_ns(), 10, 90)


async def opened(house: House, client: TellerClient, journal: Journal) -> Opened:
    asked = ask(house)
    granted = await held(client, asked)
    assert granted.amount_nano == WANT
    record = msgspec.structs.replace(
        house.requests.opened(hold_nano=WANT), request_id=asked.request_id, lease=granted.lease
    )
    journal.append(record)
    return record


async def until_leased(house: House, client: TellerClient, journal: Journal) -> list[Opened]:
    """Ask until the worker holds by itself; the last of these requests does."""
    assert house.books is not None
    records: list[Opened] = []
    async with asyncio.timeout(10):
        while not records or not records[-1].lease:
            records.append(await opened(house, client, journal))
    assert records[-1].lease == client.series
    return records


async def test_a_busy_worker_holds_by_itself_and_everything_settles(house: House) -> None:
    client, journal = await house.worker()
    assert house.books is not None
    records = await until_leased(house, client, journal)
    assert len(records) > limits.LEASE_ROUND_TRIPS_MIN
    lent = house.books.lending.leases.amount(1, client.series)
    assert lent == limits.LEASE_WORST_CASES_MAX * WANT
    assert house.books.teller.find(records[-1].request_id) is None
    assert await wallet(client) == (5_000_000_000, (len(records) - 1) * WANT + lent)
    unopened = ask(house)
    assert (await held(client, unopened)).lease
    client.release(unopened.request_id)
    for record in records:
        journal.append(house.requests.closed(record))
    client.closed()
    await until(lambda: client.open_holds == 0, "the settled notices")
    await clean(client)
    leases = house.books.lending.leases
    await until(lambda: not leases.holders(1), "an idle lease to go back")
    assert await wallet(client) == (5_000_000_000 - 97_000 * len(records), 0)
    await clean(client)


async def test_what_was_lent_to_a_tenant_with_credit_leaves_no_doubt(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All purses and limits were read again with every batch: the sums of a month, while nothing else was posted."""
    await house.clients[0].command("wallet.limit", {"tenant": "acme", "amount": "3"})
    client, journal = await house.worker()
    records = await until_leased(house, client, journal)
    assert house.books is not None
    posting = house.books._posting
    doubts: list[object] = []
    make_certain = posting._make_certain

    async def noted() -> None:
        doubts.append(posting)
        await make_certain()

    monkeypatch.setattr(posting, "_make_certain", noted)
    for record in records:
        journal.append(house.requests.closed(record))
    client.closed()
    await until(lambda: client.open_holds == 0, "the settled notices")
    await clean(client)
    assert not doubts


async def test_a_lease_is_called_back_before_anybody_is_refused(house: House) -> None:
    client, journal = await house.worker()
    records = await until_leased(house, client, journal)
    other = await house.client(1)
    rest = 5_000_000_000 - WANT * len(records)
    assert bare(await held(other, ask(house, rest))) == Granted(rest, 90), "every nano that no request holds"
    assert house.books is not None
    assert house.books.lending.leases.holders(1) == []
    assert house.books.teller.find(records[-1].request_id) is not None, "held one by one now"
    assert (await held(client, ask(house, 1))).amount_nano == 0
    for record in records:
        journal.append(house.requests.closed(record))
    client.closed()
    await until(lambda: client.open_holds == 0, "the settled notices")
    await clean(client)


async def test_recall_races_with_use(house: House) -> None:
    """Four workers draw on their leases while the wallet runs dry: to the last nano, and nothing is given twice."""
    workers = [await house.worker(number) for number in range(4)]
    granted: list[int] = []

    async def drain(client: TellerClient) -> None:
        got = WANT
        while got:
            got = (await held(client, ask(house, WANT, 1))).amount_nano
            granted.append(got)

    await asyncio.gather(*(drain(client) for client, _ in workers for _ in range(2)))
    assert sum(granted) == 5_000_000_000
    assert sorted(set(granted)) == [0, WANT]
    assert house.books is not None
    assert house.books.teller.available(1) == 0
    await clean(workers[0][0])


async def test_a_limit_ends_leases_and_counts_what_they_were_given_to(house: House) -> None:
    client, journal = await house.worker()
    records = await until_leased(house, client, journal)
    office = house.clients[0]
    await office.command("limit.set", {"tenant": "acme", "concurrency": len(records) + 1})
    assert house.books is not None
    assert house.books.lending.leases.holders(1) == []
    assert bare(await held(client, ask(house))) == Granted(WANT, 90)
    refused = await asyncio.gather(*(held(client, ask(house)) for _ in range(40)), return_exceptions=True)
    assert all("at the same time" in str(error) for error in refused)


async def test_limits_per_minute_are_lent_too_and_nobody_gets_a_request_more(house: House) -> None:
    """Two workers draw on their shares until the limit is reached: exactly so many, and none refused before."""
    await house.clients[0].command("limit.set", {"tenant": "acme", "rpm": 400, "tpm": 1_000_000})
    workers = [await house.worker(number) for number in range(2)]
    granted: list[Granted] = []

    async def ask_on(client: TellerClient) -> str:
        while True:
            try:
                granted.append(await held(client, ask(house, 1000)))
            except CallerError as error:
                return error.code

    ended = await asyncio.gather(*(ask_on(client) for client, _ in workers for _ in range(2)))
    assert ended == ["rate_limit_exceeded"] * 4
    assert len(granted) == 400
    out_of_leases = [one for one in granted if one.lease]
    assert len(out_of_leases) > 100
    left = [one.left for one in out_of_leases if one.left is not None]
    assert len(left) == len(out_of_leases), "limits are told out of a lease too"
    assert all(one.available_nano is None and one.requests and one.requests.most == 400 for one in left)
    assert house.books is not None
    assert house.books.lending.leases.holders(1) == [], "called back before anybody was refused"
    assert house.books.teller.shares_aside() == {}
    await clean(workers[0][0])


async def test_a_request_takes_of_its_workers_share_what_it_used_not_what_it_reserved(house: House) -> None:
    """150 tokens, although it reserved 100: its upstream went above its cap. Both ends count the same."""
    await house.clients[0].command("limit.set", {"tenant": "acme", "tpm": 1_000_000})
    client, journal = await house.worker()
    records = await until_leased(house, client, journal)
    assert house.books is not None
    leases, teller = house.books.lending.leases, house.books.teller
    (before,) = set(teller.shares_aside().values())  # the same of the tenant, his project and his key
    for record in records:
        journal.append(house.requests.closed(record))
    client.closed()
    await until(lambda: client.open_holds == 0, "the settled notices")
    used = house.requests.closed(records[-1]).usage.total
    (has,) = shares_of(client._pools, 1)
    assert (has.key_id, has.requests, has.tokens) == (1, before[0] - 1, before[1] - used)
    assert set(teller.shares_aside().values()) == {(has.requests, has.tokens)}
    await until(lambda: not leases.holders(1), "an idle lease to go back")
    assert teller.shares_aside() == {}
    await clean(client)


@pytest.mark.parametrize("limit", [{"budget": "4"}, {"concurrency": 100_000}, {"rpm": 99}, {"tpm": 9900}])
async def test_what_only_the_teller_can_count_is_not_lent(house: House, limit: dict[str, Any]) -> None:
    await house.clients[0].command("limit.set", {"tenant": "acme"} | limit)
    client, _ = await house.worker()
    for _ in range(2 * limits.LEASE_ROUND_TRIPS_MIN):
        assert not (await held(client, ask(house, 1000))).lease
    assert house.books is not None
    assert house.books.lending.leases.holders(1) == []


async def test_a_lease_of_a_dead_worker_goes_back(house: House) -> None:
    client, journal = await house.worker()
    records = await until_leased(house, client, journal)
    other = await house.client(1)
    journal.sync()
    await client.close()
    journal.close()
    assert house.books is not None
    books = house.books
    await until(lambda: not books.lending.leases.holders(1), "the worker to be settled")
    balance, held = await wallet(other)
    assert (balance, held) == (5_000_000_000, 0), "nothing was delivered"
    assert books.teller.find(records[-1].request_id) is None
    await clean(other)


async def test_leases_dissolve_when_the_books_restart(house: House) -> None:
    client, journal = await house.worker()
    records = await until_leased(house, client, journal)
    unopened = ask(house)
    assert (await held(client, unopened)).lease
    journal.sync()
    await house.close_books()
    await until(lambda: not client.connected, "the loss to be noticed")
    again = await house.open_books()
    await until(lambda: client.connected, "the reconnect")
    assert again.lending.leases.holders(1) == []
    assert again.teller.held(1) == WANT * (len(records) + 1)
    first = await held(client, ask(house))
    assert not first.lease, "what was free of the old lease is void"
    client.release(unopened.request_id)
    for record in records:
        journal.append(house.requests.closed(record))
    client.closed()
    await until(lambda: client.open_holds == 1, "the settled notices")
    assert again.teller.held(1) == WANT
    await clean(client)


async def test_a_commit_that_happened_and_failed_leaves_no_lease(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by the simulator: what it settled was known at the next try, and the hold stayed lent for good."""
    client, journal = await house.worker()
    assert house.books is not None
    records = await until_leased(house, client, journal)
    dialect = house.books._engine.dialect
    commit, failed = dialect.do_commit, []

    def commit_and_fail(connection: Any) -> None:
        commit(connection)
        if not failed:
            failed.append(True)
            raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(dialect, "do_commit", commit_and_fail)
    for record in records:
        journal.append(house.requests.closed(record))
    client.closed()
    journal.sync()
    posting, leases = house.books._posting, house.books.lending.leases
    await until(lambda: bool(failed) and not client.open_holds and not posting.trouble, "the second try")
    await until(lambda: not leases.holders(1), "the lease to come back")
    assert await wallet(client) == (5_000_000_000 - 97_000 * len(records), 0)
    await clean(client)


async def test_closes_are_told_together_and_before_the_next_question(house: House, monkeypatch) -> None:
    monkeypatch.setattr(limits, "CLOSED_TOLD_MS", 60_000)
    told: list[int] = []
    client, _ = await house.worker()
    monkeypatch.setattr(house.books, "noticed_close", lambda series, count: told.append(count))
    for _ in range(3):
        client.closed()
    for _ in range(20):
        await asyncio.sleep(0)
    assert told == []
    await client.command("status", {})
    assert told == [3]
    await client.command("status", {})
    assert told == [3]
    client.closed()
    await client.close()
    await until(lambda: told == [3, 1], "the last one, told when the worker leaves")


async def test_a_hold_out_of_a_lease_suspends_nobody(house: House) -> None:
    client, journal = await house.worker()
    await until_leased(house, client, journal)
    opened = house.requests.opened(hold_nano=0)
    given = client.draw(HoldAsk(opened.request_id, 1, 1000, 1))
    assert given is not None and given.amount_nano == 1000 and given.lease == client.series
    client.release(opened.request_id)


async def test_messages_cut_anywhere_are_heard_whole_and_one_that_is_too_long_ends_the_connection() -> None:
    heard: list[object] = []

    class Listening(wire.Link):
        def on_message(self, number, op, payload) -> None:
            heard.append((number, op, wire.decode_any(payload)))

    link = Listening()
    sent = [(0, "closed", 3), (7, "hold", b"x" * 40_000), (8, "ok", ["y", 2])]
    stream = b"".join(wire.frame(*one) for one in sent)
    for size in (1, 3, 7, 4096, len(stream)):
        heard.clear()
        for at in range(0, len(stream), size):
            link.data_received(stream[at : at + size])
        assert heard == sent
    link.alive = True
    for byte in (limits.SOCKET_MESSAGE_BYTES_MAX + 1).to_bytes(4, "little"):
        link.data_received(bytes([byte]))
    assert not link.alive
