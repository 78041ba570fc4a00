"""openai-python's Responses through the public port to a server that does the worst real ones do."""

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from tests.e2e.vendor import MODEL, sold
from tests.emulators.openai_server import CACHED, PROMPT, OpenAIServer
from tests.platform import Platform, wait_for

TOOLS: list[Any] = [
    {"type": "function", "name": name, "parameters": {"type": "object", "properties": {}}, "strict": False}
    for name in ("weather", "time", "step")
]


@pytest.fixture(scope="module")
def server(platform: Platform) -> Iterator[OpenAIServer]:
    with sold(platform) as running:
        yield running


@pytest.fixture
def client(platform: Platform, server: OpenAIServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{platform.url}/v1", api_key=platform.api_key, max_retries=0) as made:
        yield made


@pytest.fixture
def receipt(platform: Platform) -> Callable[[str], dict]:
    def posted(request_id: str) -> dict:
        def look() -> dict | None:
            found = platform.get(f"/v1/receipts/{request_id}", platform.api_key)
            return found if found["state"] == "posted" else None

        return wait_for(look, f"the posted receipt of {request_id}")

    return posted


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["hello", "usage_twice", "usage_everywhere", "usage_never", "comments", "reasoning"])
def test_what_is_shown_is_what_is_posted(client, receipt, name: str, stream: bool) -> None:
    if stream:
        with client.responses.stream(model=MODEL, input=f"scene: {name}") as seen:
            response = seen.get_final_response()
    else:
        raw = client.responses.with_raw_response.create(model=MODEL, input=f"scene: {name}")
        response = raw.parse()
        assert raw.headers["x-steelyard-charge"] == response.usage.steelyard["charge"]
        assert response.id == raw.headers["x-request-id"].replace("req_", "resp_")
    assert response.status == "completed" and response.output_text == ("42" if name == "reasoning" else "Hello")
    usage, found = response.usage, receipt(response.id)
    assert (found["prompt_tokens"], found["output_tokens"]) == (usage.input_tokens, usage.output_tokens)
    assert found["cached_tokens"] == usage.input_tokens_details.cached_tokens
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert found["amount"] == usage.steelyard["charge"]
    assert usage.steelyard.get("estimated", False) == (name == "usage_never")
    if name != "usage_never":
        assert (usage.input_tokens, usage.input_tokens_details.cached_tokens) == (PROMPT, CACHED)
    assert usage.output_tokens_details.reasoning_tokens == (6 if name == "reasoning" else 0)


def test_a_stored_response_is_read_listed_and_deleted(client) -> None:
    made = client.responses.create(model=MODEL, input="scene: hello", metadata={"a": "b"}, instructions="Be brief.")
    assert made.store
    found = client.responses.retrieve(made.id)
    assert found.to_dict() == made.to_dict()
    (item,) = client.responses.input_items.list(made.id).data
    assert (item.type, item.role, item.content[0].text) == ("message", "user", "scene: hello")
    with pytest.raises(openai.BadRequestError, match="ended"):
        client.responses.cancel(made.id)
    client.responses.delete(made.id)
    for again in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            again(made.id)


def test_a_conversation_goes_on_from_what_was_answered_just_before_at_either_worker(client, server) -> None:
    """Each turn through a connection of its own: the kernel spreads them over two workers."""
    previous = None
    for turn in range(12):
        asked = {"input": f"scene: hello {turn}", "previous_response_id": previous, "instructions": f"Turn {turn}."}
        with openai.OpenAI(base_url=client.base_url, api_key=client.api_key, max_retries=0) as fresh:
            previous = fresh.responses.create(model=MODEL, **asked).id
    turns = server.bodies[-1]["messages"]
    assert turns[0] == {"role": "system", "content": "Turn 11."}, "earlier instructions are not carried over"
    assert [turn["content"] for turn in turns[1::2]] == [f"scene: hello {turn}" for turn in range(12)]
    assert [turn["content"] for turn in turns[2::2]] == ["Hello"] * 11
    page = client.responses.input_items.list(previous, limit=5, order="asc")
    listed = [item.content[0].text for item in page]  # the client turns the pages
    assert listed == [text for turn in range(11) for text in (f"scene: hello {turn}", "Hello")] + ["scene: hello 11"]
    assert next(iter(client.responses.input_items.list(previous))).content[0].text == "scene: hello 11"


def test_a_tool_loop_by_previous_responses_adds_up(client, platform: Platform) -> None:
    mine = client.with_options(api_key=platform.new_customer("responses-looper", money="10"))
    sent: Any = "scene: loop 10"
    previous, charges, seen = None, [], 0
    while True:
        response = mine.responses.create(model=MODEL, input=sent, tools=TOOLS, previous_response_id=previous)
        previous, seen = response.id, seen + 1
        charges.append(response.usage.steelyard["charge"])
        calls = [item for item in response.output if item.type == "function_call"]
        if not calls:
            break
        sent = [{"type": "function_call_output", "call_id": call.call_id, "output": "done"} for call in calls]
    assert (seen, response.output_text) == (11, "Hello")
    spent_nano = sum(round(float(charge) * 10**9) for charge in charges)
    wallet = wait_for(
        lambda: (w := platform.wallet("responses-looper"))["held_nano"] == 0 and w, "the last hold to be given back"
    )
    assert wallet["balance_nano"] == 10 * 10**9 - spent_nano


def test_what_is_not_stored_or_belongs_to_others_is_unknown(client, platform: Platform) -> None:
    unkept = client.responses.create(model=MODEL, input="scene: hello", store=False)
    assert unkept.store is False
    kept = client.responses.create(model=MODEL, input="scene: hello")
    other = client.with_options(api_key=platform.new_customer("responses-stranger"))
    for asking, response_id in ((client, unkept.id), (other, kept.id), (client, "resp_nonsense"), (client, "../x")):
        with pytest.raises(openai.NotFoundError):
            asking.responses.retrieve(response_id)
        with pytest.raises(openai.BadRequestError) as caught:
            asking.responses.create(model=MODEL, input="scene: hello", previous_response_id=response_id)
        assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")
    with pytest.raises(openai.NotFoundError):
        other.responses.delete(kept.id)
    assert client.responses.retrieve(kept.id).id == kept.id


def test_items_may_be_referred_to(client, server) -> None:
    first = client.responses.create(model=MODEL, input="scene: parallel", tools=TOOLS)
    items: list[Any] = [{"role": "user", "content": "scene: hello"}]
    items += [{"type": "item_reference", "id": item.id} for item in first.output]
    items += [{"type": "function_call_output", "call_id": item.call_id, "output": "4"} for item in first.output]
    second = client.responses.create(model=MODEL, input=items, tools=TOOLS)
    _, assistant, *results = server.bodies[-1]["messages"]
    assert [call["id"] for call in assistant["tool_calls"]] == ["call_a", "call_b"]
    assert [turn["tool_call_id"] for turn in results] == ["call_a", "call_b"]
    listed = [item.type for item in client.responses.input_items.list(second.id, order="asc")]
    assert listed == ["message", "function_call", "function_call", "function_call_output", "function_call_output"]
    with pytest.raises(openai.NotFoundError, match="item"):
        client.responses.create(model=MODEL, input=[{"type": "item_reference", "id": "msg_nowhere"}])
