"""YAML with exact numbers, loaded safely: no tag makes an object. PyYAML is an extra; only this file knows it."""

from decimal import Decimal, DecimalException
from typing import Any

from steelyard.kernel.errors import StartError, bad_request
from steelyard.kernel.extras import how_to_get

_FLOAT = "tag:yaml.org,2002:float"


def exact_yaml(text: str, what: str) -> Any:
    """A document, each number that is not whole as Decimal. Raises CallerError 400 naming `what`, or StartError."""
    try:
        import yaml
    except ImportError:
        raise StartError(f"Reading YAML needs PyYAML: {how_to_get('steelyard[import]')}") from None
    loader: Any = type("ExactLoader", (yaml.SafeLoader,), {})
    loader.add_constructor(_FLOAT, lambda _loader, node: _exact(node.value))
    try:
        return yaml.load(text, loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        place = getattr(error, "problem_mark", None)
        where = f" (line {place.line + 1})" if place is not None else ""
        raise bad_request(f"{what} is not YAML that can be read safely{where}.", "file") from None


def _exact(text: str) -> Decimal | str:
    """YAML 1.1 also calls .inf and 190:20:30.15 a float: those stay texts."""
    try:
        return Decimal(text.replace("_", ""))
    except DecimalException:
        return text
