"""Which adapter speaks to an upstream: the offer says its kind. Knows no dialect itself."""

from collections.abc import Callable
from functools import partial

from msgspec import Raw

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.offers import Capability, Offer
from steelyard.kernel.records import Event
from steelyard.scheduling.wish import Turn
from steelyard.upstream.anthropic import Anthropic
from steelyard.upstream.ark import ARK
from steelyard.upstream.balance import Balance
from steelyard.upstream.dashscope import DASHSCOPE
from steelyard.upstream.dashscope_native import DashScopeNative
from steelyard.upstream.deepseek import DEEPSEEK
from steelyard.upstream.engine_line import EngineLine
from steelyard.upstream.gemini import GEMINI
from steelyard.upstream.llama_cpp import LlamaCpp
from steelyard.upstream.minimax import MINIMAX
from steelyard.upstream.moonshot import MOONSHOT
from steelyard.upstream.openai import OpenAI
from steelyard.upstream.openai_models import OPENAI
from steelyard.upstream.pool import Pool
from steelyard.upstream.protocol import Events, Upstream
from steelyard.upstream.stepfun import STEPFUN
from steelyard.upstream.zhipu import ZHIPU

ADAPTERS: dict[str, Callable[[str, Pool, str], Upstream]] = {
    "llama_cpp": LlamaCpp,
    "openai": partial(OpenAI, vendor=OPENAI),
    "anthropic": Anthropic,
    "ark": partial(OpenAI, vendor=ARK),
    "dashscope": partial(OpenAI, vendor=DASHSCOPE),
    "dashscope_native": DashScopeNative,
    "stepfun": partial(OpenAI, vendor=STEPFUN),
    "gemini": partial(OpenAI, vendor=GEMINI),
    "deepseek": partial(OpenAI, vendor=DEEPSEEK),
    "zhipu": partial(OpenAI, vendor=ZHIPU),
    "moonshot": partial(OpenAI, vendor=MOONSHOT),
    "minimax": partial(OpenAI, vendor=MINIMAX),
}
"""Kind → adapter. `catalog` knows the same kinds by name."""


class ByKind:
    """An upstream whose adapter is chosen by the kind in the offer; each is made once."""

    def __init__(self, name: str, pool: Pool, api_key: str, workers: int = 1) -> None:
        self._name = name
        self._pool = pool
        self._workers = workers
        self._line: EngineLine | None = None
        self._api_key = api_key
        self._made: dict[str, Upstream] = {}

    @property
    def name(self) -> str:
        return self._name

    def stream(
        self, offer: Offer, params: dict[str, Raw], max_tokens: int, request_id: bytes, whole: bool = False
    ) -> Events:
        try:
            adapter = self._made[offer.kind]
        except KeyError:
            adapter = self._adapter(offer.kind)
        return adapter.stream(offer, params, max_tokens, request_id, whole)

    async def read(self, offer: Offer, capability: Capability, params: dict[str, Raw]) -> Event:
        return await self._adapter(offer.kind).read(offer, capability, params)

    async def count(self, offer: Offer, params: dict[str, Raw]) -> int | None:
        return await self._adapter(offer.kind).count(offer, params)

    async def ready(self, offer: Offer) -> bool:
        return await self._adapter(offer.kind).ready(offer)

    async def balance(self, offer: Offer) -> tuple[Balance, ...] | None:
        """What is left of our money there, one for each currency; None where a vendor cannot be asked. Raises
        UpstreamError as `stream` does."""
        adapter = self._adapter(offer.kind)
        return await adapter.balance(offer) if isinstance(adapter, OpenAI) else None

    @property
    def waiting(self) -> tuple[int, int] | None:
        """See `EngineLine.waiting`; None as well where there is no such line."""
        return self._line.waiting if self._line is not None else None

    def in_turn(self, offer: Offer, turn: Turn) -> Upstream:
        """The same for an order that stands in the line of its engine; where there is none, it begins at once."""
        if self._line is None:
            adapter = self._adapter(offer.kind)
            if not isinstance(adapter, LlamaCpp):
                turn.begins()
                return self
            self._line = EngineLine(adapter, self._workers)
        return self._line.in_turn(turn)

    def _adapter(self, kind: str) -> Upstream:
        adapter = self._made.get(kind)
        if adapter is None:
            if kind not in ADAPTERS:  # registered by a newer version
                raise UpstreamError(self._name, f"is of the kind {kind!r}, which this worker does not know")
            adapter = self._made[kind] = ADAPTERS[kind](self._name, self._pool, self._api_key)
        return adapter
