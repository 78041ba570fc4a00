"""`steelyard up`: starts the platform, asks the model one question, shows its bill, and stays until Ctrl-C.

Owns the order of the start and of the end. Whatever goes wrong on the way, nothing is left running.
"""

import asyncio
import contextlib
import json
import secrets
import signal
import webbrowser
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import psutil

from steelyard.catalog.demo import demo_embedding_text, demo_price_text, demo_tariff_for
from steelyard.cli import welcome
from steelyard.cli.demo_vendors import KEYS, UPSTREAMS, DemoVendors
from steelyard.cli.demo_vendors import NAME as DEMO_VENDORS
from steelyard.cli.desk import Desk, Line
from steelyard.cli.directory import directory_lock
from steelyard.cli.engine_room import KEEPER, EngineRoom
from steelyard.cli.epilog import examples
from steelyard.cli.local_engine import LocalEngine
from steelyard.cli.options import WORKERS, data_option, refuse_password
from steelyard.cli.progress import Steps
from steelyard.cli.services import (
    BOOKS,
    EMBEDDER,
    ENGINE,
    WORKER,
    books_check,
    books_service,
    check_space,
    embedder_service,
    engine_check,
    reachable_host,
    reserve_port,
    worker_check,
    worker_service,
)
from steelyard.config import Settings, directory_of, load_settings
from steelyard.engines.choice import NONE
from steelyard.engines.leash import EMBEDDING_UPSTREAM, KEY_VARIABLE, LOCAL_UPSTREAM
from steelyard.kernel import limits
from steelyard.kernel.clock import SystemClock
from steelyard.kernel.directory import DataDir
from steelyard.kernel.errors import BooksError, SteelyardError
from steelyard.kernel.offers import Capability
from steelyard.processes import engine_files
from steelyard.processes.supervisor import Supervisor
from steelyard.upstream.gguf import read_gguf
from steelyard.upstream.weights import MINILM, fetch

_ANSWER_TOKENS_DEFAULT = 512


@click.command(
    epilog=examples("steelyard up", "steelyard up --port 9000 --data /srv/steelyard", "steelyard up --model my.gguf")
)
@click.option("--port", type=click.IntRange(1, 65535), help="The public port (default: 8780).")
@click.option("--host", help="The address to bind (default: 127.0.0.1, this machine only).")
@data_option
@click.option("--database", metavar="URL", help="A postgresql:// URL for the books (default: SQLite in --data).")
@click.option("--workers", type=WORKERS, help="Worker processes on the public port, or auto (default: 1).")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="A GGUF file to serve instead of the built-in model.",
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "openvino", "xllamacpp", "none"]),
    help="The local engine (default: what `steelyard engines` says).",
)
@click.option(
    "--speculate",
    type=click.Choice(["off", "lookup", "mtp"]),
    help="Draft tokens from what was there before, or by layers of the model made for it (default: off).",
)
@click.option("--small", is_flag=True, help="An engine that takes less memory and does less at once.")
@click.option("--no-engine", is_flag=True, help="Run the books, pages and APIs only.")
@click.option("--no-embeddings", is_flag=True, help="Run no embedding model beside the engine.")
@click.option("--demo-vendors", is_flag=True, help="Run five emulated vendors too: no key needed.")
@click.option("--open", "open_browser", is_flag=True, help="Open the console in a browser.")
def up(no_embeddings: bool, demo_vendors: bool, open_browser: bool, **options: Any) -> None:
    """Start the platform, ask the model one question, show its bill. Ctrl-C stops, a second one forces."""
    if options.pop("no_engine"):
        options["engine"] = NONE
    options |= {"small": options["small"] or None, "embeddings": False if no_embeddings else None}
    settings = load_settings(**options)
    refuse_password(options["database"])
    data = directory_of(settings)
    data.prepare()
    clock = SystemClock()
    with directory_lock(data, clock) as lock, reserve_port(settings.host, settings.port):
        check_space(settings)
        if settings.engine != NONE and settings.model is not None:
            read_gguf(settings.model)
        asyncio.run(Platform(settings, data, lock, Wishes(open_browser, demo_vendors)).run())


class Wishes(NamedTuple):
    """What this start is asked for beside its settings."""

    open_browser: bool
    demo_vendors: bool


