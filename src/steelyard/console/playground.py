"""The playground: an operator's message becomes a paid request, and its answer and bill come back while it runs.

Owns the form, the two ways of answering it (a stream of events, or one page without scripts) and how a bill is shown.
Sells nothing itself: the house does, on the same path as every other request.
"""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import msgspec
from starlette.responses import Response, StreamingResponse

from steelyard.console import figures
from steelyard.console.figures import ESTIMATED, label_of
from steelyard.console.forms import read_form
from steelyard.console.play import Bill, Ended, Failed, Message, PlayOrder, Text
from steelyard.console.visits import ROOT, Visit, message
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError
from steelyard.kernel.quantities import Meter, Source
from steelyard.kernel.records import Caller, Snapshot
from steelyard.kernel.settled import AmountLine

_ROLES = {"user", "assistant"}
_DECIMAL = re.compile(r"(0|[1-9]\d?)(\.\d{1,6})?", re.ASCII)  # a JSON number
COMMANDS = "steelyard tenant add acme\nsteelyard wallet topup acme 25.00\nsteelyard key add acme --name laptop"


@dataclass(slots=True)
class _Page:
    """What the form shows: choices, what was typed, the conversation so far and its last bill."""

    models: list[str]
    payers: list[dict[str, object]]
    model: str = ""
    project: int = 0
    max_tokens: str = ""
    temperature: str = ""
    message: str = ""
    turns: list[Message] = field(default_factory=list)
    bill: dict[str, object] | None = None
    failure: str = ""
    commands: str = COMMANDS

    @property
    def history(self) -> str:
        return msgspec.json.encode(self.turns).decode()


def payers(snapshot: Snapshot) -> Sequence[Caller]:
    """The projects that can pay: those with a live key, each once, oldest first, as many as a page shows."""
    return snapshot.callers.payers(limits.PLAYGROUND_PAYERS_MAX)


def show(visit: Visit) -> Response:
    return visit.page("playground.html", view=_choices(visit.desk.house.snapshot))


async def ask(visit: Visit) -> Response:
    """Without scripts: the whole answer and its final bill on a page of its own."""
    fields = await read_form(visit.request)
    visit.check_token(fields.get("token", ""))
    view = _typed(_choices(visit.desk.house.snapshot), fields)
    try:
        order = _order(fields)
    except CallerError as error:
        view.failure, view.message = _sentence(visit, error), fields.get("message", "")
        return visit.page("playground.html", error.status, view=view)
    answer: list[str] = []
    async with aclosing(visit.desk.house.play(order)) as events:
        async for event in events:
            match event:
                case Text():
                    answer.append(event.text)
                case Bill():
                    view.bill = _running(visit, event)
                case Ended():
                    view.bill = _settled(visit, event)
                case Failed():
                    view.failure = _sentence(visit, event.error)
    if view.failure and not answer:
        view.turns, view.message = list(order.messages[:-1]), order.messages[-1].content
    else:
        view.turns = [*order.messages, Message("assistant", "".join(answer))]
    return visit.page("playground.html", view=view)


async def stream(visit: Visit) -> Response:
    """With scripts: server-sent events `text`, `bill`, `end`, `failed`, each with a JSON object."""
    fields = await read_form(visit.request)
    visit.check_token(fields.get("token", ""))
    headers = {"x-accel-buffering": "no"}
    return visit.dressed(StreamingResponse(_events(visit, fields), media_type="text/event-stream", headers=headers))


async def _events(visit: Visit, fields: dict[str, str]) -> AsyncIterator[bytes]:
    try:
        order = _order(fields)
    except CallerError as error:
        yield _event("failed", {"message": _sentence(visit, error)})
        return
    async with aclosing(visit.desk.house.play(order)) as events:
        async for event in events:
            match event:
                case Text():
                    yield _event("text", {"text": event.text})
                case Bill():
                    yield _event("bill", {"html": _bill_markup(visit, _running(visit, event))})
                case Ended():
                    yield _event("end", {"html": _bill_markup(visit, _settled(visit, event))})
                case Failed():
                    yield _event("failed", {"message": _sentence(visit, event.error)})


