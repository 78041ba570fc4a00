"""An engine of ours listens between two steps: who asks whether it lives does not wait for several of them."""

import asyncio
import socket
import time
from typing import Any, cast

import msgspec

from steelyard.engines.asked import Ask
from steelyard.engines.decoder import Decoder
from steelyard.engines.leash import HOST
from steelyard.engines.listener import Connection, Desk, Told

KEY = "key"
ASK = msgspec.json.encode({"messages": [{"role": "user", "content": "Go on."}], "max_tokens": 9, "stream": True})


class Busy:
    """A decoder whose steps take their time and never end anything."""

    def __init__(self) -> None:
        self.active = 0
        self.steps = 0

    def prompt_of(self, ask: Ask) -> list[int]:
        return [1]

    def add(self, ask: Ask, prompt: list[int]) -> object:
        self.active += 1
        return object()

    def step(self) -> list[Any]:
        self.steps += 1
        time.sleep(0.02)  # holds the loop, as OpenVINO does
        return []

    def cancel(self, sequence: object) -> None:
        self.active -= 1


async def test_a_question_is_answered_behind_the_step_it_came_in() -> None:
    busy = Busy()
    desk = Desk(cast(Decoder, busy), Told("m", 100, 4), KEY, lambda reason: None)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(desk), HOST, 0)
    address = server.sockets[0].getsockname()

    def ask() -> int:
        """Steps that began between the question and its answer."""
        began = busy.steps
        with socket.create_connection(address, 10) as line:
            line.sendall(b"GET /health HTTP/1.1\r\nhost: engine\r\n\r\n")
            assert line.recv(1000).startswith(b"HTTP/1.1 200")
        return busy.steps - began

    with socket.create_connection(address, 10) as customer:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: engine\r\nauthorization: Bearer {KEY}\r\n"
        customer.sendall(f"{head}content-length: {len(ASK)}\r\n\r\n".encode() + ASK)
        while not busy.steps:
            await asyncio.sleep(0)
        waited = [await asyncio.to_thread(ask) for _ in range(5)]
    while busy.active:
        await asyncio.sleep(0)
    server.close()
    assert min(waited) <= 3, waited  # with one turn between two steps: 4 and more
