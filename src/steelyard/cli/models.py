"""`steelyard models`: what can be asked for, and the weights of the built-in model."""

from typing import Any

import click
import msgspec

from steelyard.catalog.store import models as registered
from steelyard.catalog.store import tariffs_by_subject
from steelyard.cli.desk import Desk
from steelyard.cli.epilog import examples
from steelyard.cli.options import at_desk
from steelyard.cli.progress import Steps
from steelyard.cli.show import Show, count, words
from steelyard.upstream.weights import fetch

_COLUMNS = (
    words("Model", "name"),
    words("Upstream", "upstream"),
    count("Context", "context_tokens"),
    count("Answer at most", "max_output_tokens"),
    words("Price", "price"),
)


@click.group(epilog=examples("steelyard models pull", "steelyard models list"))
def models() -> None:
    """Models: what customers ask for by name."""


@models.command("pull")
@at_desk
def models_pull(desk: Desk, show: Show) -> None:
    """Fetch the built-in model's weights into the user's cache now, so that the first start needs no network."""
    if show.as_json:
        show.json({"path": str(fetch())})
        return
    with Steps(desk.clock) as steps, steps.step("Weights", "looking for the built-in model") as step:
        file = fetch(progress=step.progress)
        step.done(str(file))


@models.command("list")
@at_desk
def models_list(desk: Desk, show: Show) -> None:
    """The models that are registered, where they run, and whether they have a price."""
    with desk.read() as connection:
        priced = tariffs_by_subject(connection, "price")
        rows: list[dict[str, Any]] = [
            {**msgspec.to_builtins(offer), "name": model.name, "price": "yes" if model.name in priced else "missing"}
            for model in registered(connection).values()
            for offer in model.offers
        ]
    show.rows(rows, _COLUMNS, "No model is registered yet: start the platform with `steelyard up`.")
