"""Commands of the office about vendors: their keys, their offers, their books. Knows no network and opens no key."""

from sqlalchemy import Connection

from steelyard.catalog.credentials import drop_credential, put_credential
from steelyard.kernel.clock import Clock, iso_from_ns
from steelyard.processes.outcome import Outcome
from steelyard.processes.payload import Payload, text_of
from steelyard.processes.snapshot import new_snapshot


def credential_set(connection: Connection, payload: Payload, clock: Clock) -> Outcome:
    """Keep a sealed key; workers use it within a second."""
    upstream, shown, now_ns = text_of(payload, "upstream"), text_of(payload, "shown"), clock.now_ns()
    put_credential(connection, upstream, text_of(payload, "token"), shown, now_ns)
    reply = {"upstream": upstream, "shown": shown, "set_at": iso_from_ns(now_ns)}
    return Outcome(reply, snapshot=new_snapshot(connection))


def credential_drop(connection: Connection, payload: Payload, clock: Clock) -> Outcome:
    """Forget the key of an upstream."""
    dropped = drop_credential(connection, text_of(payload, "upstream"))
    return Outcome({"dropped": dropped}, snapshot=new_snapshot(connection) if dropped else None)
