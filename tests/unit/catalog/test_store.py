"""The catalog in the database: versions are added and never edited; models are registered again at each start."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Connection, select, update

from steelyard.catalog.demo import demo_price_text
from steelyard.catalog.price_file import COST, PRICE, parse_price_file
from steelyard.catalog.store import (
    Loaded,
    Registration,
    load_price_file,
    models,
    register_model,
    snapshot_parts,
    tariffs_by_id,
    tariffs_by_subject,
    withdraw_upstream,
)
from steelyard.catalog.tariffs import BATCH_TIER, in_force
from steelyard.kernel.errors import CallerError
from steelyard.kernel.offers import Capability
from steelyard.storage import tables
from steelyard.storage.database import migrate, open_database

NOW_NS = 1_790_000_000 * 10**9
SMOL = Registration("smollm2-135m-instruct", "local", "127.0.0.1:9001", "smol.gguf", 4096, 4000, 512)


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Connection]:
    engine = open_database(tmp_path / "steelyard.db")
    migrate(engine)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def demo() -> str:
    """The shipped file without its prices of batches."""
    return demo_price_text().partition("# The same model in a batch")[0]


def load(books: Connection, text: str) -> Loaded:
    return load_price_file(books, parse_price_file(text).tariffs, NOW_NS)


def test_loading_twice_inserts_once(books: Connection) -> None:
    first, second = load(books, demo()), load(books, demo())
    assert ([t.subject for t in first.inserted], first.unchanged) == (["smollm2-135m-instruct", "local"], 0)
    assert second == Loaded((), 2)


def test_what_is_stored_is_what_was_loaded(books: Connection) -> None:
    inserted = load(books, demo()).inserted
    assert tariffs_by_id(books) == {tariff.id: tariff for tariff in inserted}
    assert tariffs_by_id(books, [inserted[0].id, 99]) == {inserted[0].id: inserted[0]}
    assert tariffs_by_subject(books, PRICE) == {"smollm2-135m-instruct": (inserted[0],)}
    assert tariffs_by_subject(books, COST) == {"local": (inserted[1],)}
    assert inserted[1].watts_milli == 8000
    assert set(books.execute(select(tables.tariffs.c.loaded_ns)).scalars()) == {NOW_NS}


def test_other_numbers_supersede_and_nothing_is_edited(books: Connection) -> None:
    (old, _) = load(books, demo()).inserted
    cheaper = demo().replace('output = "1.50"', 'output = "1.20"')
    loaded = load(books, cheaper)
    assert ([t.subject for t in loaded.inserted], loaded.unchanged) == ([old.subject], 1)
    versions = tariffs_by_subject(books, PRICE)[old.subject]
    assert versions == (loaded.inserted[0], old)
    assert in_force(versions, NOW_NS) == loaded.inserted[0]
    back = load(books, demo())  # the first numbers again are a third version
    assert len(back.inserted) == 1
    assert back.inserted[0].id > loaded.inserted[0].id
    assert in_force(tariffs_by_subject(books, PRICE)[old.subject], NOW_NS) == back.inserted[0]


@pytest.mark.parametrize(
    ("old", "new"),
    [('"8"', '"9"'), ("a small server", "a big server"), ('currency = "CNY"', 'currency = "USD"')],
)
def test_every_difference_makes_a_version(books: Connection, old: str, new: str) -> None:
    load(books, demo())
    assert load(books, demo().replace(old, new)).inserted


VARIED = """
[[price]]
model = "m"
currency = "CNY"
effective_from = 2026-01-01T00:00:00Z
per = "1M tokens"
input = "1"
cached_input = "1"
output = "4"
source = "a page"
marginal = false
  [[price.when]]
  name = "long"
  input_over = 32000
  input = "2"
  output = "8"