def _event(name: str, data: dict[str, str]) -> bytes:
    """JSON escapes line breaks, so the data is always one line."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))


def _choices(snapshot: Snapshot) -> _Page:
    projects: list[dict[str, object]] = [
        {"id": caller.project_id, "text": f"{caller.tenant} / {caller.project} · {caller.currency}"}
        for caller in payers(snapshot)
    ]
    asked = sorted(name for name, model in snapshot.models.items() if model.writes_text and name in snapshot.prices)
    return _Page(asked, projects)


def _typed(view: _Page, fields: dict[str, str]) -> _Page:
    view.model = fields.get("model", "")
    view.project = int(fields["project"]) if fields.get("project", "").isdecimal() else 0
    view.max_tokens, view.temperature = fields.get("max_tokens", ""), fields.get("temperature", "")
    view.turns = _history(fields.get("history", ""))
    return view


def _order(fields: dict[str, str]) -> PlayOrder:
    """The form as an order. Raises CallerError for what a person can mend."""
    said = fields.get("message", "").strip()
    if not said:
        raise CallerError(400, "no_message", "Write a message first.", param="message")
    turns = _history(fields.get("history", ""))
    if len(turns) >= limits.PLAYGROUND_TURNS_MAX:
        raise CallerError(400, "too_long", "The conversation is too long. Start a new one.", param="history")
    tokens, temperature = fields.get("max_tokens", "").strip(), fields.get("temperature", "").strip().replace(",", ".")
    if tokens and not (
        tokens.isdecimal() and len(tokens) < 9 and 0 < int(tokens) <= limits.PLAYGROUND_ANSWER_TOKENS_MAX
    ):
        raise _bad_number("max_tokens")
    if temperature and not _DECIMAL.fullmatch(temperature):
        raise _bad_number("temperature")
    project = fields.get("project", "")
    if not (project.isdecimal() and len(project) < 18):
        raise _bad_number("payer")
    return PlayOrder(
        project_id=int(project),
        model=fields.get("model", ""),
        messages=(*turns, Message("user", said)),
        max_tokens=int(tokens) if tokens else None,
        temperature=temperature or None,
    )


def _bad_number(name: str) -> CallerError:
    return CallerError(400, "bad_number", f"The value of {name} is not a number the model accepts.", param=name)


def _sentence(visit: Visit, error: CallerError) -> str:
    if error.code == "bad_number" and error.param is not None:
        return visit.words("error.bad_number", field=visit.words(f"play.{error.param}"))
    return message(visit.words, error)


def _history(text: str) -> list[Message]:
    """The conversation the form carries; one that cannot be read counts as none."""
    try:
        turns = msgspec.json.decode(text or "[]", type=list[Message])
    except msgspec.DecodeError:
        return []
    return [turn for turn in turns if turn.role in _ROLES][: limits.PLAYGROUND_TURNS_MAX]


# --- bills --------------------------------------------------------------------------------------------------------


def show_lines(
    lines: tuple[AmountLine, ...], currency: str, energy: Source = Source.MODELLED
) -> list[dict[str, object]]:
    """The lines of a receipt or a bill, ready to be shown. `energy`: where its joules come from."""
    labels = {Meter.CPU: ESTIMATED, Meter.GPU: ESTIMATED, Meter.ENERGY: label_of(energy)}
    return [
        {
            "meter": str(line.meter),
            "variant": line.variant,
            "label": labels.get(line.meter, ""),
            "quantity": figures.quantity(line.meter, line.quantity),
            "price": figures.price(line, currency),
            "amount": figures.amount(line.amount_nano, currency, 9),
        }
        for line in lines
    ]


def _running(visit: Visit, bill: Bill) -> dict[str, object]:
    total = figures.amount(bill.charge_nano, bill.currency, 9)
    lines = show_lines(bill.lines, bill.currency)
    return {"state": "running", "total": total, "lines": lines, "href": "", "end": ""}


def _settled(visit: Visit, ended: Ended) -> dict[str, object]:
    receipt = ended.receipt
    return {
        "state": "settled",
        "total": figures.amount(receipt.amount_nano, receipt.currency, 9),
        "lines": show_lines(receipt.lines, receipt.currency),
        "href": f"{ROOT}/requests/{ended.request_id}",
        "end": str(ended.end),
    }


def _bill_markup(visit: Visit, bill: dict[str, object]) -> str:
    return visit.desk.look.render("bill.html", {"t": visit.words, "bill": bill})
