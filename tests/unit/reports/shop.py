"""A small shop with honest books: tenants, prices, requests and top-ups, posted by the ledger itself."""

import random
from dataclasses import dataclass, field

from sqlalchemy import Connection

from steelyard.catalog.conditions import met
from steelyard.catalog.demo import demo_price_text
from steelyard.catalog.price_file import parse_price_file
from steelyard.catalog.store import load_price_file
from steelyard.identity import store as identity
from steelyard.kernel.clock import NS_PER_HOUR, NS_PER_S, ManualClock, day_of
from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import Closed, End, Opened, Rated, Settlement
from steelyard.kernel.tariff import Tariff, Thinking
from steelyard.ledger.posting import open_wallet, post, post_topup
from steelyard.rating.rate import charge_of, rate
from steelyard.rating.varied import standing

DAY_NS = 24 * NS_PER_HOUR
NOON_NS = day_of(1_790_000_000 * NS_PER_S) + 12 * NS_PER_HOUR
SMOL, FAR = "smollm2-135m-instruct", "far-model"
NEAR, ABROAD = "near-vendor", "vendor-abroad"
VENDORS = (
    "".join(
        f"""
[[cost]]
upstream = "{upstream}"
currency = "{currency}"
effective_from = 2026-01-01T00:00:00Z
per = "1M tokens"
input = "0.3"
cached_input = "0.03"
output = "0.7"
source = "their list"
"""
        for upstream, currency in ((NEAR, "CNY"), (ABROAD, "USD"))
    )
    + """
[[rate]]
from = "USD"
to = "CNY"
rate = "7.1034"
effective_from = 2026-01-01T00:00:00Z
source = "the bank"
"""
)


