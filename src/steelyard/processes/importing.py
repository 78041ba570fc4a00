"""The office's command that brings over what another system had: many steps in one transaction, each once.

A dry run makes the very same steps and takes them all back. A step that is refused is told and leaves the others
alone. What a thing became is kept with its id there (`identity.origins`), so a second run changes nothing.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from steelyard.catalog import store as catalog
from steelyard.catalog.price_file import parse_price_file
from steelyard.catalog.routes import routes
from steelyard.catalog.vendor_books import vendor_book
from steelyard.identity import store as identity
from steelyard.identity.origins import Origin, became, remember
from steelyard.kernel import limits
from steelyard.kernel.clock import Clock
from steelyard.kernel.errors import CallerError, bad_request
from steelyard.kernel.offers import Model
from steelyard.kernel.records import Caller
from steelyard.kernel.routes import Routes
from steelyard.ledger.gauges import Seed
from steelyard.ledger.posting import open_wallet
from steelyard.ledger.purse import Purse
from steelyard.processes.limiting import limit_set
from steelyard.processes.outcome import KeyChange, Outcome
from steelyard.processes.payload import Payload, text_of
from steelyard.processes.routing import ROUTING
from steelyard.processes.snapshot import new_snapshot

CREATED, CHANGED, UNCHANGED, REFUSED = "created", "changed", "unchanged", "refused"
TENANT, KEY, BALANCE, LIMITS = "tenant", "key", "balance", "limits"
_PEOPLE = frozenset({TENANT, KEY, BALANCE, LIMITS})
"""Steps that change nothing of what a snapshot says."""
_HASH_DIGITS = 64
_OF_THE_FILE = frozenset({"book", "effective_from_ns", "source"})


class Importing:
    """`command` carries out a command of the office in the same transaction: the cashier's top-up."""

    def __init__(self, clock: Clock, command: Callable[[Connection, str, Payload], Outcome]) -> None:
        self._clock = clock
        self._command = command
        self._makers: dict[str, Callable[[_Import, Payload], str]] = {
            "tenant": self._tenant,
            "key": self._key,
            "balance": self._balance,
            "limits": self._limits,
            "offer": self._offer,
            "prices": self._prices,
            "book": self._book,
            **{op: partial(self._routed, op) for op in ("route.offer", "route.alias", "route.set")},
        }

    def run(self, connection: Connection, payload: Payload) -> Outcome:
        """The command "import": a state and, where it was refused, a sentence for each step."""
        asked = _asked(payload)
        whole = connection.begin_nested()
        run = _Import(connection, asked.source, asked.actor, {}, [], [])
        states = [self._state(run, step) for step in asked.steps]
        made = any(state["state"] in {CREATED, CHANGED} for state in states)
        if asked.dry or not made:
            whole.rollback()
            return Outcome(states)
        whole.commit()
        sold = any(step.op not in _PEOPLE for step in asked.steps)
        snapshot = new_snapshot(connection) if sold else None
        return Outcome(states, run.purses, snapshot, tuple(run.seeds), tuple(run.keys))

    def _state(self, run: "_Import", step: "_Step") -> Payload:
        maker = self._makers.get(step.op)
        if maker is None:
            return {"state": REFUSED, "why": f"There is no step {step.op!r}."}
        try:
            with run.connection.begin_nested():
                return {"state": maker(run, step.payload)}
        except CallerError as error:
            if error.status >= 500:
                raise
            return {"state": REFUSED, "why": error.message}
        except IntegrityError:
            return {"state": REFUSED, "why": "Something of this name or id is here already."}

    # --- identity and money -------------------------------------------------------------------------------------

    def _tenant(self, run: "_Import", payload: Payload) -> str:
        origin = Origin(run.source, TENANT, text_of(payload, "id"))
        if became(run.connection, origin) is not None:
            return UNCHANGED
        tenant = identity.add_tenant(
            run.connection, text_of(payload, "name"), text_of(payload, "currency"), self._clock
        )
        open_wallet(run.connection, tenant.id, tenant.name, tenant.currency)
        remember(run.connection, origin, tenant.id, self._clock)
        run.purses[tenant.id] = Purse(0)
        return CREATED

    def _key(self, run: "_Import", payload: Payload) -> str:
        """A key by its hash. One that was revoked here stays revoked."""
        origin = Origin(run.source, KEY, text_of(payload, "id"))
        if became(run.connection, origin) is not None:
            return UNCHANGED
        tenant = self._tenant_of(run, payload)
        project_id = identity.find_project(run.connection, tenant.id, identity.DEFAULT_PROJECT)
        digest, shown = text_of(payload, "hash"), text_of(payload, "shown")
        if len(digest) != _HASH_DIGITS or set(digest) - set("0123456789abcdef"):
            raise bad_request("'hash' must be a SHA-256 in hexadecimal digits.", "hash")
        if len(shown) > 32:
            raise bad_request("'shown' has at most 32 characters.", "shown")
        name, connection = text_of(payload, "name"), run.connection
        key_id = identity.add_hashed_key(connection, project_id, name, bytes.fromhex(digest), shown, self._clock)
        remember(connection, origin, key_id, self._clock)
        caller = Caller(key_id, project_id, tenant.id, tenant.name, identity.DEFAULT_PROJECT, tenant.currency)
        run.keys.append(KeyChange(key_id, bytes.fromhex(digest), caller))
        return CREATED

    def _balance(self, run: "_Import", payload: Payload) -> str:
        """The opening entry: a top-up, once, whatever the other system says later."""
        origin = Origin(run.source, BALANCE, text_of(payload, "tenant"))
        if became(run.connection, origin) is not None:
            return UNCHANGED
        tenant = self._tenant_of(run, payload)
        asked = {
            "tenant": tenant.name,
            "amount": text_of(payload, "amount"),
            "reason": text_of(payload, "reason"),
            "actor": run.actor,
            "idempotency_key": f"opening balance {run.source} {origin.id}",
        }
        outcome = self._command(run.connection, "wallet.topup", asked)
        remember(run.connection, origin, outcome.reply["batch"], self._clock)
        run.purses.update(outcome.purses)
        return CREATED

    def _limits(self, run: "_Import", payload: Payload) -> str:
        """Budgets and rates of a tenant, or of a key of his; once, so that what an operator changes later stays."""
        tenant, key = self._tenant_of(run, payload), payload.get("key")
        whose: Payload = {"tenant": tenant.name}
        if key is not None:
            whose["key"] = became(run.connection, Origin(run.source, KEY, text_of(payload, "key")))
            if whose["key"] is None:
                raise bad_request("Its key was not brought over.", "key")
        whom = f"key {key}" if key is not None else f"tenant {payload['tenant']}"
        origin = Origin(run.source, LIMITS, whom)
        if became(run.connection, origin) is not None:
            return UNCHANGED
        wanted = {name: payload[name] for name in ("budget", "every", "rpm", "tpm", "concurrency") if name in payload}
        asked = whose | wanted | {"reason": f"brought over from {run.source}", "actor": run.actor}
        run.seeds.extend(limit_set(run.connection, asked, self._clock).seeds)
        remember(run.connection, origin, whose.get("key", tenant.id), self._clock)
        return CREATED

    def _tenant_of(self, run: "_Import", payload: Payload) -> identity.Tenant:
        tenant_id = became(run.connection, Origin(run.source, TENANT, text_of(payload, "tenant")))
        if tenant_id is None:
            raise bad_request("Its tenant was not brought over.", "tenant")
        return identity.find_tenant_by_id(run.connection, tenant_id)

    # --- catalog ------------------------------------------------------------------------------------------------

    def _offer(self, run: "_Import", payload: Payload) -> str:
        try:
            registration = msgspec.convert(payload, catalog.Registration)
        except msgspec.ValidationError as error:
            raise bad_request(f"The model cannot be registered: {error}.") from None
        before = catalog.models(run.connection).get(registration.name)
        after = catalog.register_model(run.connection, registration, self._clock.now_ns())
        if before == after:
            return UNCHANGED
        known = before is not None and any(offer.upstream == registration.upstream for offer in before.offers)
        return CHANGED if known else CREATED

    def _prices(self, run: "_Import", payload: Payload) -> str:
        """A price file, less what is in force with the same numbers."""
        drafts = parse_price_file(text_of(payload, "text")).tariffs
        standing = {book: catalog.tariffs_by_subject(run.connection, book) for book in ("price", "cost")}
        news = [draft for draft in drafts if not _in_force(draft, standing[draft.book].get(draft.subject, ()))]
        loaded = catalog.load_price_file(run.connection, news, self._clock.now_ns()).inserted if news else ()
        return CREATED if loaded else UNCHANGED

    def _book(self, run: "_Import", payload: Payload) -> str:
        """What these models of a vendor cost by the shipped book, at an upstream that is his."""
        book, models = vendor_book(text_of(payload, "vendor")), payload.get("models") or ()
        costs = [cost for cost in book.costs_of(text_of(payload, "upstream")) if cost.model in models]
        return CREATED if catalog.load_price_file(run.connection, costs, self._clock.now_ns()).inserted else UNCHANGED

    def _routed(self, op: str, run: "_Import", payload: Payload) -> str:
        """A rule of routing, an alias or the bounds of an offer."""
        with run.connection.begin_nested() as trial:
            before = _rules(run.connection)
            ROUTING[op](run.connection, payload, self._clock)
            if _rules(run.connection) == before:
                trial.rollback()
                return UNCHANGED
        rules, names = before[0], (payload.get("model"), payload.get("name"))
        known = rules.aliases if op == "route.alias" else rules.models
        return CHANGED if op != "route.offer" and any(name in known for name in names) else CREATED


