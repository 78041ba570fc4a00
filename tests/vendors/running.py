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
    loop, served = asyncio.new_event_loop(), Served(emulator, mood)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(served.start(), loop).result(10)
    try:
        yield Running(served)
    finally:
        asyncio.run_coroutine_threadsafe(_ended(served), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _ended(served: Served) -> None:
    await served.stop()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