@dataclass
class Shop:
    """Everything is posted through `sell` and `topup`; `rated` remembers what was sold."""

    books: Connection
    clock: ManualClock
    keys: dict[str, tuple[identity.Tenant, int, int]] = field(default_factory=dict)  # → tenant, project, key
    prices: dict[str, tuple[Tariff, Tariff]] = field(default_factory=dict)  # model → price, cost
    vendors: dict[str, Tariff] = field(default_factory=dict)  # vendor → cost
    rates: dict[tuple[str, str], Tariff] = field(default_factory=dict)  # from, to → rate
    rated: list[Rated] = field(default_factory=list)
    topped_up: dict[str, int] = field(default_factory=dict)
    sold: int = 0

    @classmethod
    def open(cls, books: Connection) -> "Shop":
        shop = cls(books, ManualClock(NOON_NS))
        demo = demo_price_text().partition("# The same model in a batch")[0]
        price, cost = load_price_file(books, parse_price_file(demo).tariffs, NOON_NS).inserted
        abroad = demo.replace(SMOL, FAR).replace("CNY", "USD").replace('"local"', '"far"')
        shop.prices = {SMOL: (price, cost)}
        shop.prices[FAR] = load_price_file(books, parse_price_file(abroad).tariffs, NOON_NS).inserted  # type: ignore[assignment]
        near, far, worth = load_price_file(books, parse_price_file(VENDORS).tariffs, NOON_NS).inserted
        shop.vendors, shop.rates = {NEAR: near, ABROAD: far}, {("USD", "CNY"): worth}
        return shop

    def tenant(self, name: str, currency: str = "CNY") -> identity.Tenant:
        tenant = identity.add_tenant(self.books, name, currency, self.clock)
        open_wallet(self.books, tenant.id, name, currency)
        project = identity.find_project(self.books, tenant.id, "default")
        key, _ = identity.add_key(self.books, project, f"{name}-key", self.clock)
        self.keys[name] = (tenant, project, key.id)
        return tenant

    def topup(self, tenant: str, amount_nano: int, note: str = "") -> None:
        post_topup(self.books, self.keys[tenant][0].id, amount_nano, note, self.clock)
        self.topped_up[tenant] = self.topped_up.get(tenant, 0) + amount_nano

    def request(
        self,
        tenant: str,
        usage: Usage,
        *,
        hold_nano: int | None = None,
        model: str = SMOL,
        end: End = End.COMPLETE,
        estimated: bool = False,
        vendor: str | None = None,
        heard: Usage | None = None,
        thinking: Thinking = Thinking.UNSAID,
    ) -> Rated:
        """A request that closes now; not posted yet."""
        who, project, key = self.keys[tenant]
        now = self.clock.now_ns()
        price, cost = self.prices[model]
        price = standing(price, met(price, now - NS_PER_S, thinking))
        cost = self.vendors[vendor] if vendor else cost
        worth = self.rates.get((cost.currency, who.currency))
        self.sold += 1
        request_id = self.sold.to_bytes(16, "big")
        charge = sum(line.amount_nano for line in charge_of(usage, price))
        opened = Opened(
            request_id=request_id,
            opened_ns=now - NS_PER_S,
            slot=0,
            tenant_id=who.id,
            project_id=project,
            key_id=key,
            model=model,
            upstream=cost.subject,
            price_id=price.id,
            cost_id=cost.id,
            currency=who.currency,
            hold_nano=2 * charge + 1 if hold_nano is None else hold_nano,
            max_tokens=100,
            sequences=1,
            stream=self.sold % 2 == 0,
            rate_id=worth.id if worth else 0,
            price_when=price.met,
            thinking=thinking,
        )
        measured_uj = 0 if vendor or self.sold % 3 else usage.energy_uj
        closed = Closed(
            request_id, now, usage, end, NS_PER_S // 10, NS_PER_S, estimated=estimated, heard=heard,
            measured_uj=measured_uj,
        )  # fmt: skip
        return rate(Settlement(opened, closed), price, cost, worth)

    def sell(self, *requests: Rated) -> None:
        """Post one batch, a little later."""
        self.clock.advance(NS_PER_S // 2)
        self.rated += post(self.books, requests, {}, self.clock)


def busy_shop(books: Connection, seed: int = 7) -> Shop:
    """Forty days of mixed trade in two currencies, overruns and empty requests among it; ends at noon."""
    dice = random.Random(seed)
    shop = Shop.open(books)
    for name, currency in (("acme", "CNY"), ("beta", "CNY"), ("gamma", "USD")):
        shop.tenant(name, currency)
        shop.topup(name, 10**12, "first")
    for _ in range(40):
        for _ in range(dice.randint(0, 4)):
            batch = []
            for _ in range(dice.randint(1, 4)):
                tenant = dice.choice(["acme", "acme", "beta", "gamma"])
                cpu_ns = dice.randint(0, 10**9)
                empty = dice.random() < 0.1
                usage = Usage() if empty else Usage(
                    dice.randint(0, 99), dice.randint(0, 99), dice.randint(0, 99), cpu_ns, cpu_ns * 8 // 1000,
                    dice.choice((0, 0, 70)), dice.choice((0, 0, 30)),
                )  # fmt: skip
                hold = dice.choice([None, None, None, 20_000])
                model = FAR if tenant == "gamma" else SMOL
                end = End.REFUSED if empty else dice.choice(list(End))
                ours = dice.random() < 0.2
                vendor = dice.choice((None, None, NEAR, ABROAD)) if tenant != "gamma" else None
                heard = Usage(usage.input + 1, 0, usage.output + 2) if end is End.CLIENT_GONE else None
                batch.append(shop.request(
                    tenant, usage, hold_nano=hold, model=model, end=end, estimated=ours, vendor=vendor, heard=heard,
                ))  # fmt: skip
                shop.clock.advance(dice.randint(0, 2 * NS_PER_HOUR))
            shop.sell(*batch)
        if dice.random() < 0.2:
            shop.topup(dice.choice(["acme", "beta", "gamma"]), dice.randint(1, 10**9), "more")
        shop.clock.advance(DAY_NS - (shop.clock.now_ns() - NOON_NS) % DAY_NS)
    return shop
