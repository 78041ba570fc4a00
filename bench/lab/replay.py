"""The ladder's workloads, and one way to put them to a server: many connections, each with one question at a time.

Deterministic: the same conversations in every run. Knows no server but its address.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

REQUESTS, DISTINCT, OUTPUT_TOKENS = 200, 120, 32
TEXT_TOKENS = 24
"""Of the answers that are compared."""
_TRIES = 120
Conversation = list[dict[str, str]]

_RULES = (
    "Answer in plain English and do not repeat the question.",
    "Name the unit of every figure, and say when a figure is a guess.",
    "A customer who asks for a price is told the price of today and where it is written.",
    "Goods are weighed before they are priced, and the weight is said first.",
    "When the balance is not level, say so and weigh again.",
    "Never promise a delivery on a day when the harbour is closed.",
    "If two rules disagree, follow the one that protects the customer.",
    "What is not known is not invented; say what would have to be looked up.",
)
SYSTEM = "You are the clerk of a weighing house by the sea. " + " ".join(
    f"Rule {number}: {_RULES[number % len(_RULES)]}" for number in range(1, 33)
)
"""About 640 tokens of the built-in model; the figure counted is on the record."""
_THINGS = ("salt", "tea", "copper", "rope", "barley", "wool", "indigo", "pepper", "timber", "glass", "coal", "honey")
_ASKED = (
    "Explain in detail how {} is weighed at a harbour.",
    "Write a long story about a merchant who sells {}.",
    "Describe the history of the trade with {} step by step.",
    "List everything that can go wrong when {} is shipped, with reasons.",
    "Give a careful account of how the price of {} is found.",
    "Compare {} with three other goods and say which is worth more.",
    "Tell a child what {} is and where it comes from.",
    "Write a letter to a customer whose {} has come late.",
    "Explain which tools a clerk needs to weigh {}.",
    "Describe a ship that carries {} through a storm.",
    "Write instructions for storing {} through a wet winter.",
    "Argue for and against buying {} today.",
    "Describe the smell, the colour and the weight of {}.",
    "Explain how {} is packed, marked and counted.",
    "Write down the questions one should ask before buying {}.",
    "Tell the story of a thief who stole {} from the quay.",
    "Explain how a tax on {} would be collected.",
)
QUESTIONS = [asked.format(thing) for asked in _ASKED for thing in _THINGS]
TEXTS: list[Conversation] = [
    [{"role": "user", "content": text}]
    for text in (
        "What is the capital of France?", "Why is the sky blue?", "Name three fruits.", "What is a steelyard?",
        "Write a sentence about the sea.", "How many days has a week?", "What is the opposite of heavy?",
        "Explain gravity to a child.", "Who wrote Hamlet?", "What do bees make?",
        "Translate 'good morning' into French.", "What is water made of?",
    )
]  # fmt: skip


_SENTENCES = (
    "The old miller counts his sacks of {} by the river every evening before the bell rings.",
    "The price of {} is four coins per sack, and five coins per sack when the harbour is closed.",
)
REPEATING: list[Conversation] = [
    [
        {
            "role": "user",
            "content": "Repeat this text exactly, word for word: " + " ".join(_SENTENCES).format(thing, thing),
        }
    ]
    for thing in _THINGS
]
"""Asked one after the other: answers that are in their prompts."""


def conversation(number: int, *, shared: bool = True) -> Conversation:
    """Question `number` under the one system prompt, or under one that begins differently for each."""
    system = SYSTEM if shared else f"Case {number:04d}. {SYSTEM}"
    return [{"role": "system", "content": system}, {"role": "user", "content": QUESTIONS[number]}]


def replay(*, repeats: bool, shared: bool = True, requests: int = REQUESTS) -> list[Conversation]:
    """200 questions; with `repeats` the last 80 are the first 80 again."""
    distinct = DISTINCT if repeats else requests
    return [conversation(number % distinct, shared=shared) for number in range(requests)]


class Done(NamedTuple):
    wall_s: float
    tokens: int
    prompt_tokens: int  # of the first
    cached_tokens: int
    texts: list[str]


async def _ask(port: int, key: str, body: bytes, header: str) -> dict[str, Any]:
    """One who is told that the line is full comes again a second later, as clients do."""
    said, rest = b"", b""
    for _ in range(_TRIES):
        said, rest = await _answered(port, key, body, header)
        if b" 429 " not in said.splitlines()[0]:
            break
        await asyncio.sleep(1)
    if b" 200 " not in said.splitlines()[0]:
        raise SystemExit(f"{said.splitlines()[0]!r}: {rest[:300]!r}")
    if b"chunked" in said.lower():
        rest = rest[rest.index(b"{") : rest.rindex(b"}") + 1]
    answer: dict[str, Any] = json.loads(rest)
    return answer


async def _answered(port: int, key: str, body: bytes, header: str) -> tuple[bytes, bytes]:
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n{header}"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    try:
        writer.write(head.encode() + body)
        said, _, rest = (await reader.read(-1)).partition(b"\r\n\r\n")
    finally:
        writer.close()
    return said, rest


def put(
    port: int,
    key: str,
    model: str,
    asked: Sequence[Conversation],
    at_once: int,
    max_tokens: int,
    header: str = "",
    *,
    exactly: bool = False,
) -> Done:
    """Ask all of them, at most so many at once; greedy. `exactly`: as long as they may be. Raises SystemExit for any
    answer that is not 200."""

    async def run() -> list[dict[str, Any]]:
        turn = asyncio.Semaphore(at_once)

        async def one(messages: Conversation) -> dict[str, Any]:
            body = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0}
            body |= {"ignore_eos": True} if exactly else {}
            async with turn:
                return await _ask(port, key, json.dumps(body).encode(), header)

        return await asyncio.gather(*map(one, asked))

    began = time.perf_counter()
    answers = asyncio.run(run())
    wall_s = time.perf_counter() - began
    usage = [answer["usage"] for answer in answers]
    cached = [(one.get("prompt_tokens_details") or {}).get("cached_tokens", 0) for one in usage]
    texts = [answer["choices"][0]["message"]["content"] for answer in answers]
    return Done(wall_s, sum(one["completion_tokens"] for one in usage), usage[0]["prompt_tokens"], sum(cached), texts)
