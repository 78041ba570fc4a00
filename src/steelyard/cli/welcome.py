"""What a newcomer sees once everything runs: addresses, keys, a curl, a real answer and its bill.

The question goes through the public API like anybody's. Every figure of the bill is read from the posted request;
nothing is computed a second time.
"""

import http.client
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from steelyard.cli.desk import Desk
from steelyard.cli.show import console, energy_text, percent_text, source_text
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.errors import BooksError
from steelyard.kernel.ids import id_from_text
from steelyard.kernel.money import money_from_nano
from steelyard.kernel.quantities import Meter
from steelyard.kernel.settled import AmountLine

if TYPE_CHECKING:
    from steelyard.reports.requests import RequestDetail

DEMO_TENANT = "demo"
DEMO_MONEY = "100"
QUESTION = "What is the capital of France?"
_PATIENCE_S = 10
_RETRY_S = 0.05
_ANSWER_TOKENS = 48
_NOT_YET = {401, 404, 503}  # a new key, model or price reaches the workers within a second


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of this start. None: made at an earlier start, and not shown again."""

    operator: str | None
    demo: str | None


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer and the id of its request."""

    text: str
    request_id: str


def first_keys(command: Callable[[str, dict[str, Any]], Any]) -> Keys:
    """The demonstration tenant with money and a key, and an operator key: each once, whatever a killed start left."""
    tenants = {tenant["name"] for tenant in command("tenant.list", {})}
    if not tenants:
        command("tenant.add", {"name": DEMO_TENANT})
        tenants.add(DEMO_TENANT)
    keys = command("key.list", {})
    demo = None
    if tenants == {DEMO_TENANT} and not any(key["tenant"] == DEMO_TENANT for key in keys):
        topup = {"tenant": DEMO_TENANT, "amount": DEMO_MONEY, "note": "demonstration money"}
        command("wallet.topup", topup | {"idempotency_key": "first-start"})
        demo = str(command("key.add", {"tenant": DEMO_TENANT, "name": "first key"})["key"])
    operator = None
    if not any(key["operator"] for key in keys):
        operator = str(command("operator.add", {"name": "first operator"})["key"])
    return Keys(operator, demo)


def greet(url: str, keys: Keys, model: str | None) -> None:
    """Addresses, keys and a curl to copy."""
    out = console()
    out.print()
    out.print(Text.assemble("Console       ", (f"{url}/console/", "bold cyan")), soft_wrap=True)
    if keys.operator is not None:
        out.print(Text.assemble("Operator key  ", (keys.operator, "bold"), "   shown once"), soft_wrap=True)
    else:
        out.print("Operator key  shown at the first start; a new one: steelyard operator add NAME", soft_wrap=True)
    if keys.demo is not None:
        out.print(Text.assemble("Demo API key  ", (keys.demo, "bold"), "   shown once"), soft_wrap=True)
    else:
        out.print(
            f"Demo API key  shown at the first start; a new one: steelyard key add {DEMO_TENANT} --name NAME",
            soft_wrap=True,
        )
    out.print()
    out.print(Text(curl(url, keys.demo or "$STEELYARD_KEY", model), "dim" if out.is_terminal else ""), soft_wrap=True)
    out.print()


def curl(url: str, key: str, model: str | None) -> str:
    """A request to copy; the models' list when nothing can answer."""
    if model is None:
        return f'curl {url}/v1/models -H "Authorization: Bearer {key}"'
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": QUESTION}]})
    return (
        f'curl {url}/v1/chat/completions -H "Authorization: Bearer {key}" \\\n'
        f"  -H 'Content-Type: application/json' -d '{body}'"
    )


def ask(
    desk: Desk,
    address: tuple[str, int],
    key: str,
    model: str,
    messages: Sequence[Mapping[str, str]] = ({"role": "user", "content": QUESTION},),
) -> Answered:
    """Put the question through the public API. Raises BooksError with what it answered instead."""
    body = {
        "model": model,
        "messages": messages,
        "max_tokens": _ANSWER_TOKENS,
        "temperature": 0,
    }
    deadline_ns = desk.clock.monotonic_ns() + _PATIENCE_S * NS_PER_S
    while True:
        status, request_id, answer = _post(address, key, body)
        if status == 200:
            return Answered(str(answer["choices"][0]["message"]["content"]).strip(), request_id)
        if status not in _NOT_YET or desk.clock.monotonic_ns() > deadline_ns:
            raise BooksError(f"The question was not answered: {answer['error']['message']}")
        time.sleep(_RETRY_S)


