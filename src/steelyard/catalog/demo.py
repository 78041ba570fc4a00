"""The demonstration price book that ships with the package, and its price for any other model.

Owns no numbers itself: `demo_prices.toml` does, so that there is one place to read and to copy.
"""

import json
import tomllib
from importlib.resources import files

_FILE = "demo_prices.toml"


def demo_price_text() -> str:
    """The demonstration price file as it ships."""
    return (files("steelyard.catalog") / _FILE).read_text(encoding="utf-8")


def demo_tariff_for(model: str) -> str:
    """A price file that gives `model` the demonstration price of the embedded model."""
    price = tomllib.loads(demo_price_text())["price"][0] | {"model": model}
    written = {
        field: value.isoformat() if field == "effective_from" else _quoted(value) for field, value in price.items()
    }
    return "[[price]]\n" + "".join(f"{field} = {value}\n" for field, value in written.items())


def _quoted(text: str) -> str:
    """A TOML basic string: what JSON escapes, TOML reads; DEL it would leave bare."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
