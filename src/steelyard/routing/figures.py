"""What a worker's router knows, as Prometheus text: which offers are left alone and why, and how they have done.

Each worker tells its own; the label `worker` says whose it is, because a scrape meets one of them.
"""

from collections.abc import Iterable, Iterator

from steelyard.kernel.offers import Model
from steelyard.routing.router import Router

_KINDS = {
    "steelyard_offer_left_alone": ("gauge", "1 while an offer is not asked first, with the reason"),
    "steelyard_offer_in_flight": ("gauge", "Calls under way"),
    "steelyard_offer_first_token_seconds": ("gauge", "From the call to the first event, of late"),
    "steelyard_offer_token_seconds": ("gauge", "From one token to the next, of late"),
    "steelyard_offer_errors_ratio": ("gauge", "Share of the calls that failed, of late"),
    "steelyard_losing_requests_total": ("counter", "Requests served at an expected loss"),
}


def text_of(router: Router, models: Iterable[Model], now_ns: int) -> str:
    """Offers that this worker has called, or leaves alone."""
    found: dict[str, list[str]] = {name: [] for name in _KINDS}
    for model in models:
        for name, labels, value in _of_model(router, model, now_ns):
            told = "".join(f'{key}="{_escaped(text)}",' for key, text in labels.items())
            found[name].append(f'{name}{{{told}worker="{router.worker}"}} {value}')
    found["steelyard_losing_requests_total"].append(
        f'steelyard_losing_requests_total{{worker="{router.worker}"}} {router.flagged}'
    )
    lines: list[str] = []
    for name, rows in found.items():
        if rows:
            kind, words = _KINDS[name]
            lines += [f"# HELP {name} {words}", f"# TYPE {name} {kind}", *rows]
    return "\n".join(lines) + "\n"


def _of_model(router: Router, model: Model, now_ns: int) -> Iterator[tuple[str, dict[str, str], float]]:
    for offer in model.offers:
        labels = {"model": model.name, "upstream": offer.upstream}
        reason, state = router.left_out(offer, now_ns), router.known(offer)
        if reason:
            yield "steelyard_offer_left_alone", labels | {"reason": reason}, 1
        if state is None:
            continue
        yield "steelyard_offer_in_flight", labels, state.in_flight
        yield "steelyard_offer_errors_ratio", labels, state.error_parts / 1024
        for name, latency in (("first_token", state.first), ("token", state.token)):
            for quantile, ns in (("0.5", latency.p50), ("0.95", latency.p95)):
                if latency.median(now_ns):
                    yield f"steelyard_offer_{name}_seconds", labels | {"quantile": quantile}, ns / 1e9


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
