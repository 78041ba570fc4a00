"""Time-ordered ids in the layout of UUID version 7 (RFC 9562, section 5.7), and API keys.

Sixteen bytes: 48 bits of milliseconds, 12 bits of sequence within the millisecond, 62 random bits. Ids made by one
`Ids` never go back, even when the clock does.
"""

import hashlib
import os
from collections.abc import Callable
from struct import Struct

from steelyard.kernel.clock import NS_PER_MS, Clock

API_KEY_PREFIX = "sk-sy-"
OPERATOR_KEY_PREFIX = "sk-sy-op-"
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZabcdefghjkmnpqrstvwxyz"
_SECRET_CHARACTERS = 32  # 32 of 54 characters: 184 bits
_SHOWN_CHARACTERS = 6
_tails = Struct(">64Q")  # drawn at once: the system is asked once for 64 ids
_halves = Struct(">QQ")


class Ids:
    """Makes ids from a clock and a source of random bytes."""

    def __init__(self, clock: Clock, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._clock = clock
        self._random_bytes = random_bytes
        self._tails: list[int] = []
        self._last_ms = 0
        self._sequence = 0

    def next(self) -> bytes:
        """Sixteen bytes, greater than every id made before by this object."""
        now_ms = self._clock.now_ns() // NS_PER_MS
        if now_ms > self._last_ms:
            self._last_ms, self._sequence = now_ms, 0
        else:
            self._sequence += 1
            if self._sequence >> 12:
                self._last_ms, self._sequence = self._last_ms + 1, 0
        if not self._tails:
            self._tails += _tails.unpack(self._random_bytes(_tails.size))
        tail = self._tails.pop() & ((1 << 62) - 1)
        return _halves.pack(self._last_ms << 16 | 7 << 12 | self._sequence, 0b10 << 62 | tail)


def text_from_id(value: bytes, prefix: str = "req") -> str:
    """`req_` and 32 hexadecimal digits."""
    return f"{prefix}_{value.hex()}"


def id_from_text(text: str) -> bytes:
    """The sixteen bytes behind `req_…` (the prefix is optional). Raises ValueError when it is no id."""
    value = bytes.fromhex(text.rpartition("_")[2])
    if len(value) != 16:
        raise ValueError(f"{text!r} is not an id")
    return value


def new_secret(prefix: str, random_bytes: Callable[[int], bytes] = os.urandom) -> str:
    """A fresh credential: the prefix and 32 characters drawn without bias."""
    kept: list[str] = []
    limit = 256 - 256 % len(_ALPHABET)
    while len(kept) < _SECRET_CHARACTERS:
        kept += [_ALPHABET[b % len(_ALPHABET)] for b in random_bytes(_SECRET_CHARACTERS) if b < limit]
    return prefix + "".join(kept[:_SECRET_CHARACTERS])


def secret_hash(secret: str) -> bytes:
    """SHA-256 of a credential. A plain hash is enough: the secret carries 184 random bits, so no table reaches it."""
    return hashlib.sha256(secret.encode()).digest()


def shown_part(secret: str) -> str:
    """What may be shown and stored of a credential: the prefix and its first characters."""
    prefix = OPERATOR_KEY_PREFIX if secret.startswith(OPERATOR_KEY_PREFIX) else API_KEY_PREFIX
    return secret[: len(prefix) + _SHOWN_CHARACTERS] + "…"
