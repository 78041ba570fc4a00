"""Idempotency keys at real books: one claim runs, repeats wait, restarts of either side lose none."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.unit.processes.test_books import House, house, until, wallet

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.directory import DatabaseUrl
from steelyard.kernel.errors import CallerError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import HoldAsk
from steelyard.kernel.settled import Opened
from steelyard.ledger import answers
from steelyard.ledger.teller_client import TellerClient
from steelyard.ledger.wire import Claim, Kept

__all__ = ["house"]  # the fixture
BODY, OTHER = b"b" * 32, b"o" * 32
KEPT = Kept(((b"content-type", b"application/json"),), b'{"answer":1}')


def claim_of(house: House, client: TellerClient, key: str = "k", body: bytes = BODY) -> Claim:
    return Claim(1, 1, key, body, house.requests.ids.next(), client.series)


async def take(client: TellerClient, claim: Claim) -> Any:
    return await client.command("claim.take", {name: getattr(claim, name) for name in claim.__struct_fields__})


async def tell(client: TellerClient, op: str, claim: Claim, kept: Kept | None = None) -> None:
    await client.command(f"claim.{op}", {"claim": claim, "kept": kept})


async def refused(client: TellerClient, claim: Claim) -> tuple[int, str]:
    with pytest.raises(CallerError) as error:
        await take(client, claim)
    return error.value.status, error.value.code


async def charged(house: House, client: TellerClient, journal: Any, claim: Claim, usage: Usage | None = None) -> None:
    """The claim's request runs and closes."""
    granted = (await client.hold(HoldAsk(claim.request_id, 1, 1_000_000, 1))).amount_nano
    made = house.requests.opened(hold_nano=granted)
    fields = {name: getattr(made, name) for name in made.__struct_fields__} | {"request_id": claim.request_id}
    opened = Opened(**fields)
    journal.append(opened)
    journal.append(house.requests.closed(opened, usage))
    client.closed()


async def test_of_many_at_once_one_runs_and_the_others_get_its_answer(house: House) -> None:
    clients = [await house.client(number) for number in range(2)]
    claims = [claim_of(house, clients[number % 2]) for number in range(20)]
    asks = [asyncio.ensure_future(take(clients[number % 2], claim)) for number, claim in enumerate(claims)]
    done, waiting = await asyncio.wait(asks, return_when=asyncio.FIRST_COMPLETED)
    (first,) = done
    assert first.result() == {"verdict": "run"}
    assert len(waiting) == 19
    number = asks.index(first)
    await tell(clients[number % 2], "keep", claims[number], KEPT)
    for said in await asyncio.gather(*waiting):
        assert (said["verdict"], said["body"]) == ("replay", KEPT.body)


async def test_after_a_drop_exactly_one_of_the_waiting_runs(house: House) -> None:
    client = await house.client(0)
    first = claim_of(house, client)
    await take(client, first)
    claims = [claim_of(house, client) for _ in range(5)]
    asks = [asyncio.ensure_future(take(client, claim)) for claim in claims]
    await client.command("status", {})  # answered after the five have begun to wait
    await tell(client, "drop", first)
    done, waiting = await asyncio.wait(asks, return_when=asyncio.FIRST_COMPLETED)
    assert [one.result()["verdict"] for one in done] == ["run"]
    await tell(client, "keep", claims[asks.index(done.pop())], KEPT)
    assert {said["verdict"] for said in await asyncio.gather(*waiting)} == {"replay"}


async def test_whoever_withdraws_while_he_waits_does_not_get_the_key(house: House) -> None:
    client = await house.client(0)
    first, gone, third = (claim_of(house, client) for _ in range(3))
    await take(client, first)
    ask = asyncio.ensure_future(refused(client, gone))
    await client.command("status", {})
    await tell(client, "drop", gone)
    await tell(client, "drop", first)
    assert (await ask)[0] == 503
    assert await take(client, third) == {"verdict": "run"}


async def test_another_body_is_422_while_it_runs_and_afterwards(house: House) -> None:
    client = await house.client(0)
    first = claim_of(house, client)
    await take(client, first)
    assert await refused(client, claim_of(house, client, body=OTHER)) == (422, "idempotency_key_reused")
    await tell(client, "keep", first, KEPT)
    assert await refused(client, claim_of(house, client, body=OTHER)) == (422, "idempotency_key_reused")
    assert await take(client, claim_of(house, client, "other", OTHER)) == {"verdict": "run"}


