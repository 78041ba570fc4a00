"""Damage to the journals on the disk, below what was synced: it must be noticed, never booked around.

Each kind changes the files of one series while books are down, and takes it back after a while, as an operator would
from a copy. Until then books may refuse to serve; afterwards everything must be settled as if nothing had been.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.kernel.clock import NS_PER_MS
from steelyard.kernel.settled import Position
from steelyard.metering import lock
from steelyard.metering.frames import HEADER_BYTES, segment_path

if TYPE_CHECKING:
    from tests.simulator.simulation import Simulation

PAGE = 4096
DAMAGE = ("bit flip", "zeroed page", "torn middle", "missing segment", "duplicated segment")


def damage_a_journal(sim: "Simulation") -> None:
    """Books die, and a worker; what books have not read of its journal is damaged when they come back."""
    books, rng = sim.house.books, sim.world.random
    workers = [worker for worker in sim.house.workers if worker is not None and worker.open]
    if sim.damaged or books is None or books.books is None or books.process.dead or not workers:
        return
    worker = rng.choice(workers)
    tail = books.books._bookkeeper._tails.get(worker.teller.series)
    if tail is None:
        return
    books.process.kill("at a random moment")
    worker.process.kill("at a random moment")
    found = _spoil(sim, tail.directory, tail._marked)
    if found is None:
        return
    what, kept = found
    sim.damaged = True
    sim.world.note(f"the journal {tail.name} is damaged: {what}", f"journal damaged: {what}")

    def repair() -> None:
        sim.world.note(f"the journal {tail.name} is whole again", "journal repaired")
        sim.damaged = False
        for path, content in kept.items():
            if content is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(content)
                sim.house.medium.bytes[str(path)] = content

    sim.repair = repair
    sim.world.after(rng.random() * 500 * NS_PER_MS, sim.mend)


def _spoil(sim: "Simulation", directory: Path, mark: Position) -> tuple[str, dict[Path, bytes | None]] | None:
    """What was done, and the files as they were (None: they were not). None when there is nothing to spoil."""
    rng, end = sim.world.random, lock.synced(directory)
    start = max(mark, Position(mark.segment, HEADER_BYTES))
    if end <= start or not segment_path(directory, end.segment).exists():
        return None
    segment = rng.randrange(start.segment, end.segment + 1)
    path = segment_path(directory, segment)
    content = path.read_bytes()
    low = start.offset if segment == start.segment else HEADER_BYTES
    high = end.offset if segment == end.segment else len(content)
    if high <= low:
        return None
    at = rng.randrange(low, high)
    spoiled = bytearray(content)
    match rng.choice(DAMAGE):
        case "bit flip" as what:
            spoiled[at] ^= 1 << rng.randrange(8)
        case "zeroed page" as what:
            page = at - at % PAGE
            spoiled[page : page + PAGE] = bytes(len(spoiled[page : page + PAGE]))
        case "torn middle" as what:
            size = min(high - at, rng.randrange(1, 200))
            spoiled[at : at + size] = rng.randbytes(size)
        case "missing segment" as what:
            path.unlink()
            return what, {path: content}
        case _ as what:
            other = segment_path(directory, segment + 1)
            before = other.read_bytes() if other.exists() else None
            other.write_bytes(content)
            return what, {other: before}
    path.write_bytes(spoiled)
    return what, {path: content}
