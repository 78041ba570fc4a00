"""The process that speaks for the vendors' own SDKs, in the environment that `make clients` makes for them."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.clients.drivers import Driver, need

PACKAGES = {
    "by_openai": "openai",
    "by_ark": "volcengine-ark-runtime",
    "by_dashscope": "dashscope",
    "by_zai": "zai-sdk",
}
_numbers = itertools.count()


class Sdk:
    """One vendor's SDK, unchanged."""

    def __init__(self, driver: Driver, module: str) -> None:
        self._driver = driver
        self._module = module

    def ask(self, url: str, key: str, *, call: str = "chat", options: Any = None, **asked: Any) -> dict[str, Any]:
        """`said`: every piece of the answer as the SDK gave it; `error`: what it raised."""
        job = {"sdk": self._module, "package": PACKAGES[self._module], "url": url, "key": key}
        return self._driver.ask({**job, "call": call, "options": options, "asked": asked})


@contextmanager
def sdk(module: str, folder: Path) -> Iterator[Sdk]:
    """The SDK that `sdk/<module>.py` speaks for; skips, or fails where clients are required, without it."""
    need("vendors")
    driver = Driver("vendors", folder / f"{module}-{next(_numbers)}.log", Path(__file__).parent / "sdk")
    try:
        yield Sdk(driver, module)
    finally:
        driver.close()
