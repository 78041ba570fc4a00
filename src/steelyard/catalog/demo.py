"""The demonstration prices that ship with the package, and their price for any other model.

Owns no numbers itself: the files beside it do, so that there is one place to read and to copy.
"""

import json
import tomllib
from collections.abc import Collection
from importlib.resources import files
from typing import Any

from steelyard.catalog.price_file import SUBJECT_FIELD

_FILE, _EMBEDDING_FILE = "demo_prices.toml", "demo_embedding_prices.toml"


def demo_price_text() -> str:
    """The demonstration price file as it ships."""
    return _text(_FILE)


def demo_tariff_for(model: str) -> str:
    """A price file that gives `model` the demonstration prices of the embedded model."""
    prices = tomllib.loads(demo_price_text())["price"]
    return "".join(_written("price", price | {"model": model}) for price in prices)


def demo_embedding_text(known: Collection[tuple[str, str]]) -> str:
    """A price file for the built-in embedding model without the (book, subject) that are known; empty when all are."""
    found = tomllib.loads(_text(_EMBEDDING_FILE))
    return "".join(
        _written(book, entry)
        for book, subject in SUBJECT_FIELD.items()
        for entry in found.get(book, ())
        if (book, entry[subject]) not in known
    )


def _text(name: str) -> str:
    return (files("steelyard.catalog") / name).read_text(encoding="utf-8")


def _written(book: str, entry: dict[str, Any]) -> str:
    written = {
        field: value.isoformat() if field == "effective_from" else _quoted(value) for field, value in entry.items()
    }
    return f"[[{book}]]\n" + "".join(f"{field} = {value}\n" for field, value in written.items())


def _quoted(text: str) -> str:
    """A TOML basic string: what JSON escapes, TOML reads; DEL it would leave bare."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
