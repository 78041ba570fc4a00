"""The demonstration vendors: one process with an emulator of each on a loopback port of its own.

`steelyard up --demo-vendors` runs it. Prints `ready` and the vendors' addresses once all listen, and ends with its
parent. They answer nobody but this machine and are nobody's money.
"""

import asyncio
import json
import signal
import sys

import uvloop

from steelyard.emulators.server import Served
from steelyard.emulators.vendors import EMULATORS
from steelyard.processes.lifeline import watch_parent

VENDORS = ("deepseek", "ark", "dashscope", "zhipu", "stepfun")
"""Whom the demonstration shows: DeepSeek, Doubao, Qwen, GLM, Step."""


async def _serve() -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    watch_parent(loop, stopped.set)
    served = {name: Served(EMULATORS[name]()) for name in VENDORS}
    for one in served.values():
        await one.start()
    print("ready", json.dumps({name: one.address for name, one in served.items()}), flush=True)
    await stopped.wait()
    for one in served.values():
        await one.stop()


def main() -> int:
    uvloop.run(_serve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
