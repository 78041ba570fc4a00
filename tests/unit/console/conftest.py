"""A console over generated books, and browsers that never run scripts."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tests.fakes.console import OPERATOR_KEY, FakeHouse, fill_books, make_house, open_house

from steelyard.console.app import console_app


def token_of(page: str) -> str:
    found = re.search(r'name="token" value="([0-9a-f]{64})"', page)
    assert found, "the page has no form token"
    return found[1]


def sign_in(client: TestClient, key: str = OPERATOR_KEY, onward: str = "") -> object:
    token = token_of(client.get("/console/login").text)
    fields = {"token": token, "key": key, "next": onward}
    return client.post("/console/login", data=fields, follow_redirects=False)


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Books that are filled once and copied for each test."""
    file = tmp_path_factory.mktemp("console") / "books.db"
    fill_books(file, requests=130)
    return file


@pytest.fixture
def house(tmp_path: Path, filled: Path) -> Iterator[FakeHouse]:
    made = open_house(Path(shutil.copy(filled, tmp_path)))
    engine = made.engine
    yield made
    engine.dispose()


@pytest.fixture
def visitor(house: FakeHouse) -> Iterator[TestClient]:
    """A browser that is not signed in. Bugs become error pages, as in production."""
    with TestClient(console_app(house), base_url="http://steelyard.test", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def operator(visitor: TestClient) -> TestClient:
    assert sign_in(visitor).status_code == 303
    return visitor


@pytest.fixture
def fresh_operator(tmp_path: Path) -> Iterator[TestClient]:
    """Signed in to a platform that has served nothing."""
    house = make_house(tmp_path, requests=0)
    with TestClient(console_app(house), base_url="http://steelyard.test") as client:
        assert sign_in(client).status_code == 303
        yield client
    house.engine.dispose()


@pytest.fixture
def token(operator: TestClient) -> Callable[[], str]:
    return lambda: token_of(operator.get("/console/playground").text)
