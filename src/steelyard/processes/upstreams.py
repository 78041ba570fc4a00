"""The upstreams of a worker by name, each with its own key, made when it is first asked.

Owns where a key comes from: what the worker was started with, the environment, the books (sealed, and opened here
only). Knows no dialect; the offer's kind says which adapter speaks.
"""

import os
from collections.abc import Mapping
from typing import Protocol

import structlog

from steelyard.kernel.errors import StartError, UpstreamError
from steelyard.kernel.records import Snapshot
from steelyard.upstream.kinds import ByKind
from steelyard.upstream.pool import Pool
from steelyard.upstream.protocol import Upstream
from steelyard.upstream.sealed import Master, key_variable

log = structlog.get_logger()


class Known(Protocol):
    """Who has the books' latest word: the teller's client."""

    @property
    def snapshot(self) -> Snapshot: ...


class Upstreams(dict[str, Upstream]):
    """Any name that has an offer is one. `keys` are those the worker itself was given; none is ever sent to another."""

    def __init__(self, pool: Pool, keys: Mapping[str, str], known: Known, master: Master, workers: int = 1) -> None:
        super().__init__()
        self._pool = pool
        self._keys = keys
        self._known = known
        self._master = master
        self._workers = workers
        self._sealed: dict[str, str] = {}

    def __getitem__(self, name: str) -> Upstream:
        """Raises UpstreamError when its key cannot be opened."""
        sealed = self._known.snapshot.credentials
        if sealed is not self._sealed:
            self._renew(sealed)
        return self.get(name) or self.__missing__(name)

    def __missing__(self, name: str) -> Upstream:
        upstream = self[name] = ByKind(name, self._pool, self._key(name), self._workers)
        return upstream

    def waiting(self, name: str) -> tuple[int, int] | None:
        """Who waits in this worker's line before that engine; see `EngineLine.waiting`."""
        made = self.get(name)
        return made.waiting if isinstance(made, ByKind) else None

    def _renew(self, sealed: dict[str, str]) -> None:
        """Forget those whose key is another now; what is being answered goes on with the one it has."""
        for name in list(self):
            if sealed.get(name) != self._sealed.get(name):
                del self[name]
        self._sealed = sealed

    def _key(self, name: str) -> str:
        given = self._keys.get(name) or os.environ.get(key_variable(name), "").strip()
        token = self._sealed.get(name)
        if given or token is None:
            return given
        try:
            return self._master.open(token)
        except StartError as error:
            log.error("credential_unreadable", upstream=name, reason=str(error))
            raise UpstreamError(name, f"has a key that {error}") from None
