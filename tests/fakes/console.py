"""A house for the console without a platform: a real database of generated, really rated and posted requests, and a
playground that answers by itself. Everything is drawn from one seed, so pictures and tests are always the same."""

import asyncio
import random
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from sqlalchemy import Connection, Engine, NullPool, create_engine, insert

from steelyard.catalog.vendor_books import vendor_book
from steelyard.console.play import Bill, Ended, Failed, PlayEvent, PlayOrder, Text
from steelyard.kernel.clock import NS_PER_HOUR, NS_PER_MS, NS_PER_S, ManualClock, iso_from_ns
from steelyard.kernel.engines import (
    Energy,
    EngineKind,
    EngineKnown,
    EngineLoad,
    EngineSeen,
    EngineSpec,
    EngineStart,
    EngineState,
    Wanted,
)
from steelyard.kernel.errors import CallerError, unknown_model, wallet_empty
from steelyard.kernel.ids import Ids, secret_hash, text_from_id
from steelyard.kernel.money import pico_from_text, text_from_nano
from steelyard.kernel.offers import Model, Offer
from steelyard.kernel.quantities import Meter, Usage
from steelyard.kernel.records import Caller, CallersKept, Snapshot
from steelyard.kernel.settled import Closed, End, Opened, Position, Receipt, Settlement
from steelyard.kernel.tariff import Tariff, TariffLine
from steelyard.ledger.posting import open_wallet, post, post_topup
from steelyard.rating.rate import charge_of, rate
from steelyard.storage import tables

OPERATOR_KEY = "sk-sy-op-0123456789ABCDEFGHJKMNPQRSTVWXYZ"
NOW_NS = 1_795_473_632 * NS_PER_S  # 2026-11-23 22:40:32 UTC
TENANTS = ("demo", "acme", "云山科技", "<script>alert(1)</script>")
MODELS = ("smollm2-135m-instruct", "qwen3-8b-instruct-2507")
VENDOR_MODEL = "deepseek-flash"  # costs, and has no price: nobody can ask it
ANSWER = (
    "The capital of France is Paris. It lies on the Seine, and it has been the seat of government for most of the "
    "last thousand years.\n\n1 < 2 & “quotes” stay as they are: <b>not bold</b>."
)
_PRICES = {MODELS[0]: ("0.50", "0.05", "1.50"), MODELS[1]: ("2.00", "0.20", "8.00")}


