"""The dialect of /v1/moderations: what is judged, what is passed on, and how a refusal helps."""

import json
from typing import Any

import pytest
from msgspec import Raw

from steelyard.gateway.dialect import Asked
from steelyard.gateway.moderation_dialect import Moderations
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, unknown_model, wallet_empty
from steelyard.kernel.offers import Capability
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event

IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
TEXT = {"type": "text", "text": "Hi"}


def asked(**fields: Any) -> Asked:
    return Moderations().read(json.dumps({"input": "Hi", **fields}).encode(), {}, bytes(16), 0)


@pytest.mark.parametrize(("given", "sent"), [("Hi", ["Hi"]), (["a", "b"], ["a", "b"]), ([TEXT, IMAGE], [TEXT, IMAGE])])
def test_what_is_judged_is_passed_on(given: Any, sent: list[Any]) -> None:
    order = asked(input=given, model="judge").order
    assert json.loads(bytes(order.params["input"])) == sent
    assert (order.model, order.capability, order.parts) == ("judge", Capability.MODERATION, len(sent))
    assert (order.prompt_tokens_max > limits.PART_TOKENS_MAX) == (IMAGE in sent)


def test_without_a_model_the_dialects_own_is_meant() -> None:
    assert asked().order.model == "omni-moderation-latest"


def test_judgements_leave_as_they_came() -> None:
    form = asked(model="judge").form
    found = (Raw(b'{"flagged":true,"category_scores":{"violence":0.25}}'),)
    form.render(0, Event(usage=Usage(3), finish="stop", found=found))
    body = json.loads(form.closing(Usage(3)))
    assert body["results"] == [{"flagged": True, "category_scores": {"violence": 0.25}}]
    assert body["id"].startswith("modr-") and body["model"] == "judge"


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ("", "input"),
        ([], "input"),
        (["a", ""], "input[1]"),
        ([TEXT, "a"], "input"),
        ([{"type": "text", "text": ""}], "input"),
        ([{"type": "audio"}], "input"),
        (["a"] * (limits.MODERATION_INPUTS_MAX + 1), "input"),
        (5, "input"),
    ],
)
def test_the_field_at_fault_is_named(given: Any, param: str) -> None:
    with pytest.raises(CallerError) as caught:
        asked(input=given)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert param in caught.value.message


def test_a_refusal_says_how_a_judge_is_offered() -> None:
    status, _, body = Moderations().refusal(unknown_model("omni-moderation-latest"), bytes(16))
    assert status == 404
    assert "steelyard models offer NAME --for moderation" in json.loads(body)["error"]["message"]
    assert b"steelyard models offer" not in Moderations().refusal(wallet_empty(), bytes(16))[2]
