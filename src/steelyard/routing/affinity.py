"""What a worker's prompts have to do with the caches of offers: looked up before a choice, learnt from its answer.

Owns the index and the prompts on their way between the two. A request for a model with one offer costs nothing here.
"""

from collections import OrderedDict
from collections.abc import Sequence

from steelyard.kernel import limits
from steelyard.kernel.frozen import Record
from steelyard.kernel.offers import Offer
from steelyard.kernel.prefix import Prompt
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Caller, Order
from steelyard.routing.chain import prompt_of
from steelyard.routing.prefix import PrefixIndex, Use


class Likely(Record, frozen=True, gc=False):
    """What to expect of an offer."""

    hit: float = 0.0  # the share of the prompt that it will read from its cache: counts in what the request costs there
    strain: float = 0.0  # what speaks against it among offers that are equal otherwise; see PrefixIndex.strains


UNKNOWN = Likely()


class Affinity:
    """One per worker."""

    def __init__(self) -> None:
        self._index = PrefixIndex()
        self.prompts: OrderedDict[bytes, Prompt] = OrderedDict()  # by request, from the choice to the call

    def look(self, order: Order, caller: Caller, offers: Sequence[Offer], now_ns: int) -> list[Likely]:
        """What to expect of each of these offers. Where there is no choice, or nothing to go by, all are alike."""
        if len(offers) < 2:
            return [UNKNOWN] * len(offers)
        prompt = prompt_of(order, caller)
        if not prompt.chain and not prompt.session:
            return [UNKNOWN] * len(offers)
        self.prompts[order.request_id] = prompt
        if len(self.prompts) > limits.SLOTS_PER_WORKER:
            self.prompts.popitem(last=False)  # of one that was never called
        return self._likely(prompt, offers, now_ns)

    def expected(self, order: Order, caller: Caller, offers: Sequence[Offer], now_ns: int) -> list[Likely]:
        """The same for a request that is only thought of."""
        return self._likely(prompt_of(order, caller), offers, now_ns)

    def _likely(self, prompt: Prompt, offers: Sequence[Offer], now_ns: int) -> list[Likely]:
        index, ids = self._index, [offer.id for offer in offers]
        strains = index.strains(prompt, ids, now_ns)
        return [Likely(index.hit(prompt, offer_id), strain) for offer_id, strain in zip(ids, strains, strict=True)]

    def called(self, request_id: bytes, offer: Offer, now_ns: int) -> Use | None:
        """The request goes to this offer."""
        prompt = self.prompts.get(request_id)
        return None if prompt is None else self._index.use(prompt, offer.id, now_ns)

    def ended(self, request_id: bytes) -> None:
        """The request goes nowhere else."""
        self.prompts.pop(request_id, None)

    def answered(self, use: Use, usage: Usage) -> None:
        """The upstream's own counts of a whole answer."""
        if usage.prompt:
            self._index.learn(use, usage.cached_input / usage.prompt)
