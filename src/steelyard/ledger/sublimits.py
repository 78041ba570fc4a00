"""All sub-limits in memory: which of them bound a request, and what they leave to it together.

Pure. The teller asks for room before it grants, and tells of every hold that begins, ends or comes to nothing. Nothing
counts here that is not a hold, a usage row or lent, so nothing leaks, and a restart rebuilds all of it
(ledger.limit_book). What one limit counts is ledger.gauges'.
"""

from collections.abc import Iterable, Sequence

from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError
from steelyard.kernel.left import Left, Rate
from steelyard.kernel.money import INT64_MAX
from steelyard.kernel.records import HoldAsk, Scope, Use
from steelyard.kernel.settled import Opened, Settlement
from steelyard.ledger.gauges import UNLIMITED, Aside, Gauge, Requests, Room, Seed, Tokens, gauge
from steelyard.ledger.shares import Share, tokens_of

Subject = tuple[str, int]
"""A scope's value, not the scope: an enum is slow to hash, and this is looked up for every request."""
_TENANT, _PROJECT, _KEY = Scope.TENANT.value, Scope.PROJECT.value, Scope.KEY.value


class Sublimits:
    """All limits of one teller."""

    def __init__(self, before: "Sublimits | None" = None) -> None:
        self._gauges: dict[Subject, dict[tuple[str, str], Gauge]] = {}
        self._tenants: dict[int, set[tuple[Subject, str, str]]] = {}
        self._aside: dict[Subject, Aside] = {} if before is None else before._aside  # what is lent stays so

    def limited(self, tenant_id: int) -> bool:
        """Whether the tenant, or a project or key of his, has any limit."""
        return tenant_id in self._tenants

    def put(self, seed: Seed, running: Iterable[tuple[int, Use, int]]) -> None:
        """Set the limit anew, or lift it. `running`: tenant, use and money of every open hold."""
        limit = seed.limit
        subject, kind = (limit.scope.value, limit.subject_id), (limit.kind.value, limit.every)
        of_tenant = self._tenants.setdefault(limit.tenant_id, set())
        if limit.amount is None:
            self._gauges.get(subject, {}).pop(kind, None)
            of_tenant.discard((subject, *kind))
            if not of_tenant:
                del self._tenants[limit.tenant_id]
            return
        counting = gauge(seed, self._aside.setdefault(subject, Aside()))
        for tenant_id, use, money_nano in running:
            if subject in _subjects(tenant_id, use.project_id, use.key_id):
                counting.take(use, money_nano)
        self._gauges.setdefault(subject, {})[kind] = counting
        of_tenant.add((subject, *kind))

    def room(self, ask: HoldAsk) -> Room:
        """What all limits of the request leave to it together. Of several refusals, the one that lasts longest."""
        if ask.tenant_id not in self._tenants:
            return UNLIMITED
        rooms = [one.room(ask) for one in self._of(ask.tenant_id, ask.project_id, ask.key_id)]
        if not rooms:
            return UNLIMITED
        refusals = [room.refusal for room in rooms if room.refusal is not None]
        return Room(
            min(room.money_nano for room in rooms),
            min(room.max_tokens for room in rooms),
            max(refusals, key=_lasts) if refusals else None,
            all(room.may_grow for room in rooms if room.refusal is not None)
            if refusals
            else any(room.may_grow for room in rooms),
        )

    def left(self, tenant_id: int, use: HoldAsk | Use, available_nano: int | None) -> Left:
        """What the asker's limits per minute leave to him."""
        requests = tokens = None
        for one in self._of(tenant_id, use.project_id, use.key_id):
            if isinstance(one, Requests):
                requests = _least(requests, one.rate(use.opened_ns))
            elif isinstance(one, Tokens):
                tokens = _least(tokens, one.rate(use.opened_ns))
        return Left(available_nano, requests, tokens)

    def lendable(self, tenant_id: int, use: Use) -> Share | None:
        """Requests and tokens like this one's that its worker may let in without asking, a small part of what its
        limits leave; None when one of them leaves too little, or counts what only the teller knows."""
        most = limits.LEASE_WORST_CASES_MAX
        requests, tokens = most, use.tokens * most
        for counting in self._of(tenant_id, use.project_id, use.key_id):
            if not isinstance(counting, Requests | Tokens):
                return None
            free, one = counting.free(use.opened_ns), 1 if isinstance(counting, Requests) else use.tokens
            if free < one * limits.LEASE_WALLET_WORST_CASES_MIN:
                return None
            if isinstance(counting, Requests):
                requests = min(requests, max(1, free // limits.LEASE_WALLET_PARTS))
            else:
                tokens = min(tokens, max(one, free // limits.LEASE_WALLET_PARTS))
        return Share(use.project_id, use.key_id, requests, tokens)

    def set_aside(self, tenant_id: int, share: Share) -> None:
        """Lend so much to a worker for the share's key. Negative figures: it came back, or a request has used it."""
        for subject in _subjects(tenant_id, share.project_id, share.key_id):
            aside = self._aside.get(subject)
            if aside is None:
                aside = self._aside[subject] = Aside()
            aside.requests += share.requests
            aside.tokens += share.tokens

    def aside(self) -> dict[Subject, tuple[int, int]]:
        """Subject → requests and tokens that are lent."""
        lent = {subject: (one.requests, one.tokens) for subject, one in self._aside.items()}
        return {subject: figures for subject, figures in lent.items() if figures != (0, 0)}

    def take(self, tenant_id: int, use: Use, money_nano: int) -> None:
        """A hold begins."""
        for one in self._of(tenant_id, use.project_id, use.key_id):
            one.take(use, money_nano)

    def release(self, tenant_id: int, use: Use, money_nano: int) -> None:
        """A hold came to nothing."""
        for one in self._of(tenant_id, use.project_id, use.key_id):
            one.release(use, money_nano)

    def settle(self, tenant_id: int, use: Use | None, money_nano: int, used: Use, charged_nano: int) -> None:
        """A request has ended; `use` and `money_nano` are those of its hold, if it had one."""
        for one in self._of(tenant_id, used.project_id, used.key_id):
            one.settle(use, money_nano, used, charged_nano)

    def _of(self, tenant_id: int, project_id: int, key_id: int) -> Sequence[Gauge]:
        if tenant_id not in self._tenants:
            return ()
        found: list[Gauge] = []
        for subject in _subjects(tenant_id, project_id, key_id):
            gauges = self._gauges.get(subject)
            if gauges:
                found += gauges.values()
        return found


def use_of(ask: HoldAsk, max_tokens: int) -> Use:
    """What the request takes when so many output tokens per sequence are granted."""
    return Use(ask.project_id, ask.key_id, ask.opened_ns, tokens_of(ask, max_tokens))


def running(opened: Opened) -> Use:
    """What an open request takes, by its record. How long its prompt may be only its worker knows, and tells again."""
    return Use(opened.project_id, opened.key_id, opened.opened_ns, opened.max_tokens * opened.sequences)


def used_of(settlement: Settlement) -> Use:
    """What sub-limits count of a request that has ended."""
    opened = settlement.opened
    return Use(opened.project_id, opened.key_id, opened.opened_ns, settlement.closed.usage.total)


def by_subject(lent: Iterable[tuple[int, Share]]) -> dict[Subject, tuple[int, int]]:
    """Shares of tenants' limits, summed as `Sublimits.aside` has them."""
    found: dict[Subject, tuple[int, int]] = {}
    for tenant_id, share in lent:
        for subject in _subjects(tenant_id, share.project_id, share.key_id):
            requests, tokens = found.get(subject, (0, 0))
            found[subject] = requests + share.requests, tokens + share.tokens
    return found


def _subjects(tenant_id: int, project_id: int, key_id: int) -> tuple[Subject, Subject, Subject]:
    return (_TENANT, tenant_id), (_PROJECT, project_id), (_KEY, key_id)


def _lasts(refusal: CallerError) -> int:
    return INT64_MAX if refusal.retry_after_s is None else refusal.retry_after_s


def _least(one: Rate | None, other: Rate) -> Rate:
    return other if one is None or other.left < one.left else one
