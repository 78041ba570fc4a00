"""Steps that load prices and costs; every offer is either given a cost or told to be without one."""

from collections.abc import Iterable, Iterator

from steelyard.imports.amounts import Rounding, Unfit, exactly
from steelyard.imports.model_facts import Facts
from steelyard.imports.plan import Step
from steelyard.imports.price_text import COST, Left, PriceEntry, price_text
from steelyard.imports.vendor_names import Vendor

_CURRENCY = "USD"  # of all prices and wallets that are brought over


class Costs:
    """What offers cost us: by what was told of them, else by the price table, else by our own book of the vendor."""

    def __init__(self, facts: Facts, since: str, rounding: Rounding = exactly) -> None:
        self._facts = facts
        self._since = since
        self._rounding = rounding
        self._found: dict[tuple[str, str], PriceEntry] = {}
        self._without: dict[str, int] = {}
        self._shipped: dict[str, tuple[Vendor, list[str]]] = {}
        self._elsewhere: dict[str, str] = {}

    def of(self, offer: Step, vendor: Vendor, left: list[Left], told: PriceEntry | None = None) -> PriceEntry | None:
        """The cost of an offer, or None when nothing says it.

        Who sells a vendor's models at an address of his own may ask for something else: our book of the vendor says
        nothing of him, and a table is taken with a remark.
        """
        upstream, model = offer.payload["upstream"], offer.payload["upstream_model"]
        try:
            entry = told or self._facts.cost(vendor, upstream, model, self._since, self._rounding)
        except Unfit as why:
            left.append(Left(f"cost of {model} at {upstream}", f"{why}."))
            return None
        at_vendor = vendor.is_at(offer.payload["address"])
        book = self._facts.shipped(vendor) if at_vendor else None
        if entry is not None and told is None and not at_vendor:
            self._elsewhere[upstream] = vendor.name
        if entry is None and book is not None and model in book.priced:
            self._shipped.setdefault(upstream, (vendor, []))[1].append(model)
        elif entry is None:
            self._without[upstream] = self._without.get(upstream, 0) + 1
        else:
            self._found[upstream, model] = entry
        return entry

    def _books(self, left: list[Left]) -> Iterator[Step]:
        for upstream, (vendor, models) in self._shipped.items():
            payload = {"vendor": vendor.name, "upstream": upstream, "models": sorted(set(models))}
            yield Step("book", payload, f"costs of {len(set(models))} models at {upstream}, from the shipped book")
            book = self._facts.shipped(vendor)
            if book is not None and book.currency != _CURRENCY:
                why = f"They are in {book.currency}: load a [[rate]] of it and {_CURRENCY} before they sell."
                left.append(Left(f"costs of {upstream}", why))

    def steps(self, left: list[Left]) -> Iterator[Step]:
        """One step with all that were found."""
        for upstream, count in self._without.items():
            why = f"Nothing says what {count} of its models cost there. Load a cost book before they sell."
            left.append(Left(f"costs of {upstream}", why))
        for upstream, name in self._elsewhere.items():
            left.append(
                Left(f"costs of {upstream}", f"They are what {name} asks, but its address is another's. Check them.")
            )
        yield from self._books(left)
        yield from price_step(self._found.values(), COST)


def price_step(entries: Iterable[PriceEntry], book: str) -> Iterator[Step]:
    """One step that loads them, if there are any."""
    found = tuple(entries)
    if found:
        what = f"{book}s of {len(found)} models" + (" at their upstreams" if book == COST else "")
        yield Step("prices", {"text": price_text(found, book)}, what)
