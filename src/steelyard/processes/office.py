"""The commands of the office: tenants, keys, wallets, prices, models, receipts, verification.

Each command is one transaction over the database, checked and answered in plain values. Runs inside `books`, or inside
the command line when the platform is down. Knows the teller only as `holds` (what is set aside); what a command changed
for it comes back in `Outcome`, to be told after the commit.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, InterfaceError, InternalError, OperationalError

from steelyard.catalog import store as catalog
from steelyard.catalog.price_file import SUBJECT_FIELD, parse_price_file
from steelyard.identity import store as identity
from steelyard.jobs import store as jobs
from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, Clock, iso_from_ns
from steelyard.kernel.errors import CallerError, bad_request, perhaps_done, unavailable
from steelyard.kernel.ids import secret_hash
from steelyard.kernel.records import Caller
from steelyard.kernel.settled import Opened
from steelyard.ledger.gauges import Seed
from steelyard.ledger.posting import open_wallet
from steelyard.ledger.purse import Purse
from steelyard.ledger.teller import Teller
from steelyard.ledger.verify import verify
from steelyard.processes.cashier import Cashier, Holds, tenant_view
from steelyard.processes.importing import Importing
from steelyard.processes.limiting import Limited, limit_lift, limit_list, limit_seeds, limit_set
from steelyard.processes.outcome import KeyChange, Outcome
from steelyard.processes.payload import Payload, integer_of, request_id_of, text_of
from steelyard.processes.receipts import open_receipt
from steelyard.processes.reconciling import reconcile_post
from steelyard.processes.replay import replay
from steelyard.processes.rerating import post_rerating
from steelyard.processes.routing import ROUTING
from steelyard.processes.snapshot import new_snapshot, read_snapshot, snapshot_version
from steelyard.processes.vendors import credential_drop, credential_set, vendor_add, vendor_remove
from steelyard.rating.rate import rate
from steelyard.reports.export import Wanted, export
from steelyard.reports.receipts import posted_receipt


def _nothing_open(request_id: bytes) -> Opened | None:
    return None


class Office:
    """Carries out commands by name. Raises CallerError; a database that refuses is a 503."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        *,
        holds: Holds | None = None,
        opened: Callable[[bytes], Opened | None] = _nothing_open,
        oldest_open: Callable[[], int | None] = lambda: None,
        journals: Path | None = None,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._opened = opened
        self._journals = journals
        self._commands: dict[str, Callable[[Connection, Payload], Outcome]] = {
            "tenant.add": self._tenant_add,
            "tenant.list": self._tenant_list,
            "project.add": self._project_add,
            "key.add": self._key_add,
            "key.list": self._key_list,
            "key.revoke": self._key_revoke,
            "operator.add": self._operator_add,
            "prices.load": self._prices_load,
            "prices.list": self._prices_list,
            "model.register": self._model_register,
            "model.withdraw": self._model_withdraw,
            "vendor.add": self._timed(vendor_add),
            "vendor.remove": self._timed(vendor_remove),
            "credential.set": self._timed(credential_set),
            "credential.drop": self._timed(credential_drop),
            **{op: self._timed(act) for op, act in ROUTING.items()},
            "limit.set": self._limited(limit_set),
            "limit.list": self._limited(limit_list),
            "limit.lift": self._limited(limit_lift),
            "receipt": self._receipt,
            "receipt.export": self._receipt_export,
            "rerate.post": self._rerate_post,
            "reconcile.post": self._timed(reconcile_post),
            "job.cancel": self._job_cancel,
            "verify": self._verify,
        }
        self._cashier = Cashier(clock, holds or Teller(), oldest_open)
        self._commands |= self._cashier.commands()
        self._commands["import"] = Importing(clock, lambda *asked: self._commands[asked[1]](asked[0], asked[2])).run

    def command(self, op: str, payload: Payload) -> Any:
        """Carry out a command and return its answer."""
        return self.execute(op, payload).reply

    def execute(self, op: str, payload: Payload) -> Outcome:
        """Carry out a command in one transaction; the outcome is durable when this returns."""
        act = self._commands.get(op)
        if act is None:
            raise CallerError(404, "unknown_command", f"There is no command {op!r}.")
        with transaction(self._engine) as connection:
            return act(connection, payload)

    def verify(self, connection: Connection, live: tuple[str, ...] = (), *, replayed: bool = True) -> Payload:
        """Every invariant over all rows and, unless told not to, the journals; `live` are complaints of the teller."""
        findings = verify(connection, rate, catalog.tariffs_by_id(connection), live)
        if replayed and self._journals is not None:
            findings += replay(connection, self._journals)
        return {"findings": msgspec.to_builtins(findings), "ok": all(finding.ok for finding in findings)}

    def seeds(self) -> list[Seed]:
        """All sub-limits in force with what the books say of the time before, for a teller that begins."""
        with transaction(self._engine) as connection:
            return limit_seeds(connection, self._clock)

    def untold(self, version: int) -> Outcome:
        """What workers have to know who have the snapshot of this version: a newer one, and keys that ended lately."""
        with transaction(self._engine) as connection:
            ended = identity.revoked_keys(connection, self._clock.now_ns() - limits.UNTOLD_S * NS_PER_S)
            snapshot = read_snapshot(connection) if snapshot_version(connection) > version else None
        return Outcome(None, snapshot=snapshot, keys=tuple(map(KeyChange, ended)))

    def _timed(self, act: Callable[[Connection, Payload, Clock], Outcome]) -> Callable[[Connection, Payload], Outcome]:
        return lambda connection, payload: act(connection, payload, self._clock)

    def _limited(
        self, act: Callable[[Connection, Payload, Clock], Limited]
    ) -> Callable[[Connection, Payload], Outcome]:
        def run(connection: Connection, payload: Payload) -> Outcome:
            limited = act(connection, payload, self._clock)
            return Outcome(limited.reply, limited=limited.seeds)

        return run

    def _tenant_add(self, connection: Connection, payload: Payload) -> Outcome:
        currency = text_of(payload, "currency") if payload.get("currency") is not None else "CNY"
        tenant = identity.add_tenant(connection, text_of(payload, "name"), currency, self._clock)
        open_wallet(connection, tenant.id, tenant.name, tenant.currency)
        reply = tenant_view(tenant) | {"project": identity.DEFAULT_PROJECT}
        return Outcome(reply, purses={tenant.id: Purse(0)})

    def _tenant_list(self, connection: Connection, payload: Payload) -> Outcome:
        return Outcome(self._cashier.wallets(connection))

    def _project_add(self, connection: Connection, payload: Payload) -> Outcome:
        tenant = identity.find_tenant(connection, text_of(payload, "tenant"))
        name = text_of(payload, "name")
        return Outcome({"id": identity.add_project(connection, tenant.id, name, self._clock), "name": name})

    def _key_add(self, connection: Connection, payload: Payload) -> Outcome:
        tenant = identity.find_tenant(connection, text_of(payload, "tenant"))
        project = text_of(payload, "project") if payload.get("project") is not None else identity.DEFAULT_PROJECT
        project_id = identity.find_project(connection, tenant.id, project)
        key, secret = identity.add_key(connection, project_id, text_of(payload, "name"), self._clock)
        caller = Caller(key.id, project_id, tenant.id, tenant.name, project, tenant.currency)
        return Outcome(_key(key) | {"key": secret}, keys=(KeyChange(key.id, secret_hash(secret), caller),))

    def _operator_add(self, connection: Connection, payload: Payload) -> Outcome:
        key, secret = identity.add_key(connection, None, text_of(payload, "name"), self._clock)
        return Outcome(_key(key) | {"key": secret}, snapshot=new_snapshot(connection))

    def _key_list(self, connection: Connection, payload: Payload) -> Outcome:
        name = payload.get("tenant")
        tenant_id = None if name is None else identity.find_tenant(connection, text_of(payload, "tenant")).id
        return Outcome([_key(key) for key in identity.list_keys(connection, tenant_id)])

    def _key_revoke(self, connection: Connection, payload: Payload) -> Outcome:
        key = identity.revoke_key(connection, integer_of(payload, "id"), self._clock)
        if key.project is None:
            return Outcome(_key(key), snapshot=new_snapshot(connection))
        return Outcome(_key(key), keys=(KeyChange(key.id),))

    def _prices_load(self, connection: Connection, payload: Payload) -> Outcome:
        drafts = parse_price_file(text_of(payload, "text")).tariffs
        loaded = catalog.load_price_file(connection, drafts, self._clock.now_ns())
        reply = {"inserted": [_tariff(tariff) for tariff in loaded.inserted], "unchanged": loaded.unchanged}
        return Outcome(reply, snapshot=new_snapshot(connection) if loaded.inserted else None)

    def _prices_list(self, connection: Connection, payload: Payload) -> Outcome:
        reply = [
            {"book": book} | _tariff(tariff)
            for book in SUBJECT_FIELD
            for versions in catalog.tariffs_by_subject(connection, book).values()
            for tariff in versions
        ]
        return Outcome(reply)

    def _model_register(self, connection: Connection, payload: Payload) -> Outcome:
        try:
            registration = msgspec.convert(payload, catalog.Registration)
        except msgspec.ValidationError as error:
            raise bad_request(f"The model cannot be registered: {error}.") from None
        before = catalog.models(connection).get(registration.name)
        model = catalog.register_model(connection, registration, self._clock.now_ns())
        return Outcome(msgspec.to_builtins(model), snapshot=None if model == before else new_snapshot(connection))

    def _model_withdraw(self, connection: Connection, payload: Payload) -> Outcome:
        withdrawn = catalog.withdraw_upstream(connection, text_of(payload, "upstream"))
        return Outcome({"offers": withdrawn}, snapshot=new_snapshot(connection) if withdrawn else None)

    def _receipt(self, connection: Connection, payload: Payload) -> Outcome:
        request_id, tenant_id = request_id_of(payload), payload.get("tenant_id")
        receipt = posted_receipt(connection, request_id, tenant_id)
        if receipt is None:
            opened = self._opened(request_id)
            receipt = open_receipt(opened, tenant_id) if opened else None
        if receipt is None:
            raise CallerError(404, "receipt_not_found", "There is no receipt with this id.", param="request_id")
        return Outcome(msgspec.to_builtins(receipt))

    def _receipt_export(self, connection: Connection, payload: Payload) -> Outcome:
        wanted = Wanted(request_id_of(payload), payload.get("tenant_id"))
        lines = b"".join(export(connection, wanted, limits.EXPORT_LINKS_MAX))
        if not lines:
            raise CallerError(404, "receipt_not_found", "There is no posted receipt with this id.", param="request_id")
        return Outcome(lines)

    def _rerate_post(self, connection: Connection, payload: Payload) -> Outcome:
        return post_rerating(connection, payload, self._clock)

    def _job_cancel(self, connection: Connection, payload: Payload) -> Outcome:
        """While no platform runs; books that run have a desk for it. Whoever takes the job up ends it."""
        job = jobs.cancelling(jobs.get_job(connection, None, payload.get("id")), self._clock.now_ns())
        jobs.change_job(connection, job)
        return Outcome(msgspec.to_builtins(job))

    def _verify(self, connection: Connection, payload: Payload) -> Outcome:
        return Outcome(self.verify(connection, replayed=payload.get("replay") is not False))


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """One transaction; a database that is locked, full or away becomes a CallerError 503.

    It says so where nobody knows whether the commit was done.
    """
    acted = False
    try:
        with engine.begin() as connection:
            yield connection
            acted = True
    except DataError as error:
        raise bad_request("The books cannot keep a value that is too long, too large or no text.") from error
    except (OperationalError, InterfaceError, InternalError) as error:
        if acted and error.connection_invalidated:
            raise perhaps_done("The database went away at the commit.") from error
        reason = "The disk is full." if "full" in str(error.orig) else "The books cannot be written at the moment."
        raise unavailable("books_unavailable", f"{reason} Nothing was changed. Try again in a moment.") from error


def _key(key: identity.Key) -> Payload:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "project": key.project,
        "operator": key.project is None,
        "name": key.name,
        "shown": key.shown,
        "created_at": iso_from_ns(key.created_ns),
        "revoked_at": None if key.revoked_ns is None else iso_from_ns(key.revoked_ns),
    }


def _tariff(tariff: Any) -> Payload:
    return {**msgspec.to_builtins(tariff), "effective_from": iso_from_ns(tariff.effective_from_ns)}