def _post(address: tuple[str, int], key: str, body: dict[str, Any]) -> tuple[int, str, Any]:
    connection = http.client.HTTPConnection(*address, timeout=60)
    try:
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, response.headers.get("x-request-id", ""), json.loads(response.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise BooksError(f"The question was not answered: {error}.") from None
    finally:
        connection.close()


def posted(desk: Desk, request_id: str) -> "RequestDetail":
    """The request once it stands in the books. Raises BooksError when it does not come."""
    from steelyard.reports.requests import detail  # SQLAlchemy, which a start can do without

    deadline_ns = desk.clock.monotonic_ns() + _PATIENCE_S * NS_PER_S
    while desk.clock.monotonic_ns() < deadline_ns:
        with desk.read() as connection:
            found = detail(connection, id_from_text(request_id))
        if found is not None:
            return found
        time.sleep(_RETRY_S)
    raise BooksError(f"The request {request_id} was answered but is not posted yet: see `steelyard receipt show`.")


def show_bill(answered: Answered, found: "RequestDetail") -> None:
    """The question, the answer, and what it earned and cost."""
    out = console()
    out.print(Text.assemble(("You    ", "dim"), QUESTION))
    out.print(Text.assemble(("Model  ", "dim"), (answered.text, "bold green")))
    out.print()
    out.print(bill(found))
    out.print(Text(f"Receipt {answered.request_id}, posted in batch {found.row.batch_id}", "dim"), soft_wrap=True)
    out.print()


_QUANTITIES: dict[Meter, tuple[str, Callable[[int], str]]] = {
    Meter.INPUT: ("prompt tokens", str),
    Meter.CACHED_INPUT: ("cached prompt tokens", str),
    Meter.CACHE_WRITE: ("prompt tokens written to a cache", str),
    Meter.OUTPUT: ("output tokens", str),
    Meter.REASONING: ("reasoning tokens", str),
    Meter.REUSED_INPUT: ("prompt tokens of an answer given before", str),
    Meter.REUSED_OUTPUT: ("output tokens of an answer given before", str),
    Meter.CALL: ("requests", str),
    Meter.CPU: ("cost: engine CPU", lambda ns: f"{ns / NS_PER_S:.3f} s"),
    Meter.GPU: ("cost: engine GPU", lambda ns: f"{ns / NS_PER_S:.3f} s"),
    Meter.ENERGY: ("cost: energy", energy_text),
}
_PER = {Meter.CALL: "request", Meter.CPU: "CPU-hour", Meter.GPU: "GPU-hour", Meter.ENERGY: "kWh"}


def bill(found: "RequestDetail") -> Table:
    """The lines of the posted request as a small table."""
    row = found.row
    made = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    made.add_column("The bill")
    for title in ("Quantity", "Price", "Amount"):
        made.add_column(title, justify="right", no_wrap=True)
    listed = {price.meter for price in found.price.lines}
    for price in found.price.lines:  # a count of zero has no rated line; its price is still worth seeing
        unused = AmountLine(price.meter, 0, price.text, price.per, 0)
        for line in [line for line in found.charge if line.meter == price.meter] or [unused]:
            made.add_row(*_cells(line, row.currency))
    for line in found.charge:
        if line.meter not in listed:
            made.add_row(*_cells(line, row.currency))
    made.add_row("charge", "", "", money_from_nano(row.charge_nano, row.currency), style="bold")
    for line in found.cost:
        name, *rest = _cells(line, found.cost_tariff.currency)
        if line.meter is Meter.ENERGY:
            name += f" ({source_text(row.energy_uj, row.measured_uj)})"
        made.add_row(f"cost: {name}" if row.payable_currency else name, *rest)
    made.add_row("cost", "", "", money_from_nano(row.cost_nano, row.currency), style="bold")
    share = percent_text(row.margin_nano, row.charge_nano)
    made.add_row("margin", share, "", money_from_nano(row.margin_nano, row.currency), style="bold green")
    return made


def _cells(line: AmountLine, currency: str) -> tuple[str, str, str, str]:
    name, quantity = _QUANTITIES[line.meter]
    per = _PER.get(line.meter) or {1: "token", 1000: "1K", 1_000_000: "1M"}.get(line.per, f"{line.per:,}")
    name = f"{name} ({line.variant})" if line.variant else name
    return name, quantity(line.quantity), f"{line.text} per {per}", money_from_nano(line.amount_nano, currency)
