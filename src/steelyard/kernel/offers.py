"""What is sold and where it can be served: models and their offers, as records."""

from enum import StrEnum

from steelyard.kernel.frozen import Record


class Capability(StrEnum):
    """What an offer can be asked for. A model that can write text is priced for it; the others only read."""

    TEXT = "text"  # chats and completions
    EMBEDDING = "embedding"  # a vector per input
    RERANK = "rerank"  # a score per document
    MODERATION = "moderation"  # a judgement per input


class Offer(Record, frozen=True, gc=False):
    """One model at one upstream."""

    id: int
    model: str
    upstream: str
    address: str  # host:port of the upstream's HTTP listener, or its URL; see kernel.address
    upstream_model: str  # the name the upstream knows
    context_tokens: int
    max_output_tokens: int
    kind: str = "llama_cpp"  # which adapter speaks to it, see upstream/kinds.py
    capabilities: tuple[Capability, ...] = (Capability.TEXT,)
    weight: int = 100  # the operator's: twice the weight is as good as half the score
    concurrency: int = 0  # calls at the same time, at most; 0: unbounded, like what follows
    rpm: int = 0  # calls a minute
    tpm: int = 0  # tokens a minute
    first_token_s: int = 0  # it is left for another that has said nothing by then; 0: limits.FIRST_TOKEN_S

    @property
    def answers_whole(self) -> bool:
        """Whether its adapter can ask for an answer in one piece: servers of OpenAI's dialect, ours perhaps."""
        return self.kind == "openai"

    @property
    def has_lanes(self) -> bool:
        """Whether lines of batches wait at it until nobody else does: an engine's line may, see scheduling."""
        return self.kind == "llama_cpp"

    @property
    def is_bounded(self) -> bool:
        return bool(self.concurrency or self.rpm or self.tpm)


class Model(Record, frozen=True, gc=False):
    """What a customer asks for by name."""

    id: int
    name: str
    created_ns: int
    default_max_tokens: int
    offers: tuple[Offer, ...]

    @property
    def capabilities(self) -> tuple[Capability, ...]:
        """What it can be asked for at one upstream or another."""
        return tuple(one for one in Capability if any(one in offer.capabilities for offer in self.offers))

    @property
    def writes_text(self) -> bool:
        return Capability.TEXT in self.capabilities
