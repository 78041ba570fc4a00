"""Models, offers and tariff versions in the database.

Every function works in the caller's transaction. A tariff version is never edited or deleted: other numbers for the
same subject and date become a version of their own that counts from then on. Knows no wallet and no worker.
"""

from collections.abc import Iterable

import msgspec
from sqlalchemy import Connection, Row, insert, select, update

from steelyard.catalog.entry import check_subject
from steelyard.catalog.price_file import COST, PRICE, RATE, TariffDraft, what_for
from steelyard.catalog.tariffs import newest, price_needs
from steelyard.kernel.address import address_of
from steelyard.kernel.errors import CallerError, bad_request
from steelyard.kernel.frozen import Record
from steelyard.kernel.offers import Capability, Model, Offer
from steelyard.kernel.tariff import Tariff, TariffLine, Variant
from steelyard.storage import tables

_CAN = {
    "llama_cpp": frozenset({Capability.TEXT, Capability.EMBEDDING, Capability.RERANK}),
    "openai": frozenset(Capability),
    **dict.fromkeys(("ark", "dashscope", "gemini", "zhipu"), frozenset({Capability.TEXT, Capability.EMBEDDING})),
    **dict.fromkeys(
        ("anthropic", "dashscope_native", "deepseek", "minimax", "moonshot", "stepfun"), frozenset({Capability.TEXT})
    ),
}
"""What an upstream of a kind can be asked for."""
UPSTREAM_KINDS = tuple(_CAN)
"""What may stand in a registration; `upstream.kinds` has the adapters."""

_decode_lines = msgspec.json.Decoder(tuple[TariffLine, ...]).decode
_decode_variants = msgspec.json.Decoder(tuple[Variant, ...]).decode

TariffsBySubject = dict[str, tuple[Tariff, ...]]


class Registration(Record, frozen=True):
    """A model at an upstream, as whoever starts the upstream knows it."""

    name: str
    upstream: str
    address: str  # host:port, or a URL; see kernel.address
    upstream_model: str
    context_tokens: int
    max_output_tokens: int
    default_max_tokens: int
    kind: str = "llama_cpp"
    capabilities: tuple[Capability, ...] = (Capability.TEXT,)


class Loaded(Record, frozen=True):
    """What loading a price file did."""

    inserted: tuple[Tariff, ...]
    unchanged: int


class SnapshotParts(Record, frozen=True):
    """The catalog's share of a kernel.records.Snapshot."""

    models: dict[str, Model]
    prices: TariffsBySubject
    costs: TariffsBySubject
    rates: TariffsBySubject


def load_price_file(connection: Connection, drafts: Iterable[TariffDraft], now_ns: int) -> Loaded:
    """Insert the drafts that differ from the version now counting for their subject and date.

    Raises CallerError 400 for a price that lacks what a model served now is sold by.
    """
    drafts = tuple(drafts)
    _refuse_too_little(connection, drafts)
    standing = {book: tariffs_by_subject(connection, book) for book in (PRICE, COST, RATE)}
    inserted: list[Tariff] = []
    unchanged = 0
    for draft in drafts:
        versions = standing[draft.book].get(draft.subject, ())
        same_date = [one for one in versions if what_for(draft.book, draft) == what_for(draft.book, one)]
        if same_date and _says_the_same(draft, max(same_date, key=newest)):
            unchanged += 1
            continue
        tariff = _insert_tariff(connection, draft, now_ns)
        inserted.append(tariff)
        standing[draft.book][draft.subject] = (tariff, *versions)
    return Loaded(tuple(inserted), unchanged)


def tariffs_by_subject(connection: Connection, book: str) -> TariffsBySubject:
    """Every version of a book, by model ("price"), upstream ("cost") or currency ("rate"), the latest date first."""
    found: dict[str, list[Tariff]] = {}
    columns = tables.tariffs.c
    for row in connection.execute(select(tables.tariffs).where(columns.book == book)):
        found.setdefault(row.subject, []).append(tariff_of(row))
    return {subject: tuple(sorted(found[subject], key=newest, reverse=True)) for subject in sorted(found)}


