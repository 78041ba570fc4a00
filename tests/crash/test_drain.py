"""64 clients drain one wallet through four workers, each hold fifty times what the answer costs.

Nothing is overspent, next to nothing is stranded behind holds, and the last nano is spent.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.platform import Platform, free_port, steelyard, wait_for

from steelyard.cli.desk import Line
from steelyard.kernel.directory import DataDir
from steelyard.processes import scripted
from steelyard.processes.customers import Question, Wallet, ask

CLIENTS = 64
TOKENS, MAX_TOKENS = 2, 100  # what an answer has, and what is held for it
TOKEN_NANO = 1_000
ANSWERS = 2_000  # that the wallet pays for: 40 holds at the worst case, less than there are clients
STORM = 51  # refusals
PRICES = scripted.PRICES.format(input="0", cached_input="0", output="1")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Platform]:
    port = free_port()
    upstream = subprocess.Popen(
        [sys.executable, "-m", "steelyard.processes.scripted", "--port", str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    platform = Platform(tmp_path / "data", "--workers", "4", "--no-engine").start()
    with Line(DataDir(platform.data).socket) as line:
        line.command("prices.load", {"text": PRICES})
        names = {"name": scripted.MODEL, "upstream": scripted.UPSTREAM, "upstream_model": scripted.MODEL}
        counts = dict.fromkeys(("context_tokens", "max_output_tokens", "default_max_tokens"), 4096)
        line.command("model.register", names | counts | {"address": f"127.0.0.1:{port}"})
    yield platform
    assert platform.stop() == 0, platform.text
    upstream.kill()
    upstream.communicate()


class Crowd:
    """Clients who ask until all of `money` has arrived as tokens. `at_storm`: what had when refusals became many."""

    def __init__(self, port: int, wallet: Wallet, money: int) -> None:
        prompt = scripted.PROMPT.format(tokens=TOKENS, pace_ms=1)
        body = {"model": scripted.MODEL, "stream": True, "max_tokens": MAX_TOKENS}
        body["messages"] = [{"role": "user", "content": prompt}]
        self.port = port
        self.question = Question("drain", wallet, json.dumps(body).encode(), True, True)
        self.left = money
        self.refusals = 0
        self.at_storm = 0

    async def client(self) -> None:
        while self.left:
            arrival = await ask(self.port, self.question)
            if arrival.status == 402 or arrival.held:
                self.refusals += 1
                if self.refusals == STORM:
                    self.at_storm = self.left
                await asyncio.sleep(0.05)
            else:
                assert arrival.status == 200, arrival
                assert arrival.whole, arrival
                self.left -= (arrival.tokens or 0) * TOKEN_NANO


@pytest.mark.timeout(180)
def test_a_wallet_is_drained_to_the_last_nano(house: Platform) -> None:
    topup = ANSWERS * TOKENS * TOKEN_NANO
    key = house.new_customer("acme", f"{topup / 10**9:.9f}")
    crowd = Crowd(house.port, Wallet("acme", key, True), topup)

    async def drain() -> None:
        await asyncio.gather(*(crowd.client() for _ in range(CLIENTS)))

    asyncio.run(drain())
    assert crowd.at_storm <= topup // 10, "too much was kept back behind holds while customers were refused"
    wallet = wait_for(lambda: (found := house.wallet("acme"))["held_nano"] == 0 and found, "all to be settled")
    assert wallet["balance_nano"] == 0
    (row,) = house.run("margin", "--by", "tenant")
    assert (row["charge_nano"], row["overrun_nano"]) == (topup, 0)
    assert json.loads(steelyard("verify", "--json", data=house.data).stdout)["ok"] is True
