"""A real Chromium in front of a real server. `site` says where the console is and which key opens it; another run can
bring its own `site` (the whole platform) and use the same pages."""

import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from tests.fakes.console import OPERATOR_KEY, FakeHouse, make_house
from tests.platform import wait_for

from steelyard.console.app import console_app

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass(frozen=True)
class Site:
    """A console to look at. `house` is None when a real platform serves it."""

    base_url: str
    operator_key: str
    house: FakeHouse | None = None


def find_chromium() -> str | None:
    named = os.environ.get("STEELYARD_CHROMIUM")
    return next((path for name in (named, *NAMES) if name and (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium a module: its loop occupies the thread, and asynchronous tests of other folders need it back."""
    path = find_chromium()
    if path is None:
        pytest.skip("NO CHROMIUM on this machine: install it or set STEELYARD_CHROMIUM=/path/to/it")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=list(SWITCHES))
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The console alone, with generated books, in a thread of its own."""
    house = make_house(tmp_path_factory.mktemp("house"), requests=130)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(console_app(house), log_level="warning", ws="none", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    wait_for(lambda: server.started, "the console")
    yield Site(f"http://127.0.0.1:{listener.getsockname()[1]}", OPERATOR_KEY, house)
    server.should_exit = True
    thread.join(10)
    listener.close()
    house.engine.dispose()


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    """What browsers complain about: broken scripts, a violated policy, missing files. What is left fails the test."""
    heard: list[str] = []
    yield heard
    assert not heard


@pytest.fixture
def open_page(browser: Browser, site: Site, complaints: list[str]) -> Iterator[Callable[..., Page]]:
    """Opens a browser of its own for each call. Its clock can be moved by `page.clock.fast_forward(ms)`."""
    contexts: list[BrowserContext] = []

    def opened(path: str = "/console", *, signed_in: bool = True, **settings: object) -> Page:
        context = browser.new_context(base_url=site.base_url, **settings)  # type: ignore[arg-type]
        context.set_default_timeout(15_000)
        contexts.append(context)
        page = context.new_page()
        page.clock.install()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type in {"error", "warning"} else None)
        if signed_in:
            page.goto("/console/login")
            page.fill("#key", site.operator_key)
            page.click("main button")
            page.wait_for_url("**/console")
        if page.url != f"{site.base_url}{path}":
            page.goto(path)
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture
def pictures(request: pytest.FixtureRequest) -> Callable[[Page, str], None]:
    """Saves a picture where STEELYARD_PICTURES says; nothing without it."""
    folder = os.environ.get("STEELYARD_PICTURES")

    def save(page: Page, name: str) -> None:
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)

    return save