class _Import(NamedTuple):
    """One run: where it writes, whose things these were, and what the teller and the workers must learn."""

    connection: Connection
    source: str
    actor: str
    purses: dict[int, Purse]
    seeds: list[Seed]
    keys: list[KeyChange]


class _Step(msgspec.Struct, frozen=True):
    op: str
    payload: Payload


class _Asked(msgspec.Struct, frozen=True):
    source: str
    steps: list[_Step]
    dry: bool = True
    actor: str = "operator"


def _asked(payload: Payload) -> _Asked:
    try:
        asked = msgspec.convert(payload, _Asked)
    except msgspec.ValidationError as error:
        raise bad_request(f"This cannot be imported: {error}.") from None
    identity.check_name(asked.source, "source")
    if len(asked.steps) > limits.IMPORT_STEPS_MAX:
        raise bad_request(f"At most {limits.IMPORT_STEPS_MAX} steps are made at once.", "steps")
    return asked


def _rules(connection: Connection) -> tuple[Routes, dict[str, Model]]:
    """What is said of routing, whenever it was said."""
    found = routes(connection)
    undated = {name: msgspec.structs.replace(rule, set_ns=0) for name, rule in found.models.items()}
    return msgspec.structs.replace(found, models=undated), catalog.models(connection)


def _in_force(draft: Any, versions: Any) -> bool:
    """Whether the version that would count before this draft says the same."""
    before = [one for one in versions if one.effective_from_ns <= draft.effective_from_ns and _of_one_kind(draft, one)]
    if not before:
        return False
    newest = max(before, key=lambda one: (one.effective_from_ns, one.id))
    fields = set(draft.__struct_fields__) - _OF_THE_FILE
    return all(getattr(draft, field) == getattr(newest, field) for field in fields)


def _of_one_kind(draft: Any, version: Any) -> bool:
    return all(getattr(draft, field, "") == getattr(version, field, "") for field in ("tier", "model"))
