"""Why a posted request went where it went, with the names behind the ids. Reads only, and decides nothing."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, select

from steelyard.kernel.frozen import Record
from steelyard.kernel.why import Tried, Weighed, reason, way_from_bytes
from steelyard.storage import tables


class Considered(Record, frozen=True):
    """One offer of the choice; the fields of kernel.why.Weighed."""

    model: str
    upstream: str
    upstream_model: str
    rank: int
    left_out: str
    score: int
    cost_nano: int
    first_token_ms: int
    held_permille: int
    strain: int


class RequestWay(Record, frozen=True):
    """`reason` is kernel.why.reason: what put the first of `offers` before the second."""

    policy: str
    decided_by: str
    reason: str
    offers: tuple[Considered, ...]
    tried: tuple[Tried, ...]  # in vain, in this order, before the one that is on the row


def way_of(connection: Connection, request_id: bytes) -> RequestWay | None:
    """None for a request that had no choice and went to the first it asked."""
    choices = tables.choices.c
    kept = connection.execute(select(choices.way).where(choices.request_id == request_id)).scalar_one_or_none()
    if kept is None:
        return None
    try:
        way = way_from_bytes(bytes(kept))
    except msgspec.DecodeError:  # of a later version; the money does not depend on it
        return None
    if way.why is None:
        return RequestWay("", "", "", (), way.tried)
    names = _names(connection, [one.offer_id for one in way.why.offers])
    considered = tuple(
        _considered(one, *names.get(one.offer_id, ("", f"#{one.offer_id}", ""))) for one in way.why.offers
    )
    return RequestWay(way.why.policy, way.why.decided_by, reason(way.why), considered, way.tried)


def _names(connection: Connection, offer_ids: Sequence[int]) -> dict[int, tuple[str, str, str]]:
    """Offer → the model it is of, its upstream, and the model's name there."""
    offers, models = tables.offers.c, tables.models.c
    query = select(offers.id, models.name, offers.upstream, offers.upstream_model).select_from(
        tables.offers.join(tables.models, models.id == offers.model_id)
    )
    return {row[0]: (row[1], row[2], row[3]) for row in connection.execute(query.where(offers.id.in_(offer_ids)))}


def _considered(one: Weighed, model: str, upstream: str, upstream_model: str) -> Considered:
    return Considered(
        model=model,
        upstream=upstream,
        upstream_model=upstream_model,
        rank=one.rank,
        left_out=one.left_out,
        score=one.score,
        cost_nano=one.cost_nano,
        first_token_ms=one.first_token_ms,
        held_permille=one.held_permille,
        strain=one.strain,
    )
