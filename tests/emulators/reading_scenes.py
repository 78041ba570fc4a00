"""What the scripted server answers at /v1/embeddings, /v1/rerank and /v1/moderations, real servers' variants included.

`scene: NAME` in the first input (the query of a rerank) chooses; any other text is answered plainly. A text counts as
many tokens as it has words, and a vector is made from its letters: similar texts are no nearer, equal ones are equal.
"""

import base64
import struct
from collections.abc import Callable
from typing import Any

Body = dict[str, Any]
DIMENSIONS = 4
REFUSED, BUSY = "refused", "busy"


def vector(text: Any) -> list[float]:
    letters = text.encode() if isinstance(text, str) else bytes(number % 256 for number in text)
    return [sum(letters[place::DIMENSIONS]) / 1024 for place in range(DIMENSIONS)]


def words(part: Any) -> int:
    return len(part.split()) if isinstance(part, str) else len(part) if isinstance(part, list) else 5


def _embeddings(body: Body) -> Body:
    data = [{"object": "embedding", "index": i, "embedding": vector(text)} for i, text in enumerate(body["input"])]
    tokens = sum(map(words, body["input"]))
    return {"object": "list", "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def _rerank(body: Body) -> Body:
    """As vLLM: best first, the query counted with every document."""
    scores = [len(set(body["query"].split()) & set(text.split())) / 10 for text in body["documents"]]
    ranked = sorted(range(len(scores)), key=lambda place: -scores[place])
    tokens = sum(words(body["query"]) + words(text) for text in body["documents"])
    results = [{"index": i, "relevance_score": scores[i], "document": {"text": "theirs"}} for i in ranked]
    return {"results": results, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def _moderations(body: Body) -> Body:
    """As OpenAI: without any usage, and one result for a list of parts."""
    texts = body["input"] if isinstance(body["input"][0], str) else [str(body["input"])]
    results = [
        {"flagged": "bad" in text, "categories": {"violence": "bad" in text}, "category_scores": {"violence": 0.5}}
        for text in texts
    ]
    return {"id": "modr-theirs", "model": "their-m", "results": results}


def _in_base64(answer: Body) -> Body:
    for one in answer["data"]:
        one["embedding"] = base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *one["embedding"])).decode()
    return answer


SCENES: dict[str, Callable[[Body], Body]] = {
    "usage_never": lambda answer: answer | {"usage": None},
    "usage_total": lambda answer: answer | {"usage": {"total_tokens": 7}},
    "usage_meta": lambda answer: answer | {"usage": None, "meta": {"tokens": {"input_tokens": 8, "output_tokens": 0}}},
    "base64": _in_base64,
    "backwards": lambda answer: answer | {"data": answer["data"][::-1]},
    "one_missing": lambda answer: answer | {"data": answer["data"][:-1]},
    "best_only": lambda answer: answer | {"results": answer["results"][:1]},
    "nan": lambda answer: answer | {"data": [one | {"embedding": [0.5, None]} for one in answer["data"]]},
    "nothing": lambda answer: {},
}
_PLACES: dict[str, Callable[[Body], Body]] = {
    "/v1/embeddings": _embeddings,
    "/v1/rerank": _rerank,
    "/v1/moderations": _moderations,
}


def answer_to(path: str, body: Body) -> tuple[int, Body] | None:
    """Status and body; None at any other place."""
    if path not in _PLACES:
        return None
    first = body["query"] if "query" in body else body["input"][0]
    scene = first.partition("scene: ")[2] if isinstance(first, str) else ""
    if scene in (REFUSED, BUSY):
        return (400 if scene == REFUSED else 429), {"error": {"message": f"{scene} it is", "type": "x"}}
    answer = _PLACES[path](body)
    return 200, SCENES[scene](answer) if scene in SCENES else answer
