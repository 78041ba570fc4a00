"""What the books tell Prometheus: counters of what was posted since this process started, and gauges of now.

For watching only; the ledger decides. Knows the posted records, no database.
"""

from collections import Counter as Tally
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest

from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.settled import Rated
from steelyard.ledger.teller import Teller


class BooksMetrics:
    """One per books process, with a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per counter, of no use here
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("steelyard_requests", "Requests posted.", ["model", "end"], registry=registry)
        self._tokens = Counter("steelyard_tokens", "Tokens posted.", ["model", "kind"], registry=registry)
        self._charge = Counter(
            "steelyard_charge_nano", "Charged to customers.", ["model", "currency"], registry=registry
        )
        self._cost = Counter("steelyard_cost_nano", "Cost to us (estimated).", ["model", "currency"], registry=registry)
        self._energy = Counter("steelyard_energy_uj", "Energy of requests.", ["model", "source"], registry=registry)
        self._batches = Counter("steelyard_batches", "Posting batches of requests.", registry=registry)
        self._lag = Gauge(
            "steelyard_posting_lag_seconds",
            "From close to posted, oldest request of the last batch.",
            registry=registry,
        )
        self._holds = Gauge("steelyard_holds_open", "Requests with money set aside.", registry=registry)
        self._held = Gauge("steelyard_held_nano", "Money set aside, all wallets.", registry=registry)
        self._workers = Gauge("steelyard_workers_connected", "Workers connected to the books.", registry=registry)
        self._trouble = Gauge("steelyard_books_in_trouble", "1 while nothing can be posted.", registry=registry)
        self.lag_ns = 0

    def count(self, posted: Sequence[Rated], now_ns: int) -> None:
        """A batch was posted."""
        requests: Tally[tuple[str, str]] = Tally()
        tokens: Tally[tuple[str, str]] = Tally()
        charges: Tally[tuple[str, str]] = Tally()
        costs: Tally[tuple[str, str]] = Tally()
        energy: Tally[tuple[str, str]] = Tally()
        oldest_ns = now_ns
        for rated in posted:
            opened, closed = rated.settlement.opened, rated.settlement.closed
            model, currency, usage = opened.model, opened.currency, closed.usage
            requests[model, closed.end] += 1
            tokens[model, "input"] += usage.input
            tokens[model, "cached_input"] += usage.cached_input
            tokens[model, "cache_write"] += usage.cache_write
            tokens[model, "output"] += usage.output
            tokens[model, "reasoning"] += usage.reasoning
            if usage.is_reused:
                tokens[model, "reused_input"] += usage.reused_input
                tokens[model, "reused_output"] += usage.reused_output
            charges[model, currency] += rated.charge_nano
            costs[model, currency] += rated.cost_nano
            energy[model, "measured"] += closed.measured_uj
            energy[model, "modelled"] += usage.energy_uj - closed.measured_uj
            oldest_ns = min(oldest_ns, closed.closed_ns)
        for counter, tally in (
            (self._requests, requests),
            (self._tokens, tokens),
            (self._charge, charges),
            (self._cost, costs),
            (self._energy, energy),
        ):
            for labels, amount in tally.items():
                counter.labels(*labels).inc(amount)
        self._batches.inc()
        self.lag_ns = now_ns - oldest_ns
        self._lag.set(self.lag_ns / NS_PER_S)

    def text(self, teller: Teller, workers: int, trouble: bool) -> str:
        """The exposition text, with the gauges as they are now."""
        self._holds.set(teller.open_holds)
        self._held.set(sum(amount for _, amount in teller.held_by_tenant()))
        self._workers.set(workers)
        self._trouble.set(trouble)
        return generate_latest(self._registry).decode()
