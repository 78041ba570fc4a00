"""Emulators of vendors in a thread of their own, for tests that speak to them from anywhere."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from steelyard.emulators.server import Emulator, Mood, Served


class Running:
    """One emulator on a port."""

    def __init__(self, served: Served) -> None:
        self.served = served

    @property
    def address(self) -> str:
        """As its customers are told it, with the path of its API."""
        return self.served.address

    @property
    def body(self) -> dict[str, Any]:
        """What it was asked last."""
        return self.served.heard[-1].body

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.served.heard[-1].headers)


@contextmanager
def running(emulator: Emulator, mood: Mood | None = None) -> Iterator[Running]:
    loop = asyncio.new_event_loop()
    served = Served(emulator, mood)
    loop.run_until_complete(served.start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield Running(served)
    finally:
        asyncio.run_coroutine_threadsafe(served.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
