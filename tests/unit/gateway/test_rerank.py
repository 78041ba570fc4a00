"""The dialect of /v1/rerank: every score is asked for, the best are shown, and every refusal names its field."""

import json
from typing import Any

import pytest
from msgspec import Raw

from steelyard.gateway.dialect import Asked
from steelyard.gateway.rerank_dialect import Rerank
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError
from steelyard.kernel.offers import Capability
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event

TEXTS = ["a", "b", "c"]
SCORES = (Raw(b"0.25"), Raw(b"-0.5"), Raw(b"0.25"))


def asked(**fields: Any) -> Asked:
    body = {"model": "m", "query": "Which?", "documents": TEXTS, **fields}
    return Rerank().read(json.dumps(body).encode(), {}, bytes(16), 0)


def answer(**fields: Any) -> Any:
    form = asked(**fields).form
    form.render(0, Event(usage=Usage(7), finish="stop", found=SCORES))
    return json.loads(form.closing(Usage(7)))


def test_an_order_has_texts_and_asks_for_all_scores() -> None:
    made = asked(documents=["a", {"text": "b", "title": "B"}], top_n=1, return_documents=True, max_tokens_per_doc=9)
    params = {name: json.loads(bytes(raw)) for name, raw in made.order.params.items()}
    assert params == {"query": "Which?", "documents": ["a", "b"], "max_tokens_per_doc": 9}
    assert made.unknown == ("max_tokens_per_doc",)
    order = made.order
    assert (order.capability, order.parts, order.max_tokens) == (Capability.RERANK, 3, 0)
    assert order.prompt_tokens_max >= 3 * len("Which?") + 2


def test_the_best_come_first_and_of_equals_the_earlier() -> None:
    body = answer()
    assert [one["index"] for one in body["results"]] == [0, 2, 1]
    assert body["results"][1] == {"index": 2, "relevance_score": 0.25, "document": {"text": "c"}}
    assert body["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert body["meta"]["tokens"] == {"input_tokens": 7, "output_tokens": 0}


@pytest.mark.parametrize(("top_n", "count"), [(None, 3), (2, 2), (9, 3)])
def test_no_more_than_were_asked_for(top_n: int | None, count: int) -> None:
    assert len(answer(top_n=top_n)["results"]) == count


def test_documents_are_left_out_if_nobody_wants_them() -> None:
    assert answer(return_documents=False)["results"][0] == {"index": 0, "relevance_score": 0.25}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": ""}, "query"),
        ({"query": ["a"]}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": "a"}, "documents"),
        ({"documents": ["a", ""]}, "documents[1]"),
        ({"documents": ["a", {"text": ""}]}, "documents[1]"),
        ({"documents": ["a"] * (limits.RERANK_DOCUMENTS_MAX + 1)}, "documents"),
        ({"top_n": 0}, "top_n"),
        ({"return_documents": "yes"}, "return_documents"),
    ],
)
def test_the_field_at_fault_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(CallerError) as caught:
        asked(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert param in caught.value.message
