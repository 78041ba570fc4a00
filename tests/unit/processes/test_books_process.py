"""The books as a process of their own: ready line, kill -9 amid traffic, the end of the parent, the lock."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from sqlalchemy import text
from tests.fakes.ledger import Requests, outside, put_tariffs

from steelyard.kernel.directory import DatabaseUrl, DataDir
from steelyard.kernel.errors import CallerError
from steelyard.kernel.records import HoldAsk
from steelyard.kernel.settled import Opened
from steelyard.ledger.teller_client import TellerClient
from steelyard.metering.journal import Journal

if TYPE_CHECKING:
    from tests.fakes.postgres import Server

WAIT_S = 30
CHARGE_NANO = 97_000


def data_dir(root: Path, place: Path | DatabaseUrl) -> DataDir:
    return DataDir(root, place) if isinstance(place, DatabaseUrl) else DataDir(root)


def start(data: DataDir) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "steelyard.processes.books", "--data", str(data.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | data.environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def finish(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=WAIT_S)
    return process.returncode, errors.decode()


async def prepared(data: DataDir) -> TellerClient:
    """A worker with a tenant that has 5 CNY, and tariffs."""
    client = TellerClient()
    await client.connect(data.socket, 0)
    await client.command("tenant.add", {"name": "acme"})
    await client.command("wallet.topup", {"tenant": "acme", "amount": "5"})
    engine = outside(data.database)
    with engine.begin() as connection:
        put_tariffs(connection)
    engine.dispose()
    return client


async def until_settled(client: TellerClient) -> None:
    async with asyncio.timeout(WAIT_S):
        while client.open_holds:
            await asyncio.sleep(0.01)


@pytest.mark.postgres
async def test_kill_9_in_the_middle_of_traffic_loses_and_doubles_nothing(
    tmp_path: Path, place: Path | DatabaseUrl
) -> None:
    data = data_dir(tmp_path / "data", place)
    process = start(data)
    client = await prepared(data)
    journal = Journal.create(data.journals / client.series, segment_bytes=256 * 1024)
    requests, served = Requests(), 0

    async def serve() -> None:
        nonlocal served
        opened = requests.opened()
        try:
            granted = (await client.hold(HoldAsk(opened.request_id, 1, 1_000_000, 1_000_000))).amount_nano
        except CallerError:
            await asyncio.sleep(0.01)
            return
        assert granted == 1_000_000
        journal.append(opened)
        await asyncio.sleep(0)
        journal.append(requests.closed(opened))
        client.closed()
        served += 1

    for _ in range(3):
        before = served
        traffic = asyncio.gather(*(serve() for _ in range(300)))
        while served < before + 20:
            await asyncio.sleep(0)
        process.send_signal(signal.SIGKILL)
        await traffic
        assert finish(process)[0] == -signal.SIGKILL
        async with asyncio.timeout(WAIT_S):
            while client.connected:
                await asyncio.sleep(0.001)
        process = start(data)
        async with asyncio.timeout(WAIT_S):
            while not client.connected:
                await asyncio.sleep(0.01)
    await until_settled(client)
    shown = await client.command("wallet.show", {"tenant": "acme"})
    assert shown["balance_nano"] == 5_000_000_000 - served * CHARGE_NANO
    assert shown["held_nano"] == 0
    assert (await client.command("verify", {}))["ok"]
    await client.close()
    journal.close()
    process.terminate()
    assert finish(process)[0] == 0
    engine = outside(data.database)
    with engine.connect() as connection:
        counted = connection.execute(text("SELECT count(*), count(DISTINCT request_id) FROM usage")).one()
    engine.dispose()
    assert tuple(counted) == (served, served)


async def test_a_locked_database_refuses_holds_and_keeps_everything(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "data")
    process = start(data)
    client = await prepared(data)
    journal = Journal.create(data.journals / client.series, segment_bytes=256 * 1024)
    requests = Requests()
    opened: Opened = requests.opened()
    await client.hold(HoldAsk(opened.request_id, 1, 1_000_000, 1_000_000))
    with closing(sqlite3.connect(data.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        journal.append(opened)
        journal.append(requests.closed(opened))
        client.closed()
        async with asyncio.timeout(WAIT_S):
            while not (await client.command("status", {}))["trouble"]:
                await asyncio.sleep(0.05)
        try:
            await client.hold(HoldAsk(requests.ids.next(), 1, 1, 1))
            refused = ""
        except CallerError as error:
            refused = error.code
        assert refused == "books_unavailable"
        other.execute("ROLLBACK")
    await until_settled(client)
    async with asyncio.timeout(WAIT_S):  # the pass that settled it goes on for a moment before holds are given again
        while (await client.command("status", {}))["trouble"]:
            await asyncio.sleep(0.05)
    assert (await client.command("wallet.show", {"tenant": "acme"}))["balance_nano"] == 5_000_000_000 - CHARGE_NANO
    assert (await client.hold(HoldAsk(requests.ids.next(), 1, 1, 1))).amount_nano == 1
    await client.close()
    journal.close()
    process.terminate()
    assert finish(process)[0] == 0


def test_the_end_of_the_parent_is_the_end(tmp_path: Path) -> None:
    process = start(DataDir(tmp_path / "data"))
    assert finish(process)[0] == 0  # communicate closes its standard input


def test_a_second_writer_is_refused_in_one_line(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "data")
    first = start(data)
    command = [sys.executable, "-m", "steelyard.processes.books", "--data", str(data.root)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert second.returncode == 1
    assert second.stderr.strip().splitlines()[-1].startswith("Another books process writes")
    assert finish(first)[0] == 0


def test_a_second_writer_of_one_postgresql_is_refused_without_its_password(tmp_path: Path, postgres: "Server") -> None:
    with postgres.database() as fresh:
        url = DatabaseUrl(fresh.text.replace("postgres:@", "postgres:correct-horse@"))
        first, second = DataDir(tmp_path / "one", url), DataDir(tmp_path / "two", url)
        process = start(first)
        command = [sys.executable, "-m", "steelyard.processes.books", "--data", str(second.root)]
        refused = subprocess.run(
            command, capture_output=True, text=True, timeout=WAIT_S, check=False, env=os.environ | second.environment
        )
        assert refused.returncode == 1
        assert refused.stderr.strip().splitlines()[-1].startswith("Another books process writes the database")
        assert "correct-horse" not in refused.stderr + refused.stdout
        assert "correct-horse" not in " ".join(psutil.Process(process.pid).cmdline())
        assert "correct-horse" not in finish(process)[1]
