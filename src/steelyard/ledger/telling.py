"""A snapshot on its way to the workers: cut into pieces by the books, put together again by each worker.

Owns how it is cut: a worker reads a piece in well under a millisecond, and serves others between two of them. The keys
do not travel; who is told where their table lies.
"""

from collections.abc import Iterable, Iterator, Mapping

from steelyard.kernel import limits
from steelyard.kernel.offers import Model
from steelyard.kernel.records import Callers, Snapshot
from steelyard.kernel.tariff import Tariff
from steelyard.ledger import wire

_AT_ONCE = limits.SNAPSHOT_PART_ENTRIES


def frames_of(snapshot: Snapshot, keys: str) -> bytes:
    """All the notices that tell a snapshot, to be sent to any number of workers."""
    pieces = [wire.frame(wire.NOTICE, "part", part) for part in _parts(snapshot)]
    head = wire.Head(
        snapshot.version, keys, snapshot.operator_names, snapshot.credentials, snapshot.rates, snapshot.routes
    )
    return b"".join((*pieces, wire.frame(wire.NOTICE, "snapshot", head)))


def _parts(snapshot: Snapshot) -> Iterator[wire.Part]:
    models = list(snapshot.models.values())
    for at in range(0, len(models), _AT_ONCE):
        yield wire.Part(models=tuple(models[at : at + _AT_ONCE]))
    for some in _pieces(snapshot.prices):
        yield wire.Part(prices=some)
    for some in _pieces(snapshot.costs):
        yield wire.Part(costs=some)


def _pieces(book: Mapping[str, tuple[Tariff, ...]]) -> Iterator[tuple[tuple[str, tuple[Tariff, ...]], ...]]:
    """Subjects with some of their tariffs, in order, so many tariffs in one piece."""
    piece: list[tuple[str, tuple[Tariff, ...]]] = []
    room = _AT_ONCE
    for subject, tariffs in book.items():
        left = tariffs
        while left:
            piece.append((subject, left[:room]))
            left, room = left[room:], room - len(left[:room])
            if not room:
                yield tuple(piece)
                piece, room = [], _AT_ONCE
    if piece:
        yield tuple(piece)


class Gathering:
    """A worker's end: what has come of the next snapshot. A new one for each connection."""

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}
        self._prices: dict[str, tuple[Tariff, ...]] = {}
        self._costs: dict[str, tuple[Tariff, ...]] = {}

    def take(self, part: wire.Part) -> None:
        for model in part.models:
            self._models[model.name] = model
        _add(self._prices, part.prices)
        _add(self._costs, part.costs)

    def whole(self, head: wire.Head, callers: Callers) -> Snapshot:
        """The snapshot of all that has come; the next one begins."""
        models, prices, costs = self._models, self._prices, self._costs
        self._models, self._prices, self._costs = {}, {}, {}
        return Snapshot(
            head.version,
            callers,
            frozenset(head.operator_names),
            models,
            prices,
            costs,
            head.operator_names,
            head.credentials,
            head.rates,
            head.routes,
        )


def _add(book: dict[str, tuple[Tariff, ...]], some: Iterable[tuple[str, tuple[Tariff, ...]]]) -> None:
    for subject, tariffs in some:
        book[subject] = book.get(subject, ()) + tariffs