async def test_who_waits_too_long_is_told_to_come_back(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IDEMPOTENT_WAIT_S", 0.05)
    client = await house.client(0)
    await take(client, claim_of(house, client))
    with pytest.raises(CallerError) as error:
        await take(client, claim_of(house, client))
    assert (error.value.status, error.value.code) == (409, "idempotent_request_running")
    assert error.value.retry_after_s == limits.IDEMPOTENT_RETRY_AFTER_S


async def test_books_that_end_keep_no_repeat_waiting(house: House) -> None:
    client, _ = await house.worker()
    await take(client, claim_of(house, client))
    again = asyncio.ensure_future(refused(client, claim_of(house, client)))
    await client.command("status", {})  # answered after the repeat has begun to wait
    async with asyncio.timeout(limits.IDEMPOTENT_WAIT_S / 2):
        await house.close_books()
    assert await again == (503, "books_unavailable")


@pytest.mark.postgres
async def test_a_claim_outlives_the_books_and_its_answer_is_still_taken(house: House) -> None:
    client, _ = await house.worker()
    first = claim_of(house, client)
    await take(client, first)
    await house.close_books()
    await house.open_books()
    await until(lambda: client.connected, "the worker to be back")
    again = asyncio.ensure_future(take(client, claim_of(house, client)))
    await client.command("status", {})
    assert not again.done()
    await tell(client, "keep", first, KEPT)
    assert (await again)["body"] == KEPT.body
    await house.close_books()
    await house.open_books()
    await until(lambda: client.connected, "the worker to be back")
    assert (await take(client, claim_of(house, client)))["body"] == KEPT.body


@pytest.mark.parametrize(("usage", "verdict"), [(None, (409, "idempotent_answer_incomplete")), (Usage(), "run")])
@pytest.mark.parametrize("books_die_too", [False, True])
async def test_a_dead_workers_claim_is_decided_by_its_usage_row(
    house: House, usage: Usage | None, verdict: Any, books_die_too: bool
) -> None:
    client, journal = await house.worker()
    first = claim_of(house, client)
    await take(client, first)
    await charged(house, client, journal, first, usage)
    if books_die_too:
        await house.close_books()
    house.clients.remove(client)
    await client.close()
    journal.close()
    house.journals.remove(journal)
    if books_die_too:
        await house.open_books()
    other = await house.client(1)
    said = await refused(other, claim_of(house, other)) if usage is None else await take(other, claim_of(house, other))
    assert said == (verdict if usage is None else {"verdict": verdict})
    office = await house.client(None)
    assert (await office.command("verify", {}))["ok"]


async def test_over_looks_the_charge_up_and_decides_nothing_before_it_is_posted(house: House) -> None:
    """Found by the simulator: on a slow disk the close came late, the key was free again and charged a second time."""
    client, journal = await house.worker()
    claim = claim_of(house, client, "sold")
    await take(client, claim)
    with pytest.raises(CallerError) as early:
        await tell(client, "over", claim)
    assert (early.value.status, early.value.code) == (503, "not_settled")
    await charged(house, client, journal, claim)
    await tell(client, "over", claim)
    assert (await refused(client, claim_of(house, client, "sold")))[1] == "idempotent_answer_incomplete"


@pytest.mark.postgres
async def test_stored_answers_are_bounded_and_never_forgotten_early(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ANSWER_BYTES_MAX", 100)
    monkeypatch.setattr(limits, "ANSWERS_BYTES_PER_TENANT_MAX", 250)
    monkeypatch.setattr(limits, "ANSWERS_PER_TENANT_MAX", 5)
    client = await house.client(0)
    for key, size in (("long", 101), ("a", 100), ("b", 100), ("c", 100)):
        claim = claim_of(house, client, key)
        await take(client, claim)
        await tell(client, "keep", claim, Kept(KEPT.headers, b"x" * size))
    for key in ("long", "a"):
        assert await refused(client, claim_of(house, client, key)) == (409, "idempotent_answer_not_kept")
    for key in ("b", "c"):
        assert len((await take(client, claim_of(house, client, key)))["body"]) == 100
    assert await take(client, claim_of(house, client, "d")) == {"verdict": "run"}
    assert (await refused(client, claim_of(house, client, "e")))[0] == 429


@pytest.mark.postgres
def test_what_has_expired_is_deleted_and_what_runs_is_not(place: Path | DatabaseUrl) -> None:
    from tests.fakes.ledger import books

    engine = books(place)
    end_ns = limits.ANSWER_KEPT_S * NS_PER_S
    with engine.begin() as connection:
        for number, key in enumerate(("runs", "kept")):
            assert answers.take(connection, Claim(1, 1, key, BODY, bytes([number] * 16), "w0-1"), 0) is None
        assert answers.keep(connection, Claim(1, 1, "kept", BODY, bytes([1] * 16), "w0-1"), KEPT, 5)
        assert answers.sweep(connection, end_ns + 4) == 0
        again = Claim(1, 1, "kept", BODY, b"n" * 16, "w0-1")
        assert answers.take(connection, again, end_ns + 4) is not None
        assert answers.sweep(connection, end_ns + 5) == 1
        assert [claim.key for claim in answers.running(connection)] == ["runs"]
        assert answers.take(connection, again, end_ns + 5) is None
    engine.dispose()


async def test_a_correction_takes_no_money_that_requests_were_promised(house: House) -> None:
    client = await house.client(0)
    assert (await client.hold(HoldAsk(house.requests.ids.next(), 1, 4_000_000_000, 1))).amount_nano == 4_000_000_000
    line = {"tenant_id": 1, "model": "small", "currency": "CNY", "wallet_nano": 3_000_000_000, "overrun_nano": 0}
    payload = {"book": "ab" * 32, "since_ns": 0, "until_ns": 10**18, "reason": "r", "actor": "a", "corrections": [line]}
    payload["last_batch"] = 10
    reply = await client.command("rerate.post", payload)
    assert reply["taken"] == [{"tenant_id": 1, "wallet_nano": 1_000_000_000}]
    assert await wallet(client) == (4_000_000_000, 4_000_000_000)
    back = payload | {"book": "cd" * 32, "corrections": [line | {"wallet_nano": -7}]}
    assert (await client.command("rerate.post", back))["taken"] == [{"tenant_id": 1, "wallet_nano": -7}]
    assert await wallet(client) == (4_000_000_007, 4_000_000_000)
    assert (await client.command("rerate.post", back))["posted_before"] is True
    assert await wallet(client) == (4_000_000_007, 4_000_000_000)
    assert (await client.command("verify", {}))["ok"]
