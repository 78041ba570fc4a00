"""The key a vendor gave us: how it is sent, and that it is never told on, not even when the vendor repeats it."""

from steelyard.kernel.errors import UpstreamError
from steelyard.upstream.http1 import header_block

_VEIL = "[key]"


class Credential:
    """The key of one upstream; empty: it wants none. Shows nothing of itself."""

    def __init__(self, upstream: str, key: str) -> None:
        self._upstream = upstream
        self._key = key

    def headers(self, **fixed: str) -> bytes:
        """A header block: `fixed` (`_` stands for `-`), in whose values `{key}` becomes the key; without a key such
        lines are left out. Raises UpstreamError for a key no header can carry."""
        lines = {
            name.replace("_", "-"): value.replace("{key}", self._key)
            for name, value in fixed.items()
            if self._key or "{key}" not in value
        }
        try:
            return header_block(lines)
        except ValueError:  # UnicodeEncodeError is one
            raise UpstreamError(self._upstream, "has a key that no header can carry; see its variable") from None

    def veiled(self, error: UpstreamError) -> UpstreamError:
        """The same error without the key in its words."""
        if self._key and self._key in error.message:
            error.message = error.message.replace(self._key, _VEIL)
            error.args = (error.message,)
        return error