class Platform:
    """One run of the platform."""

    def __init__(self, settings: Settings, data: DataDir, lock: int, wishes: Wishes) -> None:
        self._settings = settings
        self._data = data
        self._lock = lock
        self._wishes = wishes
        self._vendors = DemoVendors(self._command) if wishes.demo_vendors else None
        self._clock = SystemClock()
        self._desk = Desk(data, self._clock)
        self._steps = Steps(self._clock)
        self._supervisor = Supervisor(data.logs, self._clock, self._steps.print)
        self._stop = asyncio.Event()
        self._force = asyncio.Event()
        self._books_run = asyncio.Event()
        self._may_serve = asyncio.Event()
        self._engine_key = secrets.token_urlsafe(32)
        self._engine_address = self._embedder_address = ""
        self._model: str | None = None
        self._engine_room: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until Ctrl-C. Raises StartError when the platform cannot start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled)
        starting = asyncio.ensure_future(self._start())
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await stopped
        finally:
            stopped.cancel()
            starting.cancel()
            await asyncio.wait([starting])
            await self._end()

    def _signalled(self) -> None:
        (self._force if self._stop.is_set() else self._stop).set()

    async def _start(self) -> None:
        engine_files.drop_starts(self._data)
        url_host = reachable_host(self._settings.host)
        url = f"http://{f'[{url_host}]' if ':' in url_host else url_host}:{self._settings.port}"
        with self._steps:
            await _together(self._start_engine(), self._start_public_side())
        self._watch(url_host)
        room = EngineRoom(self._data, self._clock, self._supervisor, self._command, self._steps.print)
        self._engine_room = asyncio.ensure_future(room.run())
        keys = await asyncio.to_thread(welcome.first_keys, self._command)
        welcome.greet(url, keys, self._model)
        if self._model is not None:
            await asyncio.to_thread(self._ask, url_host, keys, self._show_answer)
        if self._vendors is not None:
            await asyncio.to_thread(self._ask, url_host, keys, self._vendors.show)
        if self._wishes.open_browser:
            webbrowser.open(f"{url}/console/")
        self._steps.print("Running. Ctrl-C stops it.")
        if self._settings.engine != NONE and self._settings.embeddings:
            await self._start_embedder()

    async def _start_public_side(self) -> None:
        """Workers load beside the books, and begin behind them. One that fails before that is told of at once."""
        starting, opening = asyncio.ensure_future(self._start_workers()), asyncio.ensure_future(self._open_books())
        try:
            done, _ = await asyncio.wait([starting, opening], return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
            with self._steps.step("Workers", f"opening port {self._settings.port}") as step:
                await starting
                step.done(f"{self._settings.workers} on {self._settings.host}:{self._settings.port}")
        finally:
            for part in (starting, opening):
                part.cancel()  # nothing to one that is done
            await asyncio.gather(starting, opening, return_exceptions=True)

    async def _open_books(self) -> None:
        await self._start_books()
        await self._start_vendors()
        self._may_serve.set()

    async def _start_books(self) -> None:
        with self._steps.step("Books", "opening, replaying what a crash left"):
            await self._supervisor.start(books_service(self._settings, self._lock))
            if not await asyncio.to_thread(self._command, "prices.list", {}):
                await asyncio.to_thread(self._command, "prices.load", {"text": demo_price_text()})
            # What an earlier start served may be another model, or at an address that is nobody's now.
            for upstream in (LOCAL_UPSTREAM, EMBEDDING_UPSTREAM, *UPSTREAMS):
                await asyncio.to_thread(self._command, "model.withdraw", {"upstream": upstream})
        self._books_run.set()

    async def _start_engine(self) -> None:
        if self._settings.engine == NONE:
            self._steps.print("Engine: none, as asked; models of other upstreams only")
            return
        engine = LocalEngine(self._settings, self._engine_key, self._supervisor, self._steps)
        await engine.start(self._engine_ready)

    async def _engine_ready(self, greeting: str) -> None:
        """Make the model known at the address the engine has chosen; at every start of it."""
        told = json.loads(greeting)
        await self._books_run.wait()
        await asyncio.to_thread(self._register, told["model"], told["address"], told["context_tokens"])
        self._engine_address = told["address"]
        self._model = told["model"]

    def _register(self, name: str, address: str, context_tokens: int) -> None:
        if self._settings.model is not None:
            self._price_if_missing(name)
        registration = {
            "name": name,
            "upstream": LOCAL_UPSTREAM,
            "address": address,
            "upstream_model": name,
            "context_tokens": context_tokens,
            "max_output_tokens": context_tokens,
            "default_max_tokens": min(_ANSWER_TOKENS_DEFAULT, context_tokens),
        }
        self._command("model.register", registration)

    async def _start_embedder(self) -> None:
        """The embedding model, once everything else runs: nobody waits for it, and the platform runs without it."""
        try:
            with self._steps.step("Embeddings", "looking for the built-in model") as step:
                model = await asyncio.to_thread(fetch, None, step.progress, MINILM)
                service = embedder_service(self._settings, model, self._engine_key, self._embedder_ready)
                await self._supervisor.start(service)
                step.done(f"serves {read_gguf(model).model_name}")
        except SteelyardError as error:
            self._steps.print(f"Embeddings: none. {error}")
        else:
            self._supervisor.check(EMBEDDER, engine_check(lambda: self._embedder_address))

    async def _embedder_ready(self, greeting: str) -> None:
        told = json.loads(greeting)
        facts = {"why": "the embedding model beside the engine", "address": told["address"]}
        now_ns = self._clock.now_ns()
        await asyncio.to_thread(engine_files.note_start, self._data, EMBEDDING_UPSTREAM, now_ns, **facts)
        await asyncio.to_thread(self._register_embedder, told["model"], told["address"], told["context_tokens"])
        self._embedder_address = told["address"]

    def _register_embedder(self, name: str, address: str, context_tokens: int) -> None:
        priced = {(row["book"], row["subject"]) for row in self._command("prices.list", {})}
        if missing := demo_embedding_text(priced):
            self._command("prices.load", {"text": missing})
        registration = {
            "name": name,
            "upstream": EMBEDDING_UPSTREAM,
            "address": address,
            "upstream_model": name,
            "context_tokens": context_tokens,
            "max_output_tokens": 0,
            "default_max_tokens": 0,
            "capabilities": [Capability.EMBEDDING, Capability.RERANK],
        }
        self._command("model.register", registration)

    def _price_if_missing(self, name: str) -> None:
        if not any(row["book"] == "price" and row["subject"] == name for row in self._command("prices.list", {})):
            self._command("prices.load", {"text": demo_tariff_for(name)})
            self._steps.print(
                f"Prices: {name} had none and gets the demonstration price; yours: `steelyard prices load FILE`"
            )

    async def _start_vendors(self) -> None:
        if self._vendors is None:
            return
        with self._steps.step("Vendors", "starting emulators") as step:
            await self._supervisor.start(self._vendors.service(self._vendors_ready))
            step.done(f"{len(UPSTREAMS)}, emulated on this machine")

    async def _vendors_ready(self, greeting: str) -> None:
        if self._vendors is not None:
            await asyncio.to_thread(self._vendors.register, greeting)

    async def _start_workers(self) -> None:
        known = {KEY_VARIABLE: self._engine_key} | (KEYS if self._vendors is not None else {})
        held = self._may_serve.wait
        services = [worker_service(self._settings, number, known, held) for number in range(self._settings.workers)]
        await _together(*(self._supervisor.start(service) for service in services))

    def _watch(self, host: str) -> None:
        self._supervisor.check(BOOKS, books_check(self._data))
        self._supervisor.check(WORKER, worker_check(host, self._settings.port))
        if self._model is not None:
            self._supervisor.check(ENGINE, engine_check(lambda: self._engine_address))

    def _command(self, op: str, payload: dict[str, Any]) -> Any:
        """A command over the socket of our own books."""
        try:
            with Line(self._data.socket) as line:
                return line.command(op, payload)
        except OSError as error:
            raise BooksError(f"The books do not answer ({error}).") from None

    def _ask(self, host: str, keys: welcome.Keys, show: Callable[[Desk, tuple[str, int], str], None]) -> None:
        """Questions and their bills. A platform that cannot answer them still runs, so the reason is only told."""
        try:
            with self._some_key(keys.demo) as key:
                show(self._desk, (host, self._settings.port), key)
        except SteelyardError as error:
            self._steps.print(str(error))

    @contextlib.contextmanager
    def _some_key(self, key: str | None) -> Iterator[str]:
        """That one, or one for the moment."""
        if key is not None:
            yield key
            return
        made = self._command("key.add", {"tenant": welcome.DEMO_TENANT, "name": "start-up question"})
        try:
            yield made["key"]
        finally:
            self._command("key.revoke", {"id": made["id"]})

    def _show_answer(self, desk: Desk, address: tuple[str, int], key: str) -> None:
        answered = welcome.ask(desk, address, key, self._model or "")
        welcome.show_bill(answered, welcome.posted(desk, answered.request_id))

    async def _end(self) -> None:
        """Workers first, so that streams finish while engine and books still run; then the others."""
        if self._stop.is_set() and self._supervisor.pids:
            self._steps.print("Stopping: running answers get a moment. Ctrl-C again forces it.")
        if self._engine_room is not None:
            self._engine_room.cancel()
            await asyncio.wait([self._engine_room])
        patience_s = self._settings.drain_s + limits.STOP_MARGIN_S
        engines = [(name, limits.STOP_MARGIN_S) for name in (ENGINE, EMBEDDER, DEMO_VENDORS)]
        keepers = (KEEPER, limits.ENGINE_STOP_S + limits.STOP_MARGIN_S)
        order = [(WORKER, patience_s), keepers, *engines, (BOOKS, patience_s)]
        graceful = asyncio.ensure_future(self._supervisor.stop(order))
        forced = asyncio.ensure_future(self._force.wait())
        await asyncio.wait([graceful, forced], return_when=asyncio.FIRST_COMPLETED)
        forced.cancel()
        if graceful.done():
            graceful.result()
        else:
            graceful.cancel()
            await asyncio.wait([graceful])
            await self._supervisor.force(BOOKS)
        for left in psutil.Process().children():  # a download that nobody waits for any more
            left.terminate()


async def _together(*parts: Coroutine[Any, Any, None]) -> None:
    """Run all at once; when one fails, end the others before its error goes on."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()  # nothing to one that is done
        await asyncio.wait(tasks)
