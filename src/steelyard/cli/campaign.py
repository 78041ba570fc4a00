"""A private platform under load whose processes are killed at random: start, kill, settle, verify, compare.

Owns the order of a proof. What is sold is the scripted model, and the built-in one where its weights are at hand.
Knows no rule of money: the books are compared by `processes.score` and checked by `verify`.
"""

import asyncio
import json
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard.catalog.demo import demo_price_text
from steelyard.cli.bar import Bar
from steelyard.cli.desk import Desk, Line
from steelyard.cli.services import (
    BOOKS,
    ENGINE,
    WORKER,
    books_service,
    engine_service,
    worker_service,
)
from steelyard.config import Settings, directory_of
from steelyard.engines.leash import KEY_VARIABLE, LOCAL_UPSTREAM
from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, Clock
from steelyard.kernel.errors import BooksError
from steelyard.kernel.money import nano_from_text
from steelyard.processes import scripted
from steelyard.processes.child import Service
from steelyard.processes.customers import Crowd, Dice, Wallet
from steelyard.processes.score import Score, score
from steelyard.processes.supervisor import Supervisor

SCRIPTED = "scripted"
_SCRIPTED_CUSTOMERS = 12
_ENGINE_CUSTOMERS = 2
_TINY_WALLETS = 24
_TINY_MONEY = "0.002"  # some dozens of short answers at the prices below
_RICH_MONEY = "100000"
_VICTIMS = (WORKER,) * 8 + (SCRIPTED,) * 7 + (BOOKS,) * 3 + (ENGINE,) * 2
_LAST_WORKER = 0.2  # the chance that the only running worker is killed too, and nobody serves for a moment
_PRICES = scripted.PRICES.format(input="0.50", cached_input="0.05", output="1.50")
_GRANTED_S = 24 * 3600  # no proof takes so long


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. `dice` gives each party of the campaign randomness of its own, by name, from one seed."""

    kills: int
    weights: Path | None
    scripted_port: int
    dice: Callable[[str], Dice]


class Campaign:
    """One proof in one data directory, which it has to itself."""

    def __init__(self, plan: Plan, settings: Settings, lock: int, clock: Clock) -> None:
        self._plan = plan
        self._settings = settings
        self._lock = lock
        self._clock = clock
        self._data = directory_of(settings)
        self.desk = Desk(self._data, clock)
        self.killed = 0
        self.said: list[str] = []
        """What the supervisor told, for the one who looks for a cause."""
        self._supervisor = Supervisor(
            self._data.logs, clock, self.said.append, delays_ms=limits.PROVE_RESTART_DELAYS_MS
        )
        self._engine_key = secrets.token_urlsafe(32)
        self._engine_model: str | None = None
        self._budgets: dict[str, int] = {}

    async def run(self, verify: Callable[[Desk], dict[str, Any]], bar: Bar) -> tuple[Score, dict[str, Any]]:
        """The score and what `verify` found. Raises StartError when the platform does not start, BooksError when it
        does not get on or does not settle."""
        try:
            bar.at(0, self._plan.kills, "starting")
            crowd = await self._start()
            await self._torment(crowd, bar)
            bar.at(self._plan.kills, self._plan.kills, "settling")
            await self._settled()
            found = await asyncio.to_thread(verify, self.desk)
            with self.desk.read() as connection:
                return score(connection, crowd.arrivals, self._budgets), found
        finally:
            patience_s = self._settings.drain_s + limits.STOP_MARGIN_S
            await self._supervisor.stop(
                [(WORKER, patience_s), (SCRIPTED, 1), (ENGINE, patience_s), (BOOKS, patience_s)]
            )

    # --- the platform -------------------------------------------------------------------------------------------

    async def _start(self) -> Crowd:
        start = self._supervisor.start
        await start(books_service(self._settings, self._lock))
        await self._command("prices.load", {"text": demo_price_text()})
        await self._command("prices.load", {"text": _PRICES})
        rich = await self._wallet("rich", _RICH_MONEY, solvent=True)
        tiny = [await self._small(number) for number in range(_TINY_WALLETS)]
        await self._register(scripted.MODEL, scripted.UPSTREAM, f"127.0.0.1:{self._plan.scripted_port}", 4096)
        services = [
            worker_service(self._settings, n, {KEY_VARIABLE: self._engine_key}) for n in range(self._settings.workers)
        ]
        services.append(_scripted_service(self._plan.scripted_port))
        if self._plan.weights is not None:
            services.append(engine_service(self._settings, self._plan.weights, self._engine_key, self._engine_ready))
        await asyncio.gather(*(start(service) for service in services))
        return Crowd(self._settings.port, rich, tiny, self._engine_model)

    async def _small(self, number: int) -> Wallet:
        """By turns: much money under a budget that lets little be spent, little money, and as little free credit."""
        match number % 3:
            case 0:
                tenant = f"bounded-{number}"
                wallet = await self._wallet(tenant, _RICH_MONEY, solvent=False)
                await self._command("limit.set", {"tenant": tenant, "budget": _TINY_MONEY, "every": "month"})
                self._budgets[tenant] = nano_from_text(_TINY_MONEY)
                return wallet
            case 1:
                return await self._wallet(f"tiny-{number}", _TINY_MONEY, solvent=False)
            case _:
                tenant = f"granted-{number}"
                wallet = await self._wallet(tenant, "", solvent=False)
                expires_ns = self._clock.now_ns() + _GRANTED_S * NS_PER_S
                grant = {"tenant": tenant, "amount": _TINY_MONEY, "expires_ns": expires_ns, "reason": "proof"}
                await self._command("wallet.grant", grant)
                return wallet

    async def _wallet(self, tenant: str, money: str, *, solvent: bool) -> Wallet:
        await self._command("tenant.add", {"name": tenant})
        if money:
            await self._command("wallet.topup", {"tenant": tenant, "amount": money})
        key = await self._command("key.add", {"tenant": tenant, "name": "proof"})
        return Wallet(tenant, key["key"], solvent)

    async def _engine_ready(self, greeting: str) -> None:
        """At every start of the engine: it chooses its own port. The books may be dead just now."""
        told = json.loads(greeting)
        await self._register(told["model"], LOCAL_UPSTREAM, told["address"], told["context_tokens"])
        self._engine_model = told["model"]

    async def _register(self, model: str, upstream: str, address: str, tokens: int) -> None:
        counts = dict.fromkeys(("context_tokens", "max_output_tokens", "default_max_tokens"), tokens)
        names = {"name": model, "upstream": upstream, "address": address, "upstream_model": model}
        await self._command("model.register", names | counts)

    async def _command(self, op: str, payload: dict[str, Any]) -> Any:
        """A command to books that may be on their way back. Only one that may be repeated is given amid the kills."""
        deadline_ns = self._clock.monotonic_ns() + limits.PROVE_SETTLE_S * NS_PER_S
        while True:
            try:
                return await asyncio.to_thread(self._tell_books, op, payload)
            except (OSError, BooksError) as error:
                if self._clock.monotonic_ns() > deadline_ns:
                    raise BooksError(f"The books do not come back ({error}).") from None
            await asyncio.sleep(limits.PROVE_RETRY_MS / 1000)

    def _tell_books(self, op: str, payload: dict[str, Any]) -> Any:
        with Line(self._data.socket) as line:
            return line.command(op, payload, limits.TELLER_REPLY_S)

    # --- the campaign -------------------------------------------------------------------------------------------

    async def _torment(self, crowd: Crowd, bar: Bar) -> None:
        """Let the crowd ask while processes are killed; afterwards everybody gets his last answer."""
        customers = [
            asyncio.ensure_future(crowd.scripted_customer(self._plan.dice(f"customer-{number}")))
            for number in range(_SCRIPTED_CUSTOMERS)
        ]
        customers += [
            asyncio.ensure_future(crowd.engine_customer(self._plan.dice(f"engine-customer-{number}")))
            for number in range(_ENGINE_CUSTOMERS)
        ]
        try:
            async with asyncio.timeout(limits.PROVE_SETTLE_S + limits.PROVE_KILL_S_MAX * self._plan.kills):
                await self._kill(crowd, bar)
                crowd.stop()
                await asyncio.gather(*customers)
        except TimeoutError:
            raise BooksError(f"The proof does not get on: {self.killed} kills. {self._last_words()}") from None
        finally:
            for customer in customers:
                customer.cancel()
            await asyncio.wait(customers)

    async def _kill(self, crowd: Crowd, bar: Bar) -> None:
        dice = self._plan.dice("kills")
        while self.killed < self._plan.kills:
            await asyncio.sleep(dice.randrange(*limits.PROVE_KILL_PAUSE_MS) / 1000)
            await self._let_serve(crowd)
            kind = dice.choice(_VICTIMS)
            running = sorted(name for name in self._supervisor.pids if name.startswith(kind))
            if running and kind == WORKER and len(running) == 1 and dice.random() > _LAST_WORKER:
                continue
            if not running or not self._supervisor.kill(dice.choice(running)):
                continue
            self.killed += 1
            crowd.progress = self.killed / self._plan.kills
            bar.at(self.killed, self._plan.kills, f"killed; {len(crowd.arrivals):,} answers")

    async def _let_serve(self, crowd: Crowd) -> None:
        """On a busy machine restarts are slow, and a platform that never gets to serve proves nothing: wait for it."""
        patience_ns = limits.PROVE_KILL_S_MAX * NS_PER_S // 2
        deadline_ns = self._clock.monotonic_ns() + patience_ns
        wanted = self.killed * limits.PROVE_SERVED_PER_KILL
        while crowd.served < wanted and self._clock.monotonic_ns() < deadline_ns:  # noqa: ASYNC110 - as `_settled`
            await asyncio.sleep(limits.PROVE_RETRY_MS / 1000)

    async def _settled(self) -> None:
        """Return when nothing is held any more and no dead worker is left to settle."""
        deadline_ns = self._clock.monotonic_ns() + limits.PROVE_SETTLE_S * NS_PER_S
        while True:
            status = await self._command("status", {})
            if not status["holds"] and not status["absent"] and len(status["workers"]) == self._settings.workers:
                return
            if self._clock.monotonic_ns() > deadline_ns:
                raise BooksError(f"The books do not settle: {status}. {self._last_words()}")
            await asyncio.sleep(limits.PROVE_RETRY_MS / 1000)

    def _last_words(self) -> str:
        return " ".join(self.said[-3:])


def _scripted_service(port: int) -> Service:
    command = [sys.executable, "-m", "steelyard.processes.scripted", "--port", str(port)]
    return Service(SCRIPTED, lambda: command)
