"""A command of the office while no platform runs. What a crash left in the journals is settled first where it matters.

Money that requests have used is not in the wallets until they are posted: who pays out before that pays twice, and the
later charges have nothing left to be taken from. Knows no socket and no teller: nobody is served meanwhile.
"""

from typing import Any

from steelyard.flow import settle
from steelyard.kernel.clock import Clock
from steelyard.kernel.directory import DataDir
from steelyard.kernel.errors import CallerError
from steelyard.ledger.salt import ensure_secret
from steelyard.processes.bookkeeper import Bookkeeper
from steelyard.processes.office import Office, transaction
from steelyard.processes.only_writer import only_writer
from steelyard.processes.paying import PAYING
from steelyard.processes.snapshot import EPOCH, bump
from steelyard.storage.database import migrate, open_database

SETTLED_FIRST = PAYING | {"wallet.credit", "rerate.post", "ledger.close"}
"""Commands that take money out, or count on every request before them being posted."""


def carry_out(data: DataDir, clock: Clock, op: str, payload: dict[str, Any]) -> Any:
    """The answer of the office. Whoever calls holds the directory.

    Raises CallerError, 409 when requests stay open that it would have to wait for; StartError or BooksError.
    """
    with only_writer(data):
        engine = open_database(data.database)
        try:
            migrate(engine)
            office = Office(engine, clock, journals=data.journals)
            if op not in SETTLED_FIRST:
                return office.command(op, payload)
            with transaction(engine) as connection:
                epoch = bump(connection, EPOCH)
                ensure_secret(connection)
            bookkeeper = Bookkeeper(engine, data.journals, epoch, clock, settle)
            try:
                bookkeeper.start()
                _refuse_open(bookkeeper)
                return office.command(op, payload)
            finally:
                bookkeeper.close()
        finally:
            engine.dispose()


def _refuse_open(bookkeeper: Bookkeeper) -> None:
    """Only a worker that outlived its platform and still serves leaves a request open here."""
    running = len(bookkeeper.open_requests())
    if running or bookkeeper.live_series():
        raise CallerError(
            409,
            "requests_open",
            f"A worker outlived its platform (open requests: {running}). Try again when it has ended, or start the "
            "platform and repeat the command.",
        )
