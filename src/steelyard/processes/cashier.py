"""The money commands of the office: top-up, grant, refund, limit, transfer, adjustment, credit, reversal, close.

Each is one transaction, done once for its idempotency key, with a row that says who did it and why. What takes money
out of a purse is planned first ("money.needs"), so that `paying` can have it set aside at the teller meanwhile.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Connection

from steelyard.identity import store as identity
from steelyard.kernel.calendar import calendar_from, zone_of
from steelyard.kernel.clock import Clock, iso_from_ns
from steelyard.kernel.errors import CallerError, bad_request
from steelyard.kernel.money import text_from_nano
from steelyard.ledger import grants, moves, periods
from steelyard.ledger.accounts import BatchKind
from steelyard.ledger.credit import set_limit
from steelyard.ledger.moves import Move
from steelyard.ledger.operations import Operation, Why, answered_before, record, reversed_before
from steelyard.ledger.purse import Purse
from steelyard.ledger.purses import read_purses
from steelyard.processes.outcome import Outcome
from steelyard.processes.payload import (
    Payload,
    amount_of,
    integer_of,
    key_of,
    rate_of,
    request_id_of,
    signed_amount_of,
    text_of,
    why_of,
)

Command = Callable[[Connection, Payload], Outcome]


class _Plan(NamedTuple):
    """A move to be made once. `asked` is what its idempotency key stands for."""

    kind: BatchKind
    tenant_id: int | None
    asked: tuple[Any, ...]
    make: Callable[[], Move]
    why: Why
    request_id: bytes | None = None
    reverses_id: int | None = None


class Holds(Protocol):
    """What is set aside at the moment: the teller."""

    def held(self, tenant_id: int) -> int: ...
    def newest_ns(self, tenant_id: int) -> int:
        """When the newest request of the tenant that is held for was opened; 0 when there is none."""


class Cashier:
    """`oldest_open` tells when the oldest request that runs began."""

    def __init__(self, clock: Clock, holds: Holds, oldest_open: Callable[[], int | None]) -> None:
        self._clock = clock
        self._holds = holds
        self._oldest_open = oldest_open
        self._plans: dict[str, Callable[[Connection, Payload], _Plan]] = {
            "wallet.topup": _topup,
            "wallet.refund": _refund,
            "wallet.adjust": _adjust,
            "wallet.transfer": _transfer,
            "wallet.credit": _credit,
            "ledger.reverse": _reverse,
        }

    def commands(self) -> dict[str, Command]:
        """By name."""
        return {op: self._carried_out(plan) for op, plan in self._plans.items()} | {
            "money.needs": self._needs,
            "wallet.show": self._show,
            "wallet.grant": self._grant,
            "wallet.limit": self._limit,
            "limit.needs": self._limit_needs,
            "wallet.allowance": self._allowance,
            "wallet.allowance.stop": self._allowance_stop,
            "time.passed": self._time_passed,
            "ledger.close": self._close,
            "ledger.periods": self._periods,
        }

    def wallets(self, connection: Connection) -> list[Payload]:
        """Every tenant with what he has."""
        purses = read_purses(connection)
        return [self._view(tenant, purses[tenant.id]) for tenant in identity.list_tenants(connection)]

    # --- moves --------------------------------------------------------------------------------------------------

    def _needs(self, connection: Connection, payload: Payload) -> Outcome:
        """What a command would take out of purses; nothing when it was done before."""
        asked = payload["payload"]
        plan = self._plans[payload["op"]](connection, asked)
        return Outcome(() if self._before(connection, plan, key_of(asked)) is not None else plan.make().needs)

    def _carried_out(self, planned: Callable[[Connection, Payload], _Plan]) -> Command:
        def command(connection: Connection, payload: Payload) -> Outcome:
            plan, key = planned(connection, payload), key_of(payload)
            answer = self._before(connection, plan, key)
            purses: dict[int, Purse] = {}
            if answer is None:
                move = plan.make()
                tenant_id = move.tenants[0] if plan.tenant_id is None else plan.tenant_id
                if key is not None and plan.tenant_id is None:  # whose batch it is, and so whose key, is known by now
                    answered_before(connection, tenant_id, key, plan.asked)
                batch_id = moves.post_move(connection, move, plan.why, self._clock)
                amount_nano = next(iter(move.pairs.values()))
                answer = {"batch": batch_id, "amount_nano": amount_nano, "tenant_id": tenant_id}
                if move.conversion is not None:
                    answer |= {"arrived_nano": move.conversion.to_nano, "rate": str(move.conversion.rate)}
                done = Operation(
                    str(plan.kind), tenant_id, plan.asked, answer, batch_id, amount_nano, plan.request_id,
                    plan.reverses_id, key,
                )  # fmt: skip
                record(connection, done, plan.why, self._clock)
                purses = read_purses(connection, move.tenants)
            return Outcome(self._reply(connection, answer), purses)

        return command

    def _before(self, connection: Connection, plan: _Plan, key: str | None) -> dict[str, Any] | None:
        if plan.reverses_id is not None:
            return reversed_before(connection, plan.reverses_id)
        if key is None or plan.tenant_id is None:
            return None
        return answered_before(connection, plan.tenant_id, key, plan.asked)

    def _reply(self, connection: Connection, answer: dict[str, Any]) -> Payload:
        """The tenant's wallet as it is now, and what was done."""
        found = {name: value for name, value in answer.items() if name != "tenant_id"}
        found |= {name[:-5]: text_from_nano(value) for name, value in answer.items() if name.endswith("_nano")}
        return self._wallet(connection, identity.find_tenant_by_id(connection, answer["tenant_id"])) | found

    # --- grants, limits, allowances -----------------------------------------------------------------------------

    def _grant(self, connection: Connection, payload: Payload) -> Outcome:
        tenant, amount, expires_ns = _tenant(connection, payload), amount_of(payload), integer_of(payload, "expires_ns")

        def act(why: Why) -> dict[str, Any]:
            if expires_ns <= self._clock.now_ns():
                raise bad_request("'expires' must be in the future.", "expires")
            given = grants.Given(tenant.id, amount, expires_ns)
            return {"batch": grants.post_grants(connection, [given], why, self._clock), "amount_nano": amount}

        said = payload.get("expires") or expires_ns  # "30d" is another moment whenever it is said
        return self._once(connection, payload, (tenant, BatchKind.GRANT), (amount, said), act)

    def _limit_needs(self, connection: Connection, payload: Payload) -> Outcome:
        """Whose limit is set, and to what."""
        return Outcome((_tenant(connection, payload).id, amount_of(payload, least=0)))

    def _limit(self, connection: Connection, payload: Payload) -> Outcome:
        tenant, amount = _tenant(connection, payload), amount_of(payload, least=0)

        def act(why: Why) -> dict[str, Any]:
            return {
                "changed": set_limit(connection, tenant.id, amount, why, self._clock, self._holds.newest_ns(tenant.id))
            }

        return self._once(connection, payload, (tenant, "limit"), (amount,), act)

    def _allowance(self, connection: Connection, payload: Payload) -> Outcome:
        tenant, amount = _tenant(connection, payload), amount_of(payload)
        zone, week_start = payload.get("zone") or "UTC", payload.get("week_start") or "monday"
        calendar = calendar_from(text_of(payload, "every"), str(zone), str(week_start))
        granted = {tenant.id}

        def act(why: Why) -> dict[str, Any]:
            grants.start_allowance(connection, tenant.id, amount, calendar, why, self._clock)
            granted.update(grants.post_allowances(connection, self._clock)[0])
            return {"amount_nano": amount, "window_end_ns": calendar.window(self._clock.now_ns()).end_ns}

        asked = (amount, str(calendar.every), calendar.zone, calendar.week_start)
        outcome = self._once(connection, payload, (tenant, "allowance"), asked, act)
        return outcome._replace(purses=read_purses(connection, granted))

    def _allowance_stop(self, connection: Connection, payload: Payload) -> Outcome:
        tenant = _tenant(connection, payload)

        def act(why: Why) -> dict[str, Any]:
            return {"stopped": grants.stop_allowance(connection, tenant.id, self._clock)}

        return self._once(connection, payload, (tenant, "allowance-stop"), (), act)

    def _once(
        self,
        connection: Connection,
        payload: Payload,
        what: tuple[identity.Tenant, str],
        asked: tuple[Any, ...],
        act: Callable[[Why], dict[str, Any]],
    ) -> Outcome:
        """Do it once for its key, and keep who did it and why."""
        (tenant, kind), key, why = what, key_of(payload), why_of(payload)
        asked = (str(kind), *asked)
        answer = None if key is None else answered_before(connection, tenant.id, key, asked)
        if answer is None:
            answer = act(why) | {"tenant_id": tenant.id}
            done = Operation(
                str(kind), tenant.id, asked, answer, answer.get("batch"), answer.get("amount_nano"), key=key
            )
            record(connection, done, why, self._clock)
        return Outcome(self._reply(connection, answer), read_purses(connection, [tenant.id]))

    def _time_passed(self, connection: Connection, payload: Payload) -> Outcome:
        """Sweep what is left of expired grants (`due` by tenant) and give what allowances owe."""
        due: dict[int, int] = payload["due"]
        grants.post_expiry(connection, due, self._clock)
        granted, next_ns = grants.post_allowances(connection, self._clock)
        return Outcome({"next_ns": next_ns}, read_purses(connection, due.keys() | granted))

    # --- periods ------------------------------------------------------------------------------------------------

    def _close(self, connection: Connection, payload: Payload) -> Outcome:
        until_ns, zone = integer_of(payload, "until_ns"), str(payload.get("zone") or "UTC")
        zone_of(zone)
        oldest_ns = self._oldest_open()
        if oldest_ns is not None and oldest_ns < until_ns:
            raise CallerError(409, "requests_open", "Requests that began before still run. Close when they have ended.")
        return Outcome(_period(periods.close_period(connection, until_ns, zone, why_of(payload), self._clock)))

    def _periods(self, connection: Connection, payload: Payload) -> Outcome:
        return Outcome([_period(one) for one in periods.closed_periods(connection)])

    # --- what a tenant has --------------------------------------------------------------------------------------

    def _show(self, connection: Connection, payload: Payload) -> Outcome:
        return Outcome(self._wallet(connection, _tenant(connection, payload)))

    def _wallet(self, connection: Connection, tenant: identity.Tenant) -> Payload:
        purse = read_purses(connection, [tenant.id])[tenant.id]
        rows = [row._asdict() for row in grants.grant_rows(connection, tenant.id)]
        given = [
            {
                "amount_nano": one.amount_nano,
                "every": str(one.calendar.every),
                "zone": one.calendar.zone,
                "window_end_ns": one.calendar.window(self._clock.now_ns()).end_ns,
            }
            for one in grants.allowances(connection, tenant.id)
        ]
        return self._view(tenant, purse) | {"tenant": tenant.name, "grants": rows, "allowances": given}

    def _view(self, tenant: identity.Tenant, purse: Purse) -> Payload:
        held_nano, expired_nano = self._holds.held(tenant.id), purse.expired_nano(self._clock.now_ns())
        granted_nano = purse.granted_nano - expired_nano
        usable_nano = purse.wallet_nano + granted_nano + purse.limit_nano
        return tenant_view(tenant) | {
            "balance_nano": purse.wallet_nano,
            "granted_nano": granted_nano,
            "limit_nano": purse.limit_nano,
            "held_nano": held_nano,
            "available_nano": usable_nano - max(0, held_nano - expired_nano),
            "balance": text_from_nano(purse.wallet_nano),
        }