"""
MORE = '[[price.when]]\nname = "evening"\nzone = "UTC"\nhours = ["18:00-24:00"]\ninput = "3"\n'


def test_variants_are_kept_as_they_were_loaded(books: Connection) -> None:
    (tariff,) = load(books, VARIED + MORE).inserted
    assert [variant.name for variant in tariff.variants] == ["long", "evening"]
    assert tariffs_by_id(books) == {tariff.id: tariff}
    assert load(books, VARIED + MORE) == Loaded((), 1)
    price, long = VARIED.split("  [[price.when]]")
    turned = f"{price}{MORE}[[price.when]]{long}"
    assert load(books, turned).inserted, "the first variant that holds counts: another order is another price"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"long"', '"longer"'),
        ("32000", "32001"),
        ('output = "8"', 'output = "9"'),
        ('output = "8"', ""),
        ("marginal = false", "marginal = true"),
    ],
)
def test_another_condition_or_price_of_a_variant_makes_a_version(books: Connection, old: str, new: str) -> None:
    text = VARIED.replace('  output = "8"\n', "") if new == "marginal = true" else VARIED
    load(books, text)
    assert old in text and load(books, text.replace(old, new)).inserted


def test_a_later_date_stands_before_an_earlier_one(books: Connection) -> None:
    text = demo()
    (now, _) = load(books, text).inserted
    (later,) = load(books, text[: text.index("[[cost]]")].replace("2026-01-01", "2028-01-01")).inserted
    (early,) = load(books, text[: text.index("[[cost]]")].replace("2026-01-01", "2025-01-01")).inserted
    assert tariffs_by_subject(books, PRICE)[now.subject] == (later, now, early)


def test_a_model_registered_again_gets_its_new_address(books: Connection) -> None:
    first = register_model(books, SMOL, NOW_NS)
    moved = msgspec.structs.replace(SMOL, address="127.0.0.1:9002", default_max_tokens=256)
    again = register_model(books, moved, NOW_NS + 1)
    assert (again.id, again.created_ns, again.default_max_tokens) == (first.id, NOW_NS, 256)
    assert [offer.id for offer in again.offers] == [offer.id for offer in first.offers]
    assert again.offers[0].address == "127.0.0.1:9002"
    assert models(books) == {SMOL.name: again}


def test_a_model_may_have_several_offers_in_the_order_they_came(books: Connection) -> None:
    register_model(books, SMOL, NOW_NS)
    model = register_model(books, msgspec.structs.replace(SMOL, upstream="far"), NOW_NS)
    assert [(offer.upstream, offer.model) for offer in model.offers] == [("local", SMOL.name), ("far", SMOL.name)]


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", ""), ("name", "a\nb"), ("upstream", "x" * 129), ("address", " x"), ("context_tokens", 0)],
)
def test_a_registration_that_cannot_be_is_refused(books: Connection, field: str, value: object) -> None:
    with pytest.raises(CallerError) as caught:
        register_model(books, msgspec.structs.replace(SMOL, **{field: value}), NOW_NS)
    assert (caught.value.status, caught.value.param) == (400, field)
    assert models(books) == {}


def test_the_snapshot_leaves_out_what_nobody_serves(books: Connection) -> None:
    load(books, demo())
    register_model(books, SMOL, NOW_NS)
    parts = snapshot_parts(books)
    assert list(parts.models) == [SMOL.name]
    assert list(parts.prices) == [SMOL.name]
    assert list(parts.costs) == ["local"]
    books.execute(update(tables.offers).values(enabled=False))
    assert snapshot_parts(books).models == {}
    assert models(books)[SMOL.name].offers == ()


def test_a_withdrawn_upstream_offers_nothing_until_it_registers_again(books: Connection) -> None:
    register_model(books, SMOL, NOW_NS)
    register_model(books, msgspec.structs.replace(SMOL, upstream="far"), NOW_NS)
    assert withdraw_upstream(books, SMOL.upstream) == 1
    assert withdraw_upstream(books, SMOL.upstream) == 0
    assert [offer.upstream for offer in models(books)[SMOL.name].offers] == ["far"]
    register_model(books, SMOL, NOW_NS)
    assert [offer.upstream for offer in models(books)[SMOL.name].offers] == ["local", "far"]


INPUT_ONLY = """
[[price]]
model = "{model}"
currency = "CNY"
effective_from = 2026-01-01T00:00:00+08:00
per = "1M tokens"
input = "0.10"
source = "tests"
"""


def test_an_offer_keeps_what_it_can_be_asked_for(books: Connection) -> None:
    both = (Capability.EMBEDDING, Capability.RERANK)
    counts = {"max_output_tokens": 0, "default_max_tokens": 0}
    mini = msgspec.structs.replace(SMOL, name="mini", capabilities=both[::-1], **counts)
    model = register_model(books, mini, NOW_NS)
    assert (model.offers[0].capabilities, model.capabilities, model.writes_text) == (both, both, False)
    text = register_model(books, SMOL, NOW_NS)
    assert (text.capabilities, text.writes_text) == ((Capability.TEXT,), True)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"capabilities": ()}, "capabilities"),
        ({"capabilities": (Capability.MODERATION,)}, "capabilities"),
        ({"capabilities": (Capability.EMBEDDING,), "kind": "anthropic"}, "capabilities"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_what_writes_has_output_tokens_and_everything_can_be_asked_for_something(
    books: Connection, changes: dict[str, object], field: str
) -> None:
    with pytest.raises(CallerError) as caught:
        register_model(books, msgspec.structs.replace(SMOL, **changes), NOW_NS)
    assert (caught.value.status, caught.value.param) == (400, field)


def test_a_price_that_lacks_what_a_served_model_is_sold_by_is_not_loaded(books: Connection) -> None:
    register_model(books, SMOL, NOW_NS)
    with pytest.raises(CallerError) as caught:
        load(books, INPUT_ONLY.format(model=SMOL.name))
    assert caught.value.code == "invalid_price_file"
    assert SMOL.name in caught.value.message and "'output'" in caught.value.message
    assert len(load(books, INPUT_ONLY.format(model="mini")).inserted) == 1


def test_a_tier_has_versions_of_its_own_and_the_normal_price_until_then(books: Connection) -> None:
    load(books, demo())
    name = "smollm2-135m-instruct"
    (normal,) = tariffs_by_subject(books, PRICE)[name]
    assert in_force([normal], NOW_NS, BATCH_TIER) == normal
    (batch,) = load(books, demo_price_text()).inserted
    assert (batch.tier, [line.text for line in batch.lines]) == (BATCH_TIER, ["0.25", "0.025", "0.75"])
    versions = tariffs_by_subject(books, PRICE)[name]
    assert (in_force(versions, NOW_NS), in_force(versions, NOW_NS, BATCH_TIER)) == (normal, batch)
    later = demo()[: demo().index("[[cost]]")].replace("2026-01-01", "2026-02-01")
    (newer,) = load(books, later).inserted
    versions = tariffs_by_subject(books, PRICE)[name]
    assert (in_force(versions, NOW_NS), in_force(versions, NOW_NS, BATCH_TIER)) == (newer, batch)
    assert load(books, demo_price_text()) == Loaded((), 3)
    assert in_force([batch], NOW_NS) is None, "what is only priced for batches is not sold otherwise"


VENDORS = """
[[cost]]
upstream = "far"
model = "far-1"
currency = "USD"
effective_from = 2026-01-01T00:00:00Z
per = "1M tokens"
input = "1"
cached_input = "0.1"
output = "2"
source = "their list"

