"""openai-python's Responses through the public port to a server that does the worst real ones do."""

import re
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from tests.e2e.vendor import MODEL
from tests.emulators.openai_server import CACHED, PROMPT
from tests.platform import Platform, wait_for

pytestmark = pytest.mark.usefixtures("server")
REAL = "smollm2-135m-instruct"
TOOLS: list[Any] = [
    {"type": "function", "name": name, "parameters": {"type": "object", "properties": {}}, "strict": False}
    for name in ("weather", "time", "step")
]


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


def test_calls_reach_the_client_whole(client) -> None:
    with client.responses.stream(model=MODEL, input="scene: parallel", tools=TOOLS) as stream:
        streamed = stream.get_final_response()
    plain = client.responses.create(model=MODEL, input="scene: parallel", tools=TOOLS, store=False)
    for response in (streamed, plain):
        assert [(call.call_id, call.name, call.arguments) for call in response.output] == [
            ("call_a", "weather", '{"city":"Bern"}'),
            ("call_b", "time", '{"zone":"utc"}'),
        ]


def test_reasoning_refusals_and_filtered_answers(client) -> None:
    thought, said = client.responses.create(model=MODEL, input="scene: reasoning").output
    assert (thought.content[0].text, said.content[0].text) == ("Let me see.", "42")
    thought = client.responses.create(model=MODEL, input="scene: reasoning", reasoning={"summary": "auto"}).output[0]
    assert thought.summary[0].text == "Let me see."
    (said,) = client.responses.create(model=MODEL, input="scene: refusal").output
    assert said.content[0].refusal == "I cannot do that."
    filtered = client.responses.create(model=MODEL, input="scene: filtered")
    assert (filtered.status, filtered.incomplete_details.reason) == ("incomplete", "content_filter")


@pytest.mark.parametrize("name", ["cut", "error", "abort"])
def test_a_failure_amid_a_stream_is_visible_and_settles_at_what_was_delivered(client, receipt, name: str) -> None:
    stream, seen = None, []
    with pytest.raises((openai.APIError, openai.APIConnectionError)) as caught:
        stream = client.responses.create(model=MODEL, input=f"scene: {name}", stream=True)
        for event in stream:
            seen.append(event)
    assert "secret" not in str(caught.value)
    if stream is None:  # all of it came in one read, and nothing was sold
        return
    assert seen[-1].type == "response.failed" and seen[-1].response.status == "failed"
    found = receipt(stream.response.headers["x-request-id"])
    assert found["end"] == "upstream_error" and found["output_tokens"] > 0


def test_a_repeat_gets_the_same_response(client) -> None:
    for stream in (False, True):
        asked = {"model": MODEL, "input": "scene: hello", "extra_headers": {"Idempotency-Key": f"responses-{stream}"}}
        ids = []
        for _ in range(2):
            if stream:
                with client.responses.create(stream=True, **asked) as events:
                    ids += [event.response.id for event in events if event.type == "response.completed"]
            else:
                ids.append(client.responses.create(**asked).id)
        assert len(ids) == 2 and ids[0] == ids[1]
        assert client.responses.retrieve(ids[0]).output_text == "Hello"


class Capital(BaseModel):
    country: str
    city: str


def test_the_real_engine_keeps_to_a_schema_and_a_demanded_tool_and_stops_where_it_is_told(client, receipt) -> None:
    parsed = client.responses.parse(
        model=REAL, input="The capital of France.", text_format=Capital, max_output_tokens=200, temperature=0
    )
    if parsed.status == "completed":
        assert isinstance(parsed.output_parsed, Capital)
    called = client.responses.create(
        model=REAL,
        input="What time is it?",
        tools=TOOLS[1:2],
        tool_choice="required",
        max_output_tokens=100,
        temperature=0,
    )
    assert called.output[0].type == "function_call" and called.output[0].name == "time"
    with client.responses.stream(model=REAL, input="Count to a hundred.", max_output_tokens=5, temperature=0) as stream:
        events = [event.type for event in stream]
        assert events[-1] == "response.incomplete"
    cut = client.responses.create(model=REAL, input="Count to a hundred.", max_output_tokens=5, temperature=0)
    assert (cut.status, cut.incomplete_details.reason, cut.usage.output_tokens) == (
        "incomplete", "max_output_tokens", 5,
    )  # fmt: skip
    for response in (parsed, called, cut):
        found = receipt(response.id)
        assert (found["prompt_tokens"], found["output_tokens"], found["amount"]) == (
            response.usage.input_tokens,
            response.usage.output_tokens,
            response.usage.steelyard["charge"],
        )


def test_the_page_is_right(platform: Platform, client, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "responses.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    monkeypatch.setenv("STEELYARD_KEY", platform.api_key)
    exec(compile(example.replace(":8780", f":{platform.port}"), "responses.md", "exec"), {})
    assert "['message', 'message', 'message']" in capsys.readouterr().out


def test_no_log_tells_what_a_customer_said(client, platform: Platform) -> None:
    made = client.responses.create(
        model=MODEL, input="scene: hello xylophone-marzipan", instructions="xylophone-marzipan"
    )
    client.responses.create(model=MODEL, input="scene: hello", previous_response_id=made.id)
    client.responses.delete(made.id)
    with pytest.raises(openai.APIStatusError):
        client.responses.create(model=MODEL, input="scene: broken xylophone-marzipan")
    assert "xylophone-marzipan" not in platform.logs() + platform.text
    assert platform.run("verify")["ok"] is True