@dataclass(slots=True)
class FakeHouse:
    """Satisfies ConsoleHouse."""

    engine: Engine
    snapshot: Snapshot
    clock: ManualClock
    secret: bytes = bytes(range(32))
    pause_s: float = 0.0
    closed_early: int = 0
    running: list[EngineKnown] = field(default_factory=lambda: [local_engine(), gpu_engine()])
    sick: dict[str, str] = field(default_factory=dict)  # models of upstreams → why their offers are left out

    @contextmanager
    def books(self) -> Iterator[Connection]:
        with self.engine.connect() as connection:
            yield connection

    def left_out(self, offer: Offer) -> str:
        return self.sick.get(offer.upstream_model, "")

    def engines(self) -> list[EngineKnown]:
        return self.running

    def drain_engine(self, name: str, reason: str) -> None:
        self._want(name, wanted=Wanted.DRAINED, reason=reason)

    def restart_engine(self, name: str, reason: str) -> None:
        self._want(name, wanted=Wanted.RUN, reason=reason, generation=1)

    def _want(self, name: str, **changes: object) -> None:
        self.running = [
            one._replace(spec=msgspec.structs.replace(one.spec, **changes)) if one.spec.name == name else one
            for one in self.running
        ]

    async def play(self, order: PlayOrder) -> AsyncGenerator[PlayEvent, None]:
        """Answers ANSWER word by word. The message "broke" finds an empty wallet, "break" an upstream that dies."""
        asked = order.messages[-1].content
        if order.model not in self.snapshot.prices or asked == "broke":
            yield Failed(unknown_model(order.model) if asked != "broke" else wallet_empty())
            return
        price = self.snapshot.prices[order.model][0]
        usage = Usage(input=9 + len(asked) // 4, cached_input=32 * (len(order.messages) // 2))
        words = ANSWER.split(" ")[: order.max_tokens]
        try:
            for index, word in enumerate(words):
                await asyncio.sleep(self.pause_s)
                yield Text(word if index == 0 else f" {word}")
                usage += Usage(output=1)
                lines = charge_of(usage, price)
                yield Bill(usage, sum(line.amount_nano for line in lines), lines, price.currency)
                if asked == "break" and index == 3:
                    yield Failed(CallerError(502, "upstream_failed", "The model failed while it answered."))
                    return
        except (GeneratorExit, asyncio.CancelledError):
            self.closed_early += 1
            raise
        request_id = text_from_id(Ids(self.clock, bytes).next())
        lines = charge_of(usage, price)
        amount = sum(line.amount_nano for line in lines)
        now = iso_from_ns(self.clock.now_ns())
        receipt = Receipt(
            request_id=request_id,
            state="provisional",
            model=order.model,
            opened_at=now,
            closed_at=now,
            end=str(End.COMPLETE),
            prompt_tokens=usage.prompt,
            cached_tokens=usage.cached_input,
            output_tokens=usage.output,
            tariff=price.id,
            currency=price.currency,
            lines=lines,
            amount_nano=amount,
            amount=text_from_nano(amount),
            hold_nano=2 * amount,
        )
        yield Ended(End.COMPLETE, request_id, receipt)


def local_engine() -> EngineKnown:
    """It measures nothing, and tells nothing of its key-value cache."""
    load = EngineLoad(2, 3, None, 54_000, 31_000, 90_000, 36_000, 0, 0, waiting_batch=1)
    seen = EngineSeen(
        EngineState.RUNNING,
        NOW_NS - NS_PER_S,
        load=load,
        busy_ns=1_200 * NS_PER_S,
        up_ns=4_000 * NS_PER_S,
        kind=EngineKind.OPENVINO,
        model=MODELS[0],
    )
    start = EngineStart(NOW_NS - NS_PER_HOUR, NOW_NS - 4_000 * NS_PER_S, 3, "2 CPUs of x86_64; 8-bit weights", "off")
    return EngineKnown(EngineSpec("local", EngineKind.OPENVINO, MODELS[0]), seen, start)


def gpu_engine() -> EngineKnown:
    """A vLLM server with a measured GPU; the command it was started with and its key are not for pages."""
    spec = EngineSpec("rack-2", EngineKind.VLLM, MODELS[1], "Qwen/Qwen3-8B", gpus=("0",), token="gAAAAABsealed")
    load = EngineLoad(12, 1, 420, 880_000, 410_000, 900_000, 610_000, 50_000, 30_000)
    seen = EngineSeen(
        EngineState.RUNNING,
        NOW_NS,
        address="127.0.0.1:30000",
        command="VLLM_API_KEY=… vllm serve Qwen/Qwen3-8B",
        reason=TENANTS[3],  # words of a stranger
        load=load,
        busy_ns=50 * NS_PER_S,
        up_ns=100 * NS_PER_S,
        energy=Energy.NVML,
        busy_uj=21_000 * 10**6,
        idle_uj=900 * 10**6,
    )
    return EngineKnown(spec, seen, EngineStart(NOW_NS - NS_PER_HOUR, NOW_NS - NS_PER_HOUR, 1))


def price_of(model: str, tariff_id: int) -> Tariff:
    meters = (Meter.INPUT, Meter.CACHED_INPUT, Meter.OUTPUT)
    lines = tuple(
        TariffLine(meter, text, pico_from_text(text), 10**6) for meter, text in zip(meters, _PRICES[model], strict=True)
    )
    return Tariff(tariff_id, model, "CNY", 0, lines, "demonstration")


def cost_of_local(tariff_id: int) -> Tariff:
    lines = (
        TariffLine(Meter.CPU, "0.10", pico_from_text("0.10"), NS_PER_HOUR),
        TariffLine(Meter.ENERGY, "0.60", pico_from_text("0.60"), 3_600_000_000_000),
    )
    return Tariff(tariff_id, "local", "CNY", 0, lines, "demonstration", watts_milli=8000)


def costs_of_deepseek() -> tuple[Tariff, ...]:
    """Peak and off-peak, as the shipped book has them."""
    return tuple(cost.tariff(100 + index) for index, cost in enumerate(vendor_book("deepseek").costs))


def fill_books(file: Path, *, requests: int = 1200, days: int = 30, seed: int = 7) -> None:
    """A database of `requests` requests of the last `days` days; 0 requests: a fresh install."""
    engine = create_engine(f"sqlite:///{file}", poolclass=NullPool)
    tables.metadata.create_all(engine)
    with engine.begin() as connection:
        _found(connection, [*_price_book().values(), cost_of_local(3)], ManualClock(NOW_NS))
        if requests:
            _fill(connection, random.Random(seed), requests, days)
    engine.dispose()


def open_house(file: Path) -> FakeHouse:
    """A house on books that `fill_books` has filled."""
    callers = {
        bytes([index]) * 32: Caller(index, index, index, tenant, "default", "CNY")
        for index, tenant in enumerate(TENANTS, 1)
    }
    offers = {m: Offer(i, m, "local", "127.0.0.1:1", m, 8192, 4096) for i, m in enumerate(MODELS, 1)}
    models = {m: Model(i, m, 0, 256, (offers[m],)) for i, m in enumerate(MODELS, 1)}
    operators = frozenset({secret_hash(OPERATOR_KEY)})
    prices = {model: (tariff,) for model, tariff in _price_book().items()}
    costs = {"local": (cost_of_local(3),), "deepseek": costs_of_deepseek()}
    here = Offer(3, VENDOR_MODEL, "deepseek", "127.0.0.1:1", VENDOR_MODEL, 8192, 4096, kind="openai")
    shop = models | {VENDOR_MODEL: Model(3, VENDOR_MODEL, 0, 256, (here,))}
    snapshot = Snapshot(1, CallersKept(callers), operators, shop, prices, costs)
    return FakeHouse(create_engine(f"sqlite:///{file}", poolclass=NullPool), snapshot, ManualClock(NOW_NS))


def make_house(folder: Path, *, requests: int = 1200) -> FakeHouse:
    fill_books(folder / "books.db", requests=requests)
    return open_house(folder / "books.db")


def _price_book() -> dict[str, Tariff]:
    return {model: price_of(model, 1 + index) for index, model in enumerate(MODELS)}


def _found(connection: Connection, tariffs: list[Tariff], clock: ManualClock) -> None:
    for index, tenant in enumerate(TENANTS, 1):
        row = {"id": index, "name": tenant, "currency": "CNY", "created_ns": 0}
        connection.execute(insert(tables.tenants).values(row))
        row = {"id": index, "tenant_id": index, "name": "default", "created_ns": 0}
        connection.execute(insert(tables.projects).values(row))
        row = {"id": index, "project_id": index, "name": "laptop", "hash": bytes([index]) * 32, "shown": "sk-sy-abc…"}
        connection.execute(insert(tables.keys).values(row | {"created_ns": 0}))
        open_wallet(connection, index, tenant, "CNY")
        post_topup(connection, index, 500 * 10**9, "first money", clock)
    for tariff in tariffs:
        row = {
            "id": tariff.id,
            "book": "cost" if tariff.watts_milli else "price",
            "subject": tariff.subject,
            "currency": tariff.currency,
            "effective_from_ns": 0,
            "loaded_ns": 0,
            "source": tariff.source,
            "watts_milli": tariff.watts_milli,
            "lines": msgspec.json.encode(tariff.lines).decode(),
        }
        connection.execute(insert(tables.tariffs).values(row))


def _fill(connection: Connection, dice: random.Random, requests: int, days: int) -> None:
    """A fifth of the requests in the last hour, the rest over the days before, more and more of them."""
    ages_s = [dice.uniform(3, 3600) for _ in range(requests // 5)]
    ages_s += [days * 86_400 * dice.random() ** 2 for _ in range(requests - len(ages_s))]
    prices, cost = _price_book(), cost_of_local(3)
    settlements = []
    for age in sorted(ages_s, reverse=True):
        ids = Ids(ManualClock(NOW_NS - int(age * NS_PER_S)), dice.randbytes)
        settlements.append(_settlement(ids.next(), NOW_NS - int(age * NS_PER_S), prices, cost, dice))
    for start in range(0, len(settlements), 5):
        batch = settlements[start : start + 5]
        clock = ManualClock(max(one.closed.closed_ns for one in batch) + 40 * NS_PER_MS)
        rated = [rate(one, prices[one.opened.model], cost) for one in batch]
        post(connection, rated, {"w0-1": Position(1, start)}, clock)


def _settlement(
    request_id: bytes, opened_ns: int, prices: dict[str, Tariff], cost: Tariff, dice: random.Random
) -> Settlement:
    tenant = dice.choices(range(1, 5), weights=(50, 30, 15, 5))[0]
    model = dice.choices(MODELS, weights=(70, 30))[0]
    ends = (End.COMPLETE, End.CLIENT_GONE, End.UPSTREAM_ERROR, End.REFUSED, End.WORKER_DIED)
    end = dice.choices(ends, weights=(88, 7, 2, 2, 1))[0]
    prompt, output = int(dice.lognormvariate(5, 1)), int(dice.lognormvariate(4.3, 1))
    cached = int(prompt * dice.choice((0, 0, 0.4, 0.9)))
    usage = Usage(prompt - cached, cached, output, output * 11 * NS_PER_MS, output * 88_000)
    if end in {End.REFUSED, End.UPSTREAM_ERROR}:
        usage = Usage(cpu_ns=20 * NS_PER_MS, energy_uj=160_000)
    first_ns = int(dice.uniform(40, 300)) * NS_PER_MS if usage.output else 0
    duration_ns = first_ns + usage.output * 9 * NS_PER_MS + 2 * NS_PER_MS
    price = prices[model]
    charge = sum(line.amount_nano for line in charge_of(usage, price))
    opened = Opened(
        request_id=request_id,
        opened_ns=opened_ns,
        slot=0,
        tenant_id=tenant,
        project_id=tenant,
        key_id=tenant,
        model=model,
        upstream="local",
        price_id=price.id,
        cost_id=cost.id,
        currency="CNY",
        hold_nano=charge + 900_000,
        max_tokens=512,
        sequences=1,
        stream=dice.random() < 0.7,
    )
    closed = Closed(request_id, opened_ns + duration_ns, usage, str(end), first_ns, duration_ns, end is End.WORKER_DIED)
    return Settlement(opened, closed)
