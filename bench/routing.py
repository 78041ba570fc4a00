"""`make bench-routing`: how well prompts find the replica that holds their beginning, and how evenly work spreads.

The block-hash trace of kvcache-ai/Mooncake (FAST '25 release, Apache-2.0) is replayed over 16 replicas with a cache of
10,000 blocks each, which forget the least recently used first. No engine runs: a block is cached or it is computed.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.report import RUNS_MIN, Report
from steelyard.kernel.clock import NS_PER_MS
from steelyard.kernel.prefix import Prompt
from steelyard.routing.prefix import PrefixIndex

TRACE = Path(__file__).parents[2] / "shared" / "data" / "mooncake_synthetic_trace.jsonl"
REPLICAS = 16
BLOCKS = 10_000  # of one replica's cache
SEED = 5


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a trace: the hashes of its prompt's blocks, each over all before it."""

    at_ms: int
    chain: tuple[int, ...]

    @property
    def prompt(self) -> Prompt:
        return Prompt(self.chain, home=self.chain[0] + 1)


class Replica:
    """A cache and what was asked of it."""

    def __init__(self, blocks_max: int) -> None:
        self.cache: OrderedDict[int, None] = OrderedDict()
        self.blocks_max = blocks_max
        self.requests = self.blocks = self.hits = 0

    def cached(self, chain: Sequence[int]) -> int:
        return next((place for place, block in enumerate(chain) if block not in self.cache), len(chain))

    def serve(self, chain: Sequence[int]) -> None:
        self.requests += 1
        self.blocks += len(chain)
        self.hits += self.cached(chain)
        for block in reversed(chain):
            self.cache[block] = None
            self.cache.move_to_end(block)
        while len(self.cache) > self.blocks_max:
            self.cache.popitem(last=False)

    @property
    def computed(self) -> int:
        return self.blocks - self.hits


Policy = Callable[[Arrival, Sequence[Replica]], int]


def round_robin() -> Policy:
    return lambda _arrival, replicas: sum(replica.requests for replica in replicas) % len(replicas)


def at_random() -> Policy:
    dice = random.Random(SEED)
    return lambda _arrival, replicas: dice.randrange(len(replicas))


def least_loaded() -> Policy:
    """Fewest blocks so far."""
    return lambda _arrival, replicas: min(range(len(replicas)), key=lambda at: replicas[at].blocks)


def longest_prefix() -> Policy:
    """Most blocks of the prompt in the cache, whatever the load; where none has any, fewest blocks so far."""

    def policy(arrival: Arrival, replicas: Sequence[Replica]) -> int:
        return max(range(len(replicas)), key=lambda at: (replicas[at].cached(arrival.chain), -replicas[at].blocks))

    return policy


def indexed(workers: int = 1, blocks_max: int = BLOCKS) -> Policy:
    """Ours. With several workers, each has an index of its own and sees the requests that chance brings it."""
    dice = random.Random(SEED)
    indexes = [PrefixIndex(blocks_max) for _ in range(workers)]

    def policy(arrival: Arrival, replicas: Sequence[Replica]) -> int:
        index = dice.choice(indexes)
        prompt, now_ns = arrival.prompt, arrival.at_ms * NS_PER_MS
        chosen = index.choose(prompt, range(len(replicas)), now_ns)
        index.use(prompt, chosen, now_ns)
        return chosen

    return policy


