"""What every test shares: hypothesis without wall-clock judgements (the machine may be busy), one real platform, and no
journal or slot file that is left open."""

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from tests.fakes.authority import Authority
from tests.fakes.memory import place_for
from tests.platform import Platform

from steelyard.kernel.directory import DatabaseUrl

if TYPE_CHECKING:
    from tests.fakes.postgres import Server

settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

_TEMPORARY_BYTES = 8 << 30  # several times what a whole run leaves
if (memory := place_for(_TEMPORARY_BYTES)) is not None:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))


@pytest.fixture(scope="module", autouse=True)
def syncers_end(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whoever opens a journal or slots closes them: each has a thread that goes on syncing, and nobody else would tell.

    What a failed test leaves open is not held against its module.
    """
    before, failed = set(threading.enumerate()), request.session.testsfailed
    yield
    left = {one.name for one in set(threading.enumerate()) - before if one.name.startswith("syncer-")}
    assert not left or request.session.testsfailed > failed, f"a journal or slots are open: {', '.join(sorted(left))}"


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The platform with its real engine, two workers, started once for all tests that only talk to it."""
    running = Platform(tmp_path_factory.mktemp("platform") / "data", "--workers", "2")
    if Authority.is_possible():
        running.authority = Authority(tmp_path_factory.mktemp("authority"))
    yield running.start()
    assert running.stop() == 0, running.text


@pytest.fixture(scope="session")
def postgres() -> Iterator["Server"]:
    """A real PostgreSQL, started by the first test that wants one."""
    from tests.fakes.postgres import Server  # half a second that most runs of some tests can spare

    server = Server()
    yield server
    server.stop()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames:
        both = metafunc.definition.get_closest_marker("postgres") is not None
        metafunc.parametrize("place", ["sqlite", "postgresql"] if both else ["sqlite"], indirect=True)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # half a million objects of tests and libraries that live to the end: no collection looks at them again


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path | DatabaseUrl]:
    """Where a test's books lie: what `open_database` takes. In both databases for tests marked `postgres`."""
    if request.param == "sqlite":
        yield tmp_path / "books.db"
        return
    server: Server = request.getfixturevalue("postgres")
    with server.database() as url:
        yield url
