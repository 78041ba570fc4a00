"""The books of vendors that ship with the package: where a vendor is, what he serves, and what each model costs.

Owns no number: the files in `books/` do, every entry with its source and the day it was read. A file is a head
([vendor], [[model]]) and a price file of [[cost]] entries behind it. Knows no database.
"""

import tomllib
from functools import lru_cache
from importlib.resources import files

import msgspec

from steelyard.catalog.price_file import TariffDraft, parse_price_file
from steelyard.kernel.errors import BooksError, CallerError
from steelyard.kernel.frozen import Record
from steelyard.kernel.offers import Capability

_COSTS = "\n[[cost]]"


class VendorModel(Record, frozen=True):
    """A model of a vendor, by the vendor's name of it."""

    upstream_model: str
    context_tokens: int
    max_output_tokens: int
    capabilities: tuple[Capability, ...]


class VendorCard(Record, frozen=True):
    """Who a vendor is. `key_variable`: where his own clients look for a key."""

    name: str
    title: str
    kind: str
    address: str
    key_variable: str
    currency: str
    docs: str


class VendorBook(Record, frozen=True):
    """A shipped book. `costs` are of the upstream that is called like the vendor."""

    vendor: VendorCard
    models: tuple[VendorModel, ...]
    costs: tuple[TariffDraft, ...]

    def model(self, name: str) -> VendorModel:
        """Raises CallerError 404 for one that the book does not have."""
        for one in self.models:
            if one.upstream_model == name:
                return one
        known = ", ".join(one.upstream_model for one in self.models)
        raise CallerError(
            404, "unknown_model", f"The book of {self.vendor.name} has no model {name!r}. It has {known}."
        )

    def costs_of(self, upstream: str) -> tuple[TariffDraft, ...]:
        """The costs, of an upstream with this name."""
        return tuple(msgspec.structs.replace(cost, subject=upstream) for cost in self.costs)


class _Head(Record, frozen=True):
    vendor: VendorCard
    model: tuple[VendorModel, ...]


def vendor_names() -> tuple[str, ...]:
    """All vendors with a book, by name."""
    names = (file.name for file in (files("steelyard.catalog") / "books").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def vendor_text(name: str) -> str:
    """A book as it ships. Raises CallerError 404 for a vendor without one."""
    if name not in vendor_names():
        known = ", ".join(vendor_names())
        raise CallerError(404, "unknown_vendor", f"There is no book of a vendor {name!r}. There are {known}.")
    return (files("steelyard.catalog") / "books" / f"{name}.toml").read_text(encoding="utf-8")


@lru_cache
def vendor_book(name: str) -> VendorBook:
    """A book, checked. Raises CallerError 404 for a vendor without one, BooksError for a broken file."""
    head, mark, costs = vendor_text(name).partition(_COSTS)
    try:
        found = msgspec.convert(tomllib.loads(head), _Head)
        return VendorBook(found.vendor, found.model, parse_price_file(mark + costs).tariffs)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, CallerError) as error:
        raise BooksError(f"The shipped book of {name} is broken: {error}") from error
