"""The key a vendor gave us: how it is sent, and that it is never told on, not even when the vendor repeats it."""

from collections.abc import Callable
from dataclasses import dataclass

from steelyard.kernel.clock import NS_PER_S, Clock
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.faults import Fault
from steelyard.upstream.head import header_block

_VEIL = "[key]"


@dataclass(frozen=True, slots=True)
class Token:
    """What a vendor wants to be sent instead of the key. `make` takes the key and the moment (ns since 1970 UTC), and
    raises ValueError for a key it cannot use; `life_s` is how long one is sent, well below what the vendor allows."""

    make: Callable[[str, int], str]
    life_s: int


class Credential:
    """The key of one upstream; empty: it wants none. Shows nothing of itself."""

    def __init__(self, upstream: str, key: str) -> None:
        self._upstream = upstream
        self._key = key
        self._secrets = [key] if key else []

    def headers(self, **fixed: str) -> bytes:
        """A header block: `fixed` (`_` stands for `-`), in whose values `{key}` becomes the key; without a key such
        lines are left out. Raises UpstreamError for a key no header can carry."""
        return self._block(fixed, self._key)

    def signed(self, token: Token, now_ns: int, fixed: dict[str, str]) -> bytes:
        """The same with a token in the key's place."""
        if not self._key:
            return self._block(fixed, "")
        try:
            made = token.make(self._key, now_ns)
        except ValueError:
            raise UpstreamError(self._upstream, "has a key of another form than this vendor's").known_as(
                Fault.AUTH
            ) from None
        self._secrets = [self._key, made]
        return self._block(fixed, made)

    def veiled(self, error: UpstreamError) -> UpstreamError:
        """The same error without the key in its words."""
        for secret in self._secrets:
            if secret in error.message:
                error.message = error.message.replace(secret, _VEIL)
                error.args = (error.message,)
        return error

    def _block(self, fixed: dict[str, str], secret: str) -> bytes:
        lines = {
            name.replace("_", "-"): value.replace("{key}", secret)
            for name, value in fixed.items()
            if secret or "{key}" not in value
        }
        try:
            return header_block(lines)
        except ValueError:  # UnicodeEncodeError is one
            raise UpstreamError(self._upstream, "has a key that no header can carry; see its variable").known_as(
                Fault.AUTH
            ) from None


class Signed:
    """Header lines with a token that is made anew when the last one is old, or the clock was set back."""

    def __init__(self, credential: Credential, fixed: dict[str, str], token: Token, clock: Clock) -> None:
        self._credential = credential
        self._fixed = fixed
        self._token = token
        self._clock = clock
        self._made_ns: int | None = None
        self._block = b""

    def block(self) -> bytes:
        """As `Credential.headers`."""
        now_ns = self._clock.now_ns()
        if self._made_ns is None or not 0 <= now_ns - self._made_ns < self._token.life_s * NS_PER_S:
            self._block = self._credential.signed(self._token, now_ns, self._fixed)
            self._made_ns = now_ns
        return self._block
