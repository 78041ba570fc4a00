"""Which offer is likely to hold the beginning of a prompt in its cache, and whose turn it is among equal ones.

A prompt is a chain of block hashes, each over all before it (see `kernel.prefix`). For every offer the index keeps the
blocks it was sent lately, as the upstream's own cache does. Pure and bounded: no I/O, no dice, and the time is an
argument. Knows no prices; it is a worker's guess, and what upstreams report corrects it.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.frozen import Record
from steelyard.kernel.prefix import Prompt, reached

_HALF_LIFE_NS = limits.PREFIX_HALF_LIFE_S * NS_PER_S
_FAITH_FADES = 0.9  # by each report: what an upstream said 20 answers ago counts an eighth
_BORNE_OUT = 0.5  # of what was expected: less is a miss, more is the upstream's rounding


class Use(Record, frozen=True, gc=False):
    """A prompt on its way to an offer: what is needed to learn from the answer."""

    offer_id: int
    held: float  # the share of the prompt expected in the offer's cache
    last_used: int  # before this: which use of the offer had the first block


class _Cache:
    """What is believed of one offer. Two plain dicts: an OrderedDict is walked by every full garbage collection."""

    __slots__ = ("computed", "expected", "old", "read", "reported", "requests", "uses", "young")

    def __init__(self) -> None:
        self.young: dict[int, int] = {}  # block → the use that had it last
        self.old: dict[int, int] = {}  # what was young before; goes when young has become half the cache
        self.uses = 0
        self.requests = self.read = self.computed = 0.0  # requests, their lengths, without hits; fading
        self.expected = self.reported = 1.0  # cached shares of prompts, fading; their ratio is the faith in the index

    @property
    def kept(self) -> int:
        return len(self.young) + len(self.old)

    @property
    def faith(self) -> float:
        return min(1.0, self.reported / self.expected)

    def held(self, chain: Sequence[int]) -> int:
        """How many blocks at the beginning of the chain it has."""
        return reached(chain, self.young, self.old)


_EMPTY = _Cache()


class PrefixIndex:
    """The caches of offers, at most `blocks_max` blocks each and `limits.PREFIX_BLOCKS_MAX` together.

    A block takes about 100 bytes, all of them 16 MB in each worker.
    """

    def __init__(self, blocks_max: int = limits.PREFIX_BLOCKS_PER_OFFER_MAX) -> None:
        self._young_max = max(1, min(blocks_max, limits.PREFIX_BLOCKS_MAX) // 2)
        self._caches: OrderedDict[int, _Cache] = OrderedDict()  # least recently used offer first
        self._sessions: OrderedDict[int, int] = OrderedDict()  # → the offer of its last request
        self._faded_ns = 0
        self.blocks = 0  # kept, over all offers

    def hit(self, prompt: Prompt, offer_id: int) -> float:
        """The share of the prompt that the offer is expected to read from its cache, as far as its reports bear out."""
        cache = self._caches.get(offer_id, _EMPTY)
        held = cache.held(prompt.chain)
        return prompt.reach(held) / prompt.size * cache.faith if held else 0.0

    def strains(self, prompt: Prompt, offer_ids: Sequence[int], now_ns: int) -> list[float]:
        """What speaks against each of several equal offers: the share of the prompt it has to compute, and its excess.

        The excess is what the offer would have done beyond its share with this prompt, in requests, over
        `limits.PREFIX_EXCESS_REQUESTS`, squared: a small one costs nearly nothing, so that conversations stay; at the
        bound it costs as much as a whole prompt, so that a hot prefix spreads. Of requests, their length and the length
        that was computed, the worst counts.
        """
        self._fade(now_ns)
        caches = [self._caches.get(offer_id, _EMPTY) for offer_id in offer_ids]
        size = prompt.size
        requests = sum([cache.requests for cache in caches]) or 1.0
        read = sum([cache.read for cache in caches]) or 1.0
        computed = sum([cache.computed for cache in caches]) or 1.0
        unit = requests / limits.PREFIX_EXCESS_REQUESTS / len(caches)
        per_request, per_read, per_computed = (len(caches) / total for total in (requests, read, computed))
        strains = []
        for share, cache in zip(self._likely(prompt, offer_ids, caches), caches, strict=True):
            new = 1 - share
            worst = (cache.requests + 1) * per_request
            if (ratio := (cache.read + size) * per_read) > worst:
                worst = ratio
            if (ratio := (cache.computed + size * new) * per_computed) > worst:
                worst = ratio
            strains.append(new + ((worst - 1) * unit) ** 2 if worst > 1 else new)
        return strains

    def choose(self, prompt: Prompt, offer_ids: Sequence[int], now_ns: int) -> int:
        """The offer among equal ones that the prompt should go to; of those that are equal in this too, the first."""
        strains = self.strains(prompt, offer_ids, now_ns)
        return offer_ids[strains.index(min(strains))]

    def use(self, prompt: Prompt, offer_id: int, now_ns: int) -> Use:
        """Note that the prompt goes to the offer."""
        self._fade(now_ns)
        cache = self._caches.get(offer_id) or self._caches.setdefault(offer_id, _Cache())
        self._caches.move_to_end(offer_id)
        chain, size = prompt.chain, prompt.size
        held = cache.held(chain)
        reach = prompt.reach(held)
        last_used = (cache.young.get(chain[0]) or cache.old[chain[0]]) if held else 0
        cache.uses += 1
        self.blocks -= len(cache.young)
        cache.young.update(dict.fromkeys(chain, cache.uses))
        self.blocks += len(cache.young)
        cache.requests += 1
        cache.read += size
        cache.computed += size - reach
        if prompt.session:
            self._sessions[prompt.session] = offer_id
            self._sessions.move_to_end(prompt.session)
        self._bound(cache)
        return Use(offer_id, reach / size, last_used)

    def learn(self, use: Use, cached: float) -> None:
        """Take the upstream's word for `cached`, the share of the prompt that it read from its cache.

        Where much less came than was expected, what had not been used for longer has gone before it: caches evict the
        oldest first, and one that was restarted has nothing. The prompt itself is there now. An upstream that never
        says a word of its cache is not believed to have one, and nothing more is forgotten for it.
        """
        cache = self._caches.get(use.offer_id)
        if cache is None or not use.held:
            return
        found = min(cached, use.held)
        cache.expected = cache.expected * _FAITH_FADES + use.held
        cache.reported = cache.reported * _FAITH_FADES + found
        if found < use.held * _BORNE_OUT and cache.faith > _BORNE_OUT:
            self.blocks -= cache.kept
            cache.old = {}
            cache.young = {block: at for block, at in cache.young.items() if at > use.last_used}
            self.blocks += cache.kept

    def forget(self, offer_ids: Iterable[int]) -> None:
        """Drop what is believed of offers that are gone."""
        for offer_id in offer_ids:
            self.blocks -= self._caches.pop(offer_id, _EMPTY).kept

    def _likely(self, prompt: Prompt, offer_ids: Sequence[int], caches: Sequence[_Cache]) -> list[float]:
        """The share of the prompt that is expected in each cache, or in the one that other workers may have filled."""
        chain, size = prompt.chain, prompt.size
        shares = [prompt.reach(cache.held(chain)) / size for cache in caches]
        if any(shares):
            return shares
        at = self._sessions.get(prompt.session) if prompt.session else None
        if at in offer_ids:
            return [float(offer_id == at) for offer_id in offer_ids]
        if key := prompt.session or prompt.home:
            shares[_home(key, offer_ids)] = limits.PREFIX_HOME_SHARE
        return shares

    def _fade(self, now_ns: int) -> None:
        """Let work count half as much after a half-life. Done once a second at most."""
        passed_ns = now_ns - self._faded_ns
        if passed_ns < NS_PER_S:
            return
        factor = 0.5 ** (passed_ns / _HALF_LIFE_NS)
        self._faded_ns = now_ns
        for cache in self._caches.values():
            cache.requests *= factor
            cache.read *= factor
            cache.computed *= factor

    def _bound(self, cache: _Cache) -> None:
        """Keep the bounds: the offer's oldest blocks go, and those of the offers that were used longest ago."""
        if len(cache.young) > self._young_max:
            self.blocks -= len(cache.old)
            cache.old, cache.young = cache.young, {}
        while self.blocks > limits.PREFIX_BLOCKS_MAX or len(self._caches) > limits.PREFIX_OFFERS_MAX:
            self.forget([next(iter(self._caches))])
        if len(self._sessions) > limits.PREFIX_SESSIONS_MAX:
            self._sessions.popitem(last=False)


def _home(key: int, offer_ids: Sequence[int]) -> int:
    """The place in `offer_ids` where every worker expects what begins like this (rendezvous hashing).

    An offer that comes or goes moves its own share only.
    """
    weights = [hash((key, offer_id)) for offer_id in offer_ids]  # of integers: not salted by the process
    return weights.index(max(weights))