def tenant_view(tenant: identity.Tenant) -> Payload:
    return {
        "id": tenant.id,
        "name": tenant.name,
        "currency": tenant.currency,
        "created_at": iso_from_ns(tenant.created_ns),
    }


def _tenant(connection: Connection, payload: Payload, field: str = "tenant") -> identity.Tenant:
    return identity.find_tenant(connection, text_of(payload, field))


def _topup(connection: Connection, payload: Payload) -> _Plan:
    tenant, amount = _tenant(connection, payload), amount_of(payload)
    make = partial(moves.topup, connection, tenant.id, amount)
    return _Plan(BatchKind.TOPUP, tenant.id, ("topup", amount), make, why_of(payload))


def _refund(connection: Connection, payload: Payload) -> _Plan:
    tenant, amount = _tenant(connection, payload), amount_of(payload)
    make = partial(moves.refund, connection, tenant.id, amount)
    return _Plan(BatchKind.REFUND, tenant.id, ("refund", amount), make, why_of(payload))


def _adjust(connection: Connection, payload: Payload) -> _Plan:
    tenant, amount = _tenant(connection, payload), signed_amount_of(payload)
    make = partial(moves.adjustment, connection, tenant.id, amount)
    return _Plan(BatchKind.ADJUSTMENT, tenant.id, ("adjustment", amount), make, why_of(payload, needed=True))


