"""From an Authorization header to a caller, without I/O.

A credential carries 184 random bits (one that was brought over: those of its 32 characters or more), so its SHA-256 is
looked up directly; operators' digests are compared in constant time. Which of "no key", "unknown" and "revoked" it was
is never told.
"""

import hmac

from steelyard.kernel import limits
from steelyard.kernel.errors import unknown_key
from steelyard.kernel.ids import secret_hash
from steelyard.kernel.records import Caller, Snapshot

_SECRET_CHARACTERS_MAX = 256
_hashed: dict[str, bytes] = {}
"""Headers with a key that was live → its SHA-256, for whoever comes again. Whether it still is, is asked each time. The
hash that finds one is seeded by the process, so how long that takes tells nothing about another's key."""


def bearer(header: str | None) -> str:
    """The credential of an `Authorization: Bearer …` header. Raises CallerError 401 when there is none."""
    scheme, _, secret = (header or "").strip().partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret or len(secret) > _SECRET_CHARACTERS_MAX:
        raise unknown_key()
    return secret


def authenticate(snapshot: Snapshot, authorization: str | None) -> Caller:
    """Who the header's key stands for. Raises CallerError 401."""
    header = authorization or ""
    digest = _hashed.get(header) or secret_hash(bearer(header))
    caller = snapshot.callers.get(digest)
    if caller is None:
        raise unknown_key()
    if header not in _hashed and len(header) <= _SECRET_CHARACTERS_MAX:
        if len(_hashed) >= limits.CALLERS_SEEN_MAX:
            _hashed.clear()
        _hashed[header] = digest
    return caller


def operator_name(snapshot: Snapshot, secret: str) -> str:
    """The name of an operator key, for what is done with it."""
    return snapshot.operator_names.get(secret_hash(secret), "")


def is_operator(snapshot: Snapshot, secret: str) -> bool:
    """Whether `secret` is a live operator key. Looks at every one of them, whatever is found."""
    digest = secret_hash(secret)
    found = False
    for operator in snapshot.operators:
        found |= hmac.compare_digest(operator, digest)
    return found