def tariffs_by_id(connection: Connection, tariff_ids: Iterable[int] | None = None) -> dict[int, Tariff]:
    """Versions of all books by id: these, or all of them."""
    query = select(tables.tariffs)
    if tariff_ids is not None:
        query = query.where(tables.tariffs.c.id.in_(set(tariff_ids)))
    return {row.id: tariff_of(row) for row in connection.execute(query)}


def register_model(connection: Connection, registration: Registration, now_ns: int) -> Model:
    """Make sure the model and its offer stand as registered; doing it again changes only what differs.

    Raises CallerError 400 when a field cannot be what it says.
    """
    _check(registration)
    columns = tables.models.c
    model_id = connection.execute(select(columns.id).where(columns.name == registration.name)).scalar_one_or_none()
    if model_id is None:
        row = {
            "name": registration.name,
            "created_ns": now_ns,
            "default_max_tokens": registration.default_max_tokens,
        }
        model_id = connection.execute(insert(tables.models).values(row).returning(columns.id)).scalar_one()
    else:
        connection.execute(
            update(tables.models)
            .where(columns.id == model_id)
            .values(default_max_tokens=registration.default_max_tokens)
        )
    _put_offer(connection, model_id, registration)
    return models(connection)[registration.name]


def withdraw_upstream(connection: Connection, upstream: str) -> int:
    """Offer nothing at this upstream any more, until it registers again; how many offers that were."""
    columns = tables.offers.c
    open_offers = (columns.upstream == upstream) & columns.enabled
    return connection.execute(update(tables.offers).where(open_offers).values(enabled=False)).rowcount


def models(connection: Connection) -> dict[str, Model]:
    """Every model by name, with its enabled offers in the order they came."""
    offers: dict[int, list[Offer]] = {}
    columns = tables.offers.c
    query = (
        select(tables.offers, tables.models.c.name.label("model"))
        .join(tables.models, tables.models.c.id == columns.model_id)
        .where(columns.enabled)
        .order_by(columns.id)
    )
    for row in connection.execute(query):
        offers.setdefault(row.model_id, []).append(
            Offer(
                id=row.id,
                model=row.model,
                upstream=row.upstream,
                address=row.address,
                upstream_model=row.upstream_model,
                context_tokens=row.context_tokens,
                max_output_tokens=row.max_output_tokens,
                kind=row.kind,
                capabilities=_capabilities_of(row.capabilities),
                weight=row.weight,
                concurrency=row.concurrency,
                rpm=row.rpm,
                tpm=row.tpm,
                first_token_s=row.first_token_s,
            )
        )
    return {
        row.name: Model(row.id, row.name, row.created_ns, row.default_max_tokens, tuple(offers.get(row.id, ())))
        for row in connection.execute(select(tables.models).order_by(tables.models.c.id))
    }


def snapshot_parts(connection: Connection) -> SnapshotParts:
    """What workers need of the catalog. A model that nobody serves at the moment is left out."""
    offered = {name: model for name, model in models(connection).items() if model.offers}
    return SnapshotParts(offered, *(tariffs_by_subject(connection, book) for book in (PRICE, COST, RATE)))


def tariff_of(row: Row[tuple[object, ...]]) -> Tariff:
    """The record behind a row of `tariffs`."""
    return Tariff(
        id=row.id,
        subject=row.subject,
        currency=row.currency,
        effective_from_ns=row.effective_from_ns,
        lines=_decode_lines(row.lines),
        source=row.source,
        watts_milli=row.watts_milli,
        tier=row.tier,
        variants=_decode_variants(row.variants),
        marginal=row.marginal,
        model=row.model,
    )


