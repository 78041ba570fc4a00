"""`steelyard models`: what can be asked for, and the weights of the built-in models."""

from collections.abc import Sequence
from typing import Any

import click
import msgspec

from steelyard.catalog.store import UPSTREAM_KINDS, tariffs_by_subject
from steelyard.catalog.store import models as registered
from steelyard.catalog.tariffs import complete, price_needs
from steelyard.cli.desk import Desk
from steelyard.cli.epilog import examples
from steelyard.cli.listing import Listing
from steelyard.cli.options import at_desk
from steelyard.cli.progress import Steps
from steelyard.cli.show import Show, count, words
from steelyard.kernel.errors import CallerError
from steelyard.kernel.offers import Capability, Offer
from steelyard.kernel.quantities import Meter
from steelyard.kernel.tariff import Tariff
from steelyard.upstream.weights import MINILM, SMOLLM2, fetch

_COLUMNS = (
    words("Model", "name"),
    words("Upstream", "upstream"),
    words("Kind", "kind"),
    words("For", "for"),
    count("Context", "context_tokens"),
    count("Answer at most", "max_output_tokens"),
    words("Price", "price"),
)


_SERVED_AS = "openai"
_ANSWER_TOKENS_DEFAULT = 512  # of an answer for which the customer names no bound


@click.group(
    cls=Listing,
    epilog=examples(
        "steelyard models pull",
        "steelyard models list",
        "steelyard models offer qwen3-8b --upstream my-vllm --address 10.0.0.7:8000 --context 32768",
        "steelyard models offer kimi-k3 --upstream moonshot --address https://api.moonshot.cn/v1 --context 262144",
        "steelyard models offer bge-m3 --for embedding --upstream my-tei --address 10.0.0.8:8000 --context 8192",
        "steelyard models withdraw my-vllm",
    ),
)
def models() -> None:
    """Models: what customers ask for by name."""


@models.command("pull")
@at_desk
def models_pull(desk: Desk, show: Show) -> None:
    """Fetch the built-in models' weights into the user's cache now, so that the first start needs no network."""
    if show.as_json:
        show.json({"path": str(fetch()), "embedding_path": str(fetch(weights=MINILM))})
        return
    with Steps(desk.clock) as steps:
        for title, weights in (("Weights", SMOLLM2), ("Embeddings", MINILM)):
            with steps.step(title, "looking for the built-in model") as step:
                step.done(str(fetch(progress=step.progress, weights=weights)))


@models.command("list")
@at_desk
def models_list(desk: Desk, show: Show) -> None:
    """The models that are registered, where they run, and whether they have a price."""
    with desk.read() as connection:
        priced = tariffs_by_subject(connection, "price")
        rows: list[dict[str, Any]] = [
            {
                **msgspec.to_builtins(offer),
                "name": model.name,
                "for": ", ".join(offer.capabilities),
                "price": "yes" if _has_price(priced.get(model.name, ()), offer) else "missing",
            }
            for model in registered(connection).values()
            for offer in model.offers
        ]
    show.rows(rows, _COLUMNS, "No model is registered yet: start the platform with `steelyard up`.")


def _has_price(versions: Sequence[Tariff], offer: Offer) -> bool:
    """Whether one version, now or later, prices all that the offer is asked for."""
    needs = frozenset[Meter]().union(*map(price_needs, offer.capabilities))
    return any(complete(version, needs) for version in versions)


@models.command("offer")
@click.argument("name")
@click.option("--upstream", required=True, help="The server's name, by which cost tariffs and keys know it.")
@click.option("--address", required=True, help="Its host:port, or a URL such as https://api.example/v1.")
@click.option(
    "--kind", type=click.Choice(UPSTREAM_KINDS), default=_SERVED_AS, show_default=True, help="What it speaks."
)
@click.option("--as", "upstream_model", help="What the server calls the model, if not NAME.")
@click.option("--context", type=click.IntRange(1), required=True, help="Tokens of context.")
@click.option("--answer", type=click.IntRange(1), help="Most tokens of an answer; as much as the context otherwise.")
@click.option(
    "--for",
    "capabilities",
    type=click.Choice([one.value for one in Capability]),
    multiple=True,
    default=[Capability.TEXT.value],
    show_default=True,
    help="What it can be asked for; may be given several times.",
)
@at_desk
def models_offer(desk: Desk, show: Show, /, name: str, **asked: Any) -> None:
    """Offer the model NAME at a server of yours (vLLM, SGLang, Ollama, llama.cpp) or at a vendor.

    It is sold once it has a price and its server a cost tariff: `steelyard prices load`.
    """
    writes = Capability.TEXT in asked["capabilities"]
    at_most = (asked["answer"] or asked["context"]) if writes else 0
    registration = {
        "name": name,
        "upstream": asked["upstream"],
        "address": asked["address"],
        "kind": asked["kind"],
        "capabilities": asked["capabilities"],
        "upstream_model": asked["upstream_model"] or name,
        "context_tokens": asked["context"],
        "max_output_tokens": at_most,
        "default_max_tokens": min(_ANSWER_TOKENS_DEFAULT, at_most),
    }
    made = desk.command("model.register", registration)
    show.say(f"{name} is offered at {asked['upstream']} ({asked['address']}, {asked['kind']}).", made)


@models.command("withdraw")
@click.argument("upstream")
@at_desk
def models_withdraw(desk: Desk, show: Show, upstream: str) -> None:
    """Offer nothing at UPSTREAM any more, until a model is offered there again."""
    done = desk.command("model.withdraw", {"upstream": upstream})
    if not done["offers"]:
        raise CallerError(404, "unknown_upstream", f"Nothing is offered at {upstream!r}. See: steelyard models list")
    show.say(f"{done['offers']} offers at {upstream} are withdrawn.", done)
