"""`steelyard up --demo-vendors`: five emulated vendors, at the costs of the shipped books, behind one key.

Owns what is sold there and the table a newcomer sees: a question to each, what it earned and what it cost, and one more
that a vendor fails and another answers. The figures are those of posted requests.
"""

import http.client
import json
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rich.table import Table
from rich.text import Text

from steelyard.cli import welcome
from steelyard.cli.desk import Desk
from steelyard.cli.show import console, percent_text
from steelyard.emulators.chat import KEY
from steelyard.kernel.money import money_from_nano
from steelyard.processes.child import Service
from steelyard.processes.demo_vendors import VENDORS
from steelyard.upstream.sealed import key_variable

if TYPE_CHECKING:
    from steelyard.reports.requests import RequestDetail

NAME = "demo-vendors"
SHARED_MODEL = "demo-chat"
"""Offered by all of them: when one fails, another answers."""
_MODELS = {
    "deepseek": "deepseek-flash",
    "ark": "doubao-seed-2-1-pro-260915",
    "dashscope": "qwen3-max",
    "zhipu": "glm-4.6",
    "stepfun": "step-3.7-flash",
}
_MARKUP_PERCENT = "20"
_SHARED_PRICE = f"""[[price]]
model = "{SHARED_MODEL}"
currency = "CNY"
effective_from = 2026-01-01T00:00:00+08:00
per = "1M tokens"
input = "12"
cached_input = "3"
output = "36"
source = "Steelyard demonstration price, not an offer"
"""
_CONVERSATION = (
    {
        "role": "system",
        "content": "You are the clerk of a steelyard. You weigh what is brought to you and say its price.",
    },
    {"role": "user", "content": "What do you weigh?"},
    {"role": "assistant", "content": "Goods at the harbour, and here the tokens of five vendors."},
    {"role": "user", "content": "And what did these weigh?"},
)
"""All but its last turn is in a vendor's cache already, as far as the emulators go."""
_CONTEXT_TOKENS = 32_768
_ANSWER_TOKENS = 512
_COUNTS = ("Prompt", "cached", "Answer", "reasoned")
_WIDE = 120  # a narrower terminal shows no counts, so that names and amounts have room
Command = Callable[[str, dict[str, Any]], Any]


def upstream_of(vendor: str) -> str:
    """The name of an emulated vendor's upstream: never that of the vendor itself."""
    return f"demo-{vendor}"


UPSTREAMS = tuple(map(upstream_of, VENDORS))
KEYS = {key_variable(upstream): KEY for upstream in UPSTREAMS}
"""The workers' environment: the emulators check a key as the vendors do."""


class DemoVendors:
    """`command` is the books'."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._addresses: dict[str, str] = {}

    def service(self, ready: Callable[[str], Any]) -> Service:
        """The emulators' process. `ready` gets what `register` takes, at every start of it."""
        return Service(NAME, lambda: [sys.executable, "-m", "steelyard.processes.demo_vendors"], ready=ready)

    def register(self, greeting: str) -> None:
        """Offer their models at the addresses they have now, at their list prices and a mark-up."""
        self._addresses = json.loads(greeting)
        for vendor, model in _MODELS.items():
            at = {"vendor": vendor, "upstream": upstream_of(vendor), "address": self._addresses[vendor]}
            self._command("vendor.add", at | {"models": {model: model}, "markup": _MARKUP_PERCENT})
            self._command("model.register", _shared(vendor, model, self._addresses[vendor]))
        self._command("prices.load", {"text": _SHARED_PRICE})

    def show(self, desk: Desk, address: tuple[str, int], key: str) -> None:
        """Ask each of them, then all of them with one that fails."""
        out = console()
        first = 0 if out.width >= _WIDE else len(_COUNTS)
        made = Table(box=None, pad_edge=False, padding=(0, 2 if first else 3, 0, 0), header_style="bold")
        for title in ("Vendor (emulated)", "Model"):
            made.add_column(title, overflow="fold")
        for title in (*_COUNTS, "Charge", "Cost", "Margin", "Margin %")[first:]:
            made.add_column(title, justify="right", no_wrap=True)
        for vendor, model in _MODELS.items():
            found = self._asked(desk, address, key, model)
            made.add_row(vendor, model, *_cells(found)[first:])
        found = self._asked(desk, address, key, SHARED_MODEL)
        vendor = found.row.upstream.removeprefix("demo-")
        made.add_row(vendor, SHARED_MODEL, *_cells(found)[first:])
        _mood(self._addresses[vendor], {"failing_permille": 1000, "faults": ["server"]})
        try:
            found = self._asked(desk, address, key, SHARED_MODEL)
        finally:
            _mood(self._addresses[vendor], {})
        made.add_row(
            f"{found.row.upstream.removeprefix('demo-')}, for {vendor} failed", SHARED_MODEL, *_cells(found)[first:]
        )
        out.print(made)
        out.print()
        out.print("Costs are those of the shipped books of this hour, charges 20 % more; demo-chat has all behind it.")
        out.print(
            Text(
                f"Make one fail: curl http://{urlsplit(self._addresses[vendor]).netloc}/_mood -d "
                "'{\"failing_permille\":1000}'",
                "dim" if out.is_terminal else "",
            ),
            soft_wrap=True,
        )
        out.print()

    def _asked(self, desk: Desk, address: tuple[str, int], key: str, model: str) -> "RequestDetail":
        answered = welcome.ask(desk, address, key, model, _CONVERSATION)
        return welcome.posted(desk, answered.request_id)


def _shared(vendor: str, model: str, address: str) -> dict[str, Any]:
    return {
        "name": SHARED_MODEL,
        "upstream": upstream_of(vendor),
        "address": address,
        "upstream_model": model,
        "context_tokens": _CONTEXT_TOKENS,
        "max_output_tokens": _ANSWER_TOKENS,
        "default_max_tokens": _ANSWER_TOKENS,
        "kind": vendor,
    }


def _cells(found: "RequestDetail") -> tuple[str, ...]:
    row = found.row
    money = [money_from_nano(amount, row.currency) for amount in (row.charge_nano, row.cost_nano, row.margin_nano)]
    prompt, answer = row.input + row.cached_input + row.cache_write, row.output + row.reasoning
    counts = map(str, (prompt, row.cached_input, answer, row.reasoning))
    return (*counts, *money, percent_text(row.margin_nano, row.charge_nano))


def _mood(address: str, mood: Mapping[str, object]) -> None:
    """Tell an emulator how to behave."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=10)
    try:
        connection.request("POST", "/_mood", json.dumps(mood))
        connection.getresponse().read()
    finally:
        connection.close()
