"""Why a request went where it went, as its page shows it. A request that had no choice has nothing of this."""

from steelyard.console import figures
from steelyard.console.visits import Visit
from steelyard.kernel.clock import NS_PER_MS
from steelyard.reports.requests import RequestDetail
from steelyard.reports.ways import Considered, RequestWay


def view_of(visit: Visit, found: RequestDetail) -> dict[str, object] | None:
    """Rows, and one sentence about the winner."""
    way = found.way
    if way is None:
        return None
    tried = {one.upstream: one.fault for one in way.tried}
    best = way.offers[0].score if way.offers else 0
    serving = (found.row.model, found.row.upstream)
    return {
        "sentence": _sentence(visit, way, found.row.upstream),
        "rows": [
            _row(visit, one, found.row.currency) | {"note": _note(visit, one, tried, best, won=won), "won": won}
            for one, won in ((one, (one.model, one.upstream) == serving) for one in way.offers)
        ],
        "tried": [visit.words("why.tried", upstream=one.upstream, fault=_fault(visit, one.fault)) for one in way.tried],
    }


def _sentence(visit: Visit, way: RequestWay, served_by: str) -> str:
    if not way.offers:
        return visit.words("why.moved", upstream=served_by)
    first = way.offers[0].upstream
    told = visit.words(f"why.{way.reason}", upstream=first)
    return told if first == served_by else f"{told} {visit.words('why.moved', upstream=served_by)}"


def _note(visit: Visit, one: Considered, tried: dict[str, str], best: int, *, won: bool) -> str:
    """What became of it; for one that was not asked though its score was the better, why it stood behind."""
    if one.upstream in tried:
        return visit.words("why.failed", fault=_fault(visit, tried[one.upstream]))
    if won:
        return visit.words("why.served")
    if one.left_out:
        return visit.words("why.left_out", reason=_fault(visit, one.left_out))
    return visit.words("why.behind") if one.score < best else ""


def _row(visit: Visit, one: Considered, currency: str) -> dict[str, object]:
    return {
        "rank": one.rank or figures.NONE,
        "upstream": one.upstream,
        "there": one.upstream_model,
        "score": figures.count(one.score) if one.score else figures.NONE,
        "cost": figures.amount(one.cost_nano, currency, 6) if one.cost_nano else None,
        "first": figures.duration(one.first_token_ms * NS_PER_MS) if one.first_token_ms else figures.NONE,
        "held": f"{(one.held_permille + 5) // 10} %",
        "strain": figures.count(one.strain),
    }


def _fault(visit: Visit, word: str) -> str:
    return visit.words.either(f"fault.{word}", word)
