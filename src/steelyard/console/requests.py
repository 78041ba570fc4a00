"""The table of requests, and one request with its receipt, its costs and its share of the ledger.

Pages by key, not by number: "older" starts below the last row shown, so nothing is skipped while new requests arrive.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import urlencode

from starlette.responses import Response

from steelyard.console import figures, ways
from steelyard.console.overview import curl, fragment
from steelyard.console.playground import show_lines
from steelyard.console.visits import ROOT, Visit
from steelyard.kernel.clock import NS_PER_S, iso_from_ns
from steelyard.kernel.errors import CallerError
from steelyard.kernel.ids import id_from_text
from steelyard.kernel.quantities import source_of
from steelyard.kernel.settled import End
from steelyard.reports.requests import RequestDetail, RequestFilter, RequestRow, filter_choices, latest
from steelyard.reports.requests import detail as detail_of

_FILTERS = ("tenant", "model", "end")


def show(visit: Visit) -> Response:
    return visit.page("requests.html", view=_table(visit) | {"filters": _filters(visit)})


def live(visit: Visit) -> Response:
    return fragment(visit, "requests_live.html", _table(visit))


def _table(visit: Visit) -> dict[str, object]:
    asked = _asked(visit)
    before = visit.query("before") or None
    wanted = RequestFilter(tenant=asked.get("tenant"), model=asked.get("model"), end=asked.get("end"))
    with visit.desk.house.books() as connection:
        page = latest(connection, wanted, before=before)
    return {
        "rows": [_row(row) for row in page.rows],
        "filtered": bool(asked) or before is not None,
        "older": _address("", asked | {"before": page.older}) if page.older else "",
        "newest": _address("", asked) if before else "",
        "live": "" if before else _address("/live", asked),
        "curl": curl(visit),
    }


def _asked(visit: Visit) -> dict[str, str]:
    return {name: visit.query(name) for name in _FILTERS if visit.query(name)}


def _filters(visit: Visit) -> list[dict[str, object]]:
    """Read for a page, not at each look at what is new: all that was ever served is looked through."""
    asked = _asked(visit)
    with visit.desk.house.books() as connection:
        tenants, models = filter_choices(connection)
    ends = [str(end) for end in End]
    return [
        _filter(visit, "tenant", tenants, tenants, asked),
        _filter(visit, "model", models, models, asked),
        _filter(visit, "end", ends, [visit.words(f"end.{end}") for end in ends], asked),
    ]


def _address(page: str, fields: dict[str, str]) -> str:
    return f"{ROOT}/requests{page}?{urlencode(fields)}" if fields else f"{ROOT}/requests{page}"


def _filter(
    visit: Visit, name: str, values: Sequence[str], texts: Sequence[str], asked: dict[str, str]
) -> dict[str, object]:
    choices = [{"value": value, "text": text} for value, text in zip(values, texts, strict=True)]
    chosen = asked.get(name, "")
    if chosen and chosen not in values:  # a link can ask for what the books do not know
        choices.append({"value": chosen, "text": chosen})
    return {
        "name": name,
        "label": visit.words(f"table.{name}"),
        "all": visit.words(f"requests.all_{name}s"),
        "choices": choices,
        "chosen": chosen,
    }


def _row(row: RequestRow) -> dict[str, object]:
    opened = datetime.fromtimestamp(row.opened_ns // NS_PER_S, UTC)
    return {
        "id": row.request_id,
        "iso": iso_from_ns(row.opened_ns),
        "date": f"{opened:%m-%d}",
        "time": f"{opened:%H:%M:%S}",
        "tenant": row.tenant,
        "model": row.model,
        "prompt": figures.count(row.prompt),
        "cached": figures.count(row.cached_input + row.reused_input),
        "output": figures.count(row.generated),
        "first": figures.duration(row.first_token_ns),
        "total": figures.duration(row.duration_ns),
        "charge": figures.amount(row.charge_nano, row.currency, 6),
        "cost": figures.amount(row.cost_nano, row.currency, 6),
        "margin": figures.amount(row.margin_nano, row.currency, 6),
        "end": row.end,
    }


# --- one request --------------------------------------------------------------------------------------------------


def detail(visit: Visit) -> Response:
    request_id = _id(visit.request.path_params["request_id"])
    with visit.desk.house.books() as connection:
        found = detail_of(connection, request_id)
    if found is None:
        raise CallerError(404, "request_not_found", "No request has this id, or it is not posted yet.")
    row, currency = found.row, found.row.currency
    view = {
        "id": row.request_id,
        "state": found.receipt.state,
        "short": row.short_by_one_read,
        "estimated": row.estimated,
        "charge_lines": show_lines(found.charge, currency),
        "charge": figures.amount(row.charge_nano, currency, 9),
        "cost_estimated": row.cost_estimated,
        "cost_lines": _cost_lines(found),
        "cost": figures.amount(row.cost_nano, currency, 9),
        "margin": figures.amount(row.margin_nano, currency, 9),
        "percent": figures.percent(row.margin_nano, row.charge_nano),
        "returned": _returned(visit, row),
        "overrun": figures.amount(row.overrun_nano, currency, 9) if row.overrun_nano else None,
        "facts": _facts(visit, found),
        "way": ways.view_of(visit, found),
        "entries": [
            {
                "fact": entry.fact,
                "debit": entry.debit,
                "credit": entry.credit,
                "share": figures.amount(entry.share_nano, entry.currency, 9),
                "amount": figures.amount(entry.entry_nano, entry.currency, 9),
                "batch": entry.batch_id,
            }
            for entry in found.entries
        ],
    }
    return visit.page("request.html", view=view)


def _cost_lines(found: RequestDetail) -> list[dict[str, object]]:
    source = source_of(found.row.energy_uj, found.row.measured_uj)
    return show_lines(found.cost, found.cost_tariff.currency, source) + _exchanged(found)


def _exchanged(found: RequestDetail) -> list[dict[str, object]]:
    """The line that turns the vendor's currency into the customer's."""
    bought, paid = found.row.payable_currency, found.row.currency
    return [
        {
            "meter": str(line.meter),
            "variant": "",
            "label": "",
            "quantity": figures.amount(line.quantity, bought, 9).text,
            "price": f"{line.text} {paid} / {bought}",
            "amount": figures.amount(line.amount_nano, paid, 9),
        }
        for line in found.exchange
    ]


def _returned(visit: Visit, row: RequestRow) -> str:
    back_nano = max(0, row.hold_nano - row.charge_nano)
    return visit.words("request.returned", amount=figures.amount(back_nano, row.currency, 9).text)


def _facts(visit: Visit, found: RequestDetail) -> list[dict[str, object]]:
    t, row = visit.words, found.row

    def fact(name: str, text: object, **more: object) -> dict[str, object]:
        return {"name": t(name), "text": text, "mono": False, "end": "", "amount": None} | more

    return [
        fact("table.end", "", end=row.end),
        fact("request.opened", _moment(row.opened_ns)),
        fact("request.closed", _moment(row.closed_ns)),
        fact("request.first", figures.duration(row.first_token_ns)),
        fact("request.duration", figures.duration(row.duration_ns)),
        fact("table.tenant", row.tenant),
        fact("request.project", row.project),
        fact("request.key", f"{row.key} · {row.key_shown}"),
        fact("table.model", row.model),
        fact("request.upstream", row.upstream),
        fact("request.sequences", row.sequences),
        fact("request.streamed", t("yes" if row.stream else "no")),
        fact("request.max_tokens", figures.count(row.max_tokens)),
        fact("request.hold", "", amount=figures.amount(row.hold_nano, row.currency, 9)),
        fact("request.tariff", row.price_id),
        fact("request.cost_tariff", row.cost_id),
        fact("request.cost_source", found.cost_tariff.source),
        fact("request.batch", row.batch_id),
        fact("request.chain", found.chain, mono=True),
    ]


def _moment(ns: int) -> str:
    return iso_from_ns(ns).replace("T", " ").replace("Z", " UTC")


def _id(text: str) -> bytes:
    try:
        return id_from_text(text)
    except ValueError:
        raise CallerError(404, "request_id", "This is no request id.") from None