[[rate]]
from = "USD"
to = "CNY"
rate = "7.1"
effective_from = 2026-01-01T00:00:00Z
source = "the bank"
"""


def test_costs_of_models_and_rates_of_currencies_are_versions_of_their_own(books: Connection) -> None:
    first = load(books, VENDORS)
    assert [(one.subject, one.model, one.currency) for one in first.inserted] == [
        ("far", "far-1", "USD"), ("USD", "", "CNY"),
    ]  # fmt: skip
    assert load(books, VENDORS) == Loaded((), 2)
    more = load(books, VENDORS.replace('"far-1"', '"far-2"').replace('"CNY"', '"EUR"'))
    assert (len(more.inserted), more.unchanged) == (2, 0)
    assert len(load(books, VENDORS.replace('"7.1"', '"7.2"')).inserted) == 1
    parts = snapshot_parts(books)
    assert sorted(one.model for one in parts.costs["far"]) == ["far-1", "far-2"]
    assert sorted((one.currency, one.lines[0].text) for one in parts.rates["USD"]) == [
        ("CNY", "7.1"), ("CNY", "7.2"), ("EUR", "7.1"),
    ]  # fmt: skip
    assert tariffs_by_id(books, [one.id for one in first.inserted]) == {one.id: one for one in first.inserted}
