"""docs/reference/conformance.md, written by a run of the matrix: `python -m tests.clients.table`.

A cell is ticked when its assertions hold in the run, and not otherwise; a test compares the committed page with its own
run, versions included.
"""

import sys
import tempfile
from pathlib import Path

from tests.clients.checks import check, check_wallet
from tests.clients.drivers import ROOT
from tests.clients.matrix import ASKS, BROKEN, CLIENTS, EMPTY, LEFT, RETRIED, SERVED, Cell, Client
from tests.clients.session import Run, performed

PAGE = ROOT / "docs" / "reference" / "conformance.md"
OPENING = """# Which clients work unchanged

Written by a run of the client matrix (`python -m tests.clients.table`), never by hand; CI compares this page with its
own run. Every client is the published package with nothing changed but its base URL and key. It speaks to the public
port, with a wallet, in front of a scripted upstream. ✓ means that the client got what the upstream said – text, both
tool calls with their arguments, the object of a JSON schema – and that the usage it shows is its receipt, its usage
row and its share of the ledger.

## Answers

Streams are asked for usage where a client can ask. In the last three columns they are not: then none is shown (but by
dialects that always show it), and the receipt has it all the same.
"""
ENDINGS = """
## Endings

- **hang-up**: the client leaves after the first piece of text; one token is charged and the upstream let go.
- **empty wallet**: status 402 becomes this error of the client's own, and nothing is charged.
- **broken stream**: the upstream fails after some text; the client raises instead of taking the text for whole.
- **retry**: a busy upstream (429) is asked again by the client itself, and the answer is billed once.
- **wallet**: all of this together is what the wallet lost, to the nano, and no request was billed twice.
"""


def page(run: Run) -> str:
    """The whole page."""
    ways = ("plain", "stream", "stream without usage")
    heads = [f"{way}: {ask}" if ask == ASKS[0] else ask for way in ways for ask in ASKS]
    order = [cell for way in ways for cell in SERVED if cell.name.endswith(f", {way}")]
    lines = [OPENING, *_rows("client", "version", "endpoint", *heads)]
    for client in CLIENTS:
        endpoint = f"`{client.path}`"
        lines += _row(_name(client), _version(run, client), endpoint, *(_tick(run, client, cell) for cell in order))
    lines += [ENDINGS, *_rows("client", "hang-up", "empty wallet", "broken stream", "retry", "wallet")]
    for client in CLIENTS:
        ends = [_tick(run, client, cell) for cell in (LEFT, EMPTY, BROKEN, RETRIED)]
        ends[1] += f" `{run.said[client.name, EMPTY.name]['error']['kind']}`"
        lines += _row(client.name, *ends, _wallet(run, client))
    notes = [client for client in CLIENTS if client.note]
    lines += ["", *(f"{place}. {client.name}: {client.note}" for place, client in enumerate(notes, 1)), ""]
    return "\n".join(lines)


def _name(client: Client) -> str:
    notes = [each for each in CLIENTS if each.note]
    return f"{client.name} ({notes.index(client) + 1})" if client.note else client.name


def _version(run: Run, client: Client) -> str:
    return str(run.said[client.name, SERVED[0].name]["version"])


def _tick(run: Run, client: Client, cell: Cell) -> str:
    try:
        check(run, client, cell)
    except (AssertionError, KeyError) as error:
        print(f"{client.name}, {cell.name}: {error!r}", file=sys.stderr)
        return "✗"
    return "✓"


def _wallet(run: Run, client: Client) -> str:
    try:
        check_wallet(run, client)
    except AssertionError as error:
        print(f"{client.name}, wallet: {error!r}", file=sys.stderr)
        return "✗"
    return "✓"


def _row(*fields: str) -> list[str]:
    return ["| " + " | ".join(fields) + " |"]


def _rows(*heads: str) -> list[str]:
    return [*_row(*heads), "|" + "---|" * len(heads)]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, performed(Path(folder)) as found:
        PAGE.write_text(page(found))
