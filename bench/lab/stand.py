"""Where measurements stand: the upstream, a platform of ours, whoever is measured; all started, and ended at the end.

Our worker can be had in variants; a peer that cannot be had is skipped with a loud line. Measures nothing itself.
"""

import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.lab import platform
from bench.lab.child import Child, free_port, mock, until_answered
from bench.lab.load import Load
from bench.lab.peers import Missing, Peer, Place
from bench.lab.platform import Platform
from bench.lab.trial import Subject
from bench.lab.weigh import Cores

OURS = {
    "steelyard": platform.WORKER,
    "steelyard, ASGI front": (*platform.VARIANT, "asgi"),
    "steelyard, accounting off": (*platform.VARIANT, "off"),
}
DIRECT = "no gateway"


class Stand:
    """Make it with `stand`."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self.cores = Cores.here()
        self.upstream = stack.enter_context(mock(self.cores, folder / "mock.log"))
        self.platform = Platform(folder / "data", self.upstream, self.cores)
        stack.callback(self.platform.stop)
        self.direct = Subject(DIRECT, 0, self.upstream)
        self.skipped: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self._workers = 0

    def ours(self, label: str = "steelyard", wrap: Sequence[str] = ()) -> Subject:
        """A worker of ours, `wrap` before its module. Raises SystemExit when it does not start."""
        launch = OURS[label]
        child, port = self._stack.enter_context(self.platform.worker(self._workers, (*wrap, *launch)))
        self._workers += 1
        key, books = self.platform.key, self.platform.books.pid
        started_s = until_answered(child, port, Load("127.0.0.1", port, 1, 0, key=key).request())
        beside = 0 if launch[-1] == "off" else books
        return Subject(label, child.pid, port, key, beside, self.platform.settled, started_s)

    def peer(self, peer: Peer) -> Subject | None:
        """None, loudly, when it cannot be had."""
        try:
            version = peer.version()
            folder = self.folder / peer.label.partition(" ")[0].strip(",")
            folder.mkdir()
            place = Place(free_port(), self.upstream, folder)
            command = peer.command(place)
            child = Child(command, self.cores.subject, folder / "log", peer.environment, says_ready=False)
            self._stack.callback(child.stop, 5)
            request = Load("127.0.0.1", place.port, 1, 0, key=peer.key).request()
            started_s = until_answered(child, place.port, request)
        except (Missing, SystemExit) as error:
            self.skip(peer.label, str(error))
            return None
        if version:
            self.versions[peer.label] = version
        return Subject(peer.label, child.pid, place.port, peer.key, started_s=started_s, slow=peer.slow)

    def skip(self, what: str, why: str) -> None:
        self.skipped[what] = why
        print(f"*** SKIPPED {what}: {why}", file=sys.stderr, flush=True)


@contextmanager
def stand() -> Iterator[Stand]:
    """In a folder that is gone afterwards. What was started ends with us, by a signal too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="bench-") as name, ExitStack() as stack:
        yield Stand(Path(name), stack)