def _refuse_too_little(connection: Connection, drafts: Iterable[TariffDraft]) -> None:
    served = models(connection)
    for draft in drafts:
        model = served.get(draft.subject) if draft.book == PRICE else None
        for capability in () if model is None else model.capabilities:
            missing = price_needs(capability) - {line.meter for line in draft.lines}
            if missing:
                names = " and ".join(f"'{meter}'" for meter in sorted(missing))
                sentence = f"[[price]] ({draft.subject}) lacks {names}: the model is served for {capability}. Add it."
                raise CallerError(400, "invalid_price_file", sentence, param="text")


def _capabilities_of(text: str) -> tuple[Capability, ...]:
    """As the column has them; one that a newer version knows is left out."""
    words = text.split(",")
    return tuple(one for one in Capability if one.value in words)


def _says_the_same(draft: TariffDraft, version: Tariff) -> bool:
    return _said_by(draft.tariff(version.id)) == _said_by(version)


def _said_by(tariff: Tariff) -> tuple[object, ...]:
    """Lines may stand in any order, variants may not: the first that holds counts."""
    variants = [(one.name, one.when, set(one.lines)) for one in tariff.variants]
    return tariff.currency, set(tariff.lines), tariff.watts_milli, tariff.source, variants, tariff.marginal


def _insert_tariff(connection: Connection, draft: TariffDraft, now_ns: int) -> Tariff:
    row = {
        "book": draft.book,
        "subject": draft.subject,
        "currency": draft.currency,
        "effective_from_ns": draft.effective_from_ns,
        "loaded_ns": now_ns,
        "source": draft.source,
        "watts_milli": draft.watts_milli,
        "tier": draft.tier,
        "model": draft.model,
        "lines": msgspec.json.encode(draft.lines).decode(),
        "variants": msgspec.json.encode(draft.variants).decode(),
        "marginal": draft.marginal,
    }
    inserted = connection.execute(insert(tables.tariffs).values(row).returning(tables.tariffs.c.id))
    return draft.tariff(inserted.scalar_one())


def _put_offer(connection: Connection, model_id: int, registration: Registration) -> None:
    columns = tables.offers.c
    values = {
        "address": registration.address,
        "upstream_model": registration.upstream_model,
        "context_tokens": registration.context_tokens,
        "max_output_tokens": registration.max_output_tokens,
        "kind": registration.kind,
        "capabilities": ",".join(one.value for one in Capability if one in registration.capabilities),
        "enabled": True,
    }
    key = {"model_id": model_id, "upstream": registration.upstream}
    changed = connection.execute(
        update(tables.offers)
        .where(columns.model_id == model_id, columns.upstream == registration.upstream)
        .values(values)
    )
    if not changed.rowcount:
        connection.execute(insert(tables.offers).values(key | values))


def _check(registration: Registration) -> None:
    for field in ("name", "upstream", "address", "upstream_model"):
        text = getattr(registration, field)
        if not text:
            raise bad_request(f"'{field}' must not be empty.", field)
        check_subject(text, lambda sentence, field=field: _refused(field, sentence))  # type: ignore[misc]
    try:
        address_of(registration.address)
    except ValueError as error:
        raise bad_request(f"'address' {error}.", "address") from None
    if registration.kind not in UPSTREAM_KINDS:
        raise bad_request(f"'kind' must be one of {', '.join(UPSTREAM_KINDS)}.", "kind")
    if not registration.capabilities:
        raise bad_request(f"'capabilities' must name one of {', '.join(Capability)} at least.", "capabilities")
    for capability in registration.capabilities:
        if capability not in _CAN[registration.kind]:
            message = f"'capabilities': nothing of the kind {registration.kind} can be asked for {capability.value!r}."
            raise bad_request(message, "capabilities")
    for field in ("context_tokens", "max_output_tokens", "default_max_tokens"):
        least = 1 if field == "context_tokens" or Capability.TEXT in registration.capabilities else 0
        if getattr(registration, field) < least:
            raise bad_request(f"'{field}' must be at least {least}.", field)


def _refused(field: str, sentence: str) -> CallerError:
    return bad_request(f"'{field}' {sentence}.", field)
