"""Who is signed in: stateless cookies and form tokens, signed with the platform's secret, and a brake on wrong keys.

A session names the operator key it was opened with by a keyed mark, so revoking that key ends it within a snapshot.
Holds no session on the server. The secret never leaves this file; every comparison takes constant time.
"""

import base64
import binascii
import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, Clock

_NONCE_BYTES = 16
_MARK_BYTES = 16
_TIME_BYTES = 8
_MAC_BYTES = 32


@dataclass(frozen=True, slots=True)
class Session:
    """One browser: a visitor (no `mark`) or an operator signed in with the key that `mark` stands for."""

    nonce: bytes
    expires_s: int
    mark: bytes

    @property
    def visitor(self) -> bool:
        return self.mark == bytes(_MARK_BYTES)


class Sessions:
    """Makes and reads cookies. A cookie is time, nonce, mark and their HMAC in URL-safe base64."""

    def __init__(self, secret: bytes, clock: Clock, random_bytes: Callable[[int], bytes]) -> None:
        self._secret = secret
        self._clock = clock
        self._random_bytes = random_bytes

    def visitor(self) -> Session:
        """A session for someone not signed in: only good for the sign-in form's token."""
        return Session(self._random_bytes(_NONCE_BYTES), self._expiry(), bytes(_MARK_BYTES))

    def operator(self, key_hash: bytes) -> Session:
        """A session for the holder of the operator key with this hash."""
        return Session(self._random_bytes(_NONCE_BYTES), self._expiry(), self._mark(key_hash))

    def cookie(self, session: Session) -> str:
        body = session.expires_s.to_bytes(_TIME_BYTES, "big") + session.nonce + session.mark
        return base64.urlsafe_b64encode(body + self._mac("session", body)).decode()

    def read(self, cookie: str | None, operators: Iterable[bytes]) -> Session | None:
        """The session behind a cookie, or None when it is forged, over, or its key is no longer live."""
        try:
            raw = base64.b64decode((cookie or "").encode(), altchars=b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError):
            return None
        body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        if len(body) != _TIME_BYTES + _NONCE_BYTES + _MARK_BYTES:
            return None
        if not hmac.compare_digest(mac, self._mac("session", body)):
            return None
        session = Session(
            expires_s=int.from_bytes(body[:_TIME_BYTES], "big"),
            nonce=body[_TIME_BYTES : _TIME_BYTES + _NONCE_BYTES],
            mark=body[_TIME_BYTES + _NONCE_BYTES :],
        )
        if session.expires_s <= self._clock.now_ns() // NS_PER_S:
            return None
        if not session.visitor and not any(hmac.compare_digest(session.mark, self._mark(key)) for key in operators):
            return None
        return session

    def form_token(self, session: Session) -> str:
        """The token every form shown to the signed-in visitor carries."""
        return self._mac("form", session.nonce + session.mark).hex()

    def token_fits(self, session: Session, token: str) -> bool:
        return hmac.compare_digest(self.form_token(session).encode(), token.encode("utf-8", "replace"))

    def _expiry(self) -> int:
        return self._clock.now_ns() // NS_PER_S + limits.SESSION_S

    def _mark(self, key_hash: bytes) -> bytes:
        return self._mac("operator", key_hash)[:_MARK_BYTES]

    def _mac(self, purpose: str, body: bytes) -> bytes:
        return hmac.new(self._secret, b"console/" + purpose.encode() + b"\0" + body, hashlib.sha256).digest()


class Brake:
    """Counts wrong keys per address. Guessing 184 bits is hopeless anyway; this bounds the work and the log noise."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, list[int]] = OrderedDict()

    def wait_s(self, address: str) -> int:
        """Seconds until this address may try again; 0 when it may now."""
        now = self._clock.monotonic_ns()
        recent = self._recent(address, now)
        if len(recent) < limits.WRONG_KEYS_MAX:
            return 0
        return max(1, limits.WRONG_KEYS_WINDOW_S - (now - recent[0]) // NS_PER_S)

    def wrong(self, address: str) -> None:
        """A wrong key came from this address. Of too many addresses the longest silent one is forgotten."""
        now = self._clock.monotonic_ns()
        self._wrong[address] = [*self._recent(address, now), now][-limits.WRONG_KEYS_MAX :]
        self._wrong.move_to_end(address)
        while len(self._wrong) > limits.WRONG_KEYS_ADDRESSES_MAX:
            self._wrong.popitem(last=False)

    def _recent(self, address: str, now: int) -> list[int]:
        window_ns = limits.WRONG_KEYS_WINDOW_S * NS_PER_S
        return [at for at in self._wrong.get(address, []) if now - at < window_ns]