def _transfer(connection: Connection, payload: Payload) -> _Plan:
    giver, taker = _tenant(connection, payload), _tenant(connection, payload, "to")
    amount, rate = amount_of(payload), rate_of(payload)
    make = partial(moves.transfer, connection, (giver.id, taker.id), amount, rate)
    asked = ("transfer", taker.id, amount, str(rate[0]) if rate else None)
    return _Plan(BatchKind.TRANSFER, giver.id, asked, make, why_of(payload))


def _credit(connection: Connection, payload: Payload) -> _Plan:
    request_id = request_id_of(payload)
    amount = amount_of(payload) if payload.get("amount") is not None else None
    make = partial(moves.credit, connection, request_id, amount)
    tenant_id = moves.payer(connection, request_id)
    asked = ("credit", request_id.hex(), amount)
    return _Plan(BatchKind.CREDIT, tenant_id, asked, make, why_of(payload, needed=True), request_id=request_id)


def _reverse(connection: Connection, payload: Payload) -> _Plan:
    batch_id = integer_of(payload, "batch")
    make = partial(moves.reversal, connection, batch_id)
    why = why_of(payload, needed=True)
    return _Plan(BatchKind.REVERSAL, None, ("reversal", batch_id), make, why, reverses_id=batch_id)


def _period(period: periods.ClosedPeriod) -> Payload:
    return period._asdict() | {"balances_hash": period.balances_hash.hex(), "until": iso_from_ns(period.until_ns)}