def durations_us(trace: Sequence[Arrival]) -> tuple[list[float], list[float]]:
    """Of each choice among all replicas, and of noting the use, for one index alone."""
    index, offers = PrefixIndex(BLOCKS), range(REPLICAS)
    choices, uses = [], []
    for arrival in trace:
        prompt, now_ns = arrival.prompt, arrival.at_ms * NS_PER_MS
        started_ns = time.perf_counter_ns()
        chosen = index.choose(prompt, offers, now_ns)
        chosen_ns = time.perf_counter_ns()
        index.use(prompt, chosen, now_ns)
        uses.append((time.perf_counter_ns() - chosen_ns) / 1e3)
        choices.append((chosen_ns - started_ns) / 1e3)
    return choices, uses


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one replay. Skews are the greatest amount of a replica over the mean."""

    hit_rate: float
    blocks_skew: float  # cached and computed: what the replica was asked to read
    computed_skew: float
    requests_skew: float


def replay(trace: Sequence[Arrival], policy: Policy, replicas_count: int = REPLICAS, blocks: int = BLOCKS) -> Outcome:
    replicas = [Replica(blocks) for _ in range(replicas_count)]
    for arrival in trace:
        replicas[policy(arrival, replicas)].serve(arrival.chain)
    total = sum(replica.blocks for replica in replicas)
    return Outcome(
        sum(replica.hits for replica in replicas) / total,
        _skew([replica.blocks for replica in replicas]),
        _skew([replica.computed for replica in replicas]),
        _skew([replica.requests for replica in replicas]),
    )


def infinite(trace: Sequence[Arrival]) -> float:
    """The hit rate of one cache that never evicts: cached blocks over blocks."""
    return replay(trace, lambda _arrival, _replicas: 0, 1, sys.maxsize).hit_rate


def _skew(amounts: Sequence[int]) -> float:
    return max(amounts) / (sum(amounts) / len(amounts)) if any(amounts) else 1.0


def read(path: Path) -> list[Arrival]:
    """A trace in Mooncake's form: JSON lines with `timestamp` (ms) and `hash_ids`."""
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [Arrival(row["timestamp"], tuple(row["hash_ids"])) for row in rows if row["hash_ids"]]


def conversations(seed: int, requests: int, apps: int = 6) -> list[Arrival]:
    """A trace of our own: people talk to apps, whose prompts begin alike, in turns that grow; a few apps are hot."""
    dice = random.Random(seed)
    blocks = iter(range(1, sys.maxsize))
    starts = [tuple(next(blocks) for _ in range(dice.randrange(4, 30))) for _ in range(apps)]
    open_talks: list[tuple[int, ...]] = []
    trace: list[Arrival] = []
    at_ms = 0
    for _ in range(requests):
        at_ms += dice.randrange(500)
        if open_talks and dice.random() < 0.7:
            place = min(dice.randrange(len(open_talks)), dice.randrange(len(open_talks)))
            chain = open_talks.pop(place)
        else:
            chain = starts[min(dice.randrange(apps), dice.randrange(apps))]
        chain += tuple(next(blocks) for _ in range(dice.randrange(1, 12)))
        open_talks.insert(0, chain)
        del open_talks[200:]
        trace.append(Arrival(at_ms, chain))
    return trace


def policies() -> Iterator[tuple[str, Policy]]:
    yield "round robin", round_robin()
    yield "random", at_random()
    yield "least loaded", least_loaded()
    yield "longest prefix", longest_prefix()
    yield "prefix index", indexed()
    yield "prefix index, 2 workers", indexed(2)
    yield "prefix index, 4 workers", indexed(4)


def main() -> int:
    options = argparse.ArgumentParser(prog="make bench-routing", description=__doc__)
    options.add_argument("--trace", type=Path, default=TRACE, help=f"JSON lines; without it {TRACE}")
    path = options.parse_args().trace
    if not path.is_file():
        print(
            f"NOT MEASURED: there is no trace at {path}. Name one: python -m bench.routing --trace FILE.",
            file=sys.stderr,
        )
        return 0
    trace = read(path)
    report = Report("routing", "figure")
    whole = "hit rate, one infinite cache"
    report.add(whole, infinite(trace))
    for name, policy in policies():
        outcome = replay(trace, policy)
        report.add(f"hit rate, {name}", outcome.hit_rate, whole)
        report.add(f"{name}: skew of blocks", outcome.blocks_skew)
        report.add(f"{name}: skew of computed blocks", outcome.computed_skew)
        report.add(f"{name}: skew of requests", outcome.requests_skew)
    runs = [durations_us(trace) for _ in range(RUNS_MIN)]
    for label, many in (("choose among 16", [run[0] for run in runs]), ("note the use", [run[1] for run in runs])):
        cuts = [statistics.quantiles(one, n=100) for one in many]
        report.add(f"{label}, p50, µs", [cut[49] for cut in cuts])
        report.add(f"{label}, p99, µs", [cut[98] for cut in cuts])
    report.finish(trace=path.name, requests=len(trace), replicas=REPLICAS, blocks_per_replica=BLOCKS, seed=SEED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
