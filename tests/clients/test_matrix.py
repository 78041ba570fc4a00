"""Unchanged client libraries through the public port: what each sees is what its receipt says and the ledger holds.

Every cell of every client is asked once, before the first test looks; the tests are the assertions. The clients run in
processes of their own (`drivers.py`), at keys and wallets of their own, in front of the scripted upstream.
"""

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.clients.checks")
from tests.clients.checks import check, check_wallet  # noqa: E402
from tests.clients.drivers import need  # noqa: E402
from tests.clients.matrix import CELLS, CLIENTS, Cell, Client  # noqa: E402
from tests.clients.session import Run, performed, tenant  # noqa: E402
from tests.clients.table import PAGE, page  # noqa: E402

pytestmark = pytest.mark.timeout(400)  # the first test waits for all clients, on a busy machine


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with performed(tmp_path_factory.mktemp("clients")) as found:
        yield found


@pytest.fixture(params=CLIENTS, ids=tenant)
def client(request: pytest.FixtureRequest) -> Client:
    asked: Client = request.param
    need(asked.process)
    return asked


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_seen_is_receipt_is_ledger(client: Client, cell: Cell, run: Run) -> None:
    check(run, client, cell)


def test_all_is_billed_once_and_the_wallet_adds_up(client: Client, run: Run) -> None:
    check_wallet(run, client)


def test_the_books_are_right(run: Run) -> None:
    assert run.platform.run("verify")["ok"] is True


@pytest.fixture
def everybody() -> None:
    for process in sorted({client.process for client in CLIENTS}):
        need(process)


def test_the_conformance_table_is_what_this_run_gave(everybody: None, run: Run) -> None:
    assert PAGE.read_text() == page(run), "python -m tests.clients.table"
