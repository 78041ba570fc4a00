"""What an engine of ours says while it answers, in llama.cpp's dialect: chunks with counts after every read.

The adapter of llama.cpp reads it (`upstream/llama_answer.py`), so both engines are metered by the same words: `timings`
tells {cache_n, prompt_n, predicted_n} in every chunk, cumulative for the sequence. Pure.
"""

from typing import Any

import msgspec

from steelyard.engines.asked import Refused

DONE = b"data: [DONE]\n\n"
ALIVE = b":\n\n"
_encode = msgspec.json.encode


class Counts(msgspec.Struct):
    """Tokens of one sequence so far. `cached` is our own account where the engine keeps none (engines/blocks.py)."""

    prompt: int
    cached: int = 0
    generated: int = 0


class TokenSaid(msgspec.Struct, frozen=True):
    """A token with its log probability."""

    token: bytes
    logprob: float
    greedy: bool


def chunk(counts: Counts, text: str, tokens: list[TokenSaid], finish: str | None, *, chat: bool) -> bytes:
    """One event of the stream."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
    choice |= {"delta": {"content": text} if text else {}} if chat else {"text": text}
    if tokens:
        choice["logprobs"] = {"content": [_token(one) for one in tokens]}
    return _event({"choices": [choice], "timings": _timings(counts)})


def closing(counts: Counts, stop: str | None) -> bytes:
    """The last events: the usage, which stop text it was, and the end."""
    usage = {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.generated,
        "prompt_tokens_details": {"cached_tokens": counts.cached},
    }
    told: dict[str, Any] = {"choices": [], "usage": usage, "timings": _timings(counts)}
    if stop is not None:
        told["__verbose"] = {"stopping_word": stop}
    return _event(told) + DONE


def rests(now: bool) -> bytes:
    """It makes way for others from here on, or goes on: whose time is counted must know."""
    return _event({"choices": [], "rests": now})


def failed(message: str) -> bytes:
    """An error inside a stream that has begun."""
    return _event({"error": {"message": message, "type": "server_error", "code": 500}})


def refusal(refused: Refused, status: int) -> bytes:
    """The body of an answer that is none."""
    return _encode({"error": {"message": refused.message, "type": refused.kind, "code": status, **refused.more}})


def _event(said: dict[str, Any]) -> bytes:
    return b"data: " + _encode(said) + b"\n\n"


def _timings(counts: Counts) -> dict[str, int]:
    return {"cache_n": counts.cached, "prompt_n": counts.prompt - counts.cached, "predicted_n": counts.generated}


def _token(said: TokenSaid) -> dict[str, Any]:
    one = {
        "token": said.token.decode(errors="replace"),
        "logprob": said.logprob,
        "bytes": list(said.token),
    }
    return {**one, "top_logprobs": [one] if said.greedy else []}
