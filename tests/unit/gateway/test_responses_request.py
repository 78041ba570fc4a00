"""From a Responses request to the canonical order: items, tools, shapes, and what is refused by name."""

import json
from typing import Any

import msgspec
import pytest

from steelyard.gateway.responses_items import Item
from steelyard.gateway.responses_kept import asked_in, kept_input, response_of
from steelyard.gateway.responses_request import Earlier, ResponsesOrder, order_of, read_responses
from steelyard.gateway.responses_seal import sealed
from steelyard.kernel.errors import CallerError
from steelyard.kernel.stored import StoredResponse

TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "4"}


def parsed(earlier: Earlier | None = None, **fields: Any) -> ResponsesOrder:
    body = json.dumps({"model": "m", "input": "Hello", **fields}).encode()
    return order_of(read_responses(body), bytes(16), earlier)


def param(order: ResponsesOrder, name: str) -> Any:
    return json.loads(bytes(order.order.params[name]))


def turns(*items: Any, **fields: Any) -> Any:
    return param(parsed(input=list(items), **fields), "messages")


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def part(**fields: Any) -> dict[str, Any]:
    """A request whose input is one user's turn with one part."""
    return {"input": [{"role": "user", "content": [fields]}]}


def refused(**fields: Any) -> CallerError:
    with pytest.raises(CallerError) as caught:
        parsed(**fields)
    assert caught.value.status == 400
    assert caught.value.message.endswith((".", "?"))
    return caught.value


def test_a_text_with_instructions() -> None:
    order = parsed(instructions="Be brief.", max_output_tokens=7, stream=True, temperature=0.5, top_k=3)
    assert param(order, "messages") == [{"role": "system", "content": "Be brief."}, user("Hello")]
    assert (order.order.max_tokens, order.order.stream, order.order.sequences) == (7, True, 1)
    assert (param(order, "temperature"), param(order, "top_k")) == (0.5, 3)
    assert order.places == ("instructions", "input")
    assert order.unknown == ()


def test_how_long_a_cache_is_to_keep_a_prompt_is_not_handed_on() -> None:
    order = parsed(input="Hello", cache_control={"type": "ephemeral", "ttl": "1h"})
    assert param(order, "cache_control") == {"type": "ephemeral"}


def test_reasoning_words_and_calls_of_one_answer_are_one_turn() -> None:
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me look."}]}
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]}
    second = {**CALL, "call_id": "c2"}
    seen = turns(user("?"), thought, said, CALL, second, RESULT, {**RESULT, "call_id": "c2"}, thought, said)
    assert [turn["role"] for turn in seen] == ["user", "assistant", "tool", "tool", "assistant"]
    assert (seen[1]["content"], seen[1]["reasoning_content"]) == ("Let me look.", "Hm")
    assert [call["id"] for call in seen[1]["tool_calls"]] == ["c1", "c2"]
    assert seen[2] == {"role": "tool", "content": "4", "tool_call_id": "c1"}
    assert (seen[4]["content"], seen[4]["reasoning_content"]) == ("Let me look.", "Hm")


def test_words_behind_calls_belong_to_the_same_turn() -> None:
    seen = turns(user("?"), CALL, {"role": "assistant", "content": "I ask."}, RESULT)
    assert [turn["role"] for turn in seen] == ["user", "assistant", "tool"]
    assert seen[1]["content"] == "I ask."


def test_roles_and_parts() -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"}
    file = {"type": "input_file", "filename": "x.pdf", "file_data": "data:application/pdf;base64,AA"}
    seen = turns(
        {"role": "developer", "content": "d"},
        {"role": "system", "content": parts},
        {"role": "user", "content": [*parts, image, file]},
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    )
    assert seen[:2] == [{"role": "system", "content": "d"}, {"role": "system", "content": "ab"}]
    assert seen[2]["content"][2:] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
        {"type": "file", "file": {"filename": "x.pdf", "file_data": "data:application/pdf;base64,AA"}},
    ]
    assert seen[3] == {"role": "assistant", "content": "No."}


def test_reasoning_comes_back_in_every_form_we_hand_out() -> None:
    said = {"role": "assistant", "content": "42"}
    for thought in (
        {"content": [{"type": "reasoning_text", "text": "Hm"}], "summary": []},
        {"summary": [{"type": "summary_text", "text": "Hm"}]},
        {"summary": [], "encrypted_content": sealed("Hm")},
    ):
        assert turns(user("?"), {"type": "reasoning", **thought}, said)[1]["reasoning_content"] == "Hm"
    foreign = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"}
    order = parsed(input=[user("?"), foreign, said])
    assert order.unknown == ("input[1]",), "what others sealed says nothing here, and is named"
    assert "reasoning_content" not in param(order, "messages")[1]


def test_thoughts_that_led_to_nothing_are_left_out_and_named() -> None:
    thought = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm"}]}
    assert parsed(input=[user("?"), thought, user("!")]).unknown == ("input[1]",)


def test_tools_and_what_is_demanded() -> None:
    other = {**TOOL, "name": "g", "strict": True, "description": "d"}
    order = parsed(tools=[TOOL, other], parallel_tool_calls=False)
    assert [tool["function"]["name"] for tool in param(order, "tools")] == ["f", "g"]
    assert param(order, "tools")[1]["function"]["strict"] is True
    assert (param(order, "tool_choice"), param(order, "parallel_tool_calls")) == ("auto", False)
    for choice, wanted in (
        ("required", "required"),
        ({"type": "function", "name": "g"}, {"type": "function", "function": {"name": "g"}}),
    ):
        assert param(parsed(tools=[TOOL, other], tool_choice=choice), "tool_choice") == wanted
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}
    order = parsed(tools=[TOOL, other], tool_choice=allowed)
    assert [tool["function"]["name"] for tool in param(order, "tools")] == ["g"]
    assert param(order, "tool_choice") == "required"
    assert "tools" not in parsed(tools=[TOOL], tool_choice="none").order.params


def test_shapes_under_their_canonical_names() -> None:
    schema = {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}
    order = parsed(
        text={"format": schema, "verbosity": "low"}, reasoning={"effort": "high"}, top_logprobs=3,
        include=["message.output_text.logprobs"],
    )  # fmt: skip
    assert param(order, "response_format") == {
        "type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True},
    }  # fmt: skip
    assert (param(order, "reasoning_effort"), param(order, "verbosity")) == ("high", "low")
    assert (param(order, "logprobs"), param(order, "top_logprobs")) == (True, 3)
    assert order.unknown == ("text.verbosity",)
    assert order.echo["text"]["format"] == schema
    assert "response_format" not in parsed(text={"format": {"type": "text"}}).order.params


def test_what_we_do_not_know_goes_on_and_is_named_and_null_is_absent() -> None:
    order = parsed(odd=1, user=None, tools=None, reasoning=None, text=None, metadata=None, include=None, store=None)
    assert (param(order, "odd"), order.unknown) == (1, ("odd",))
    assert set(order.order.params) == {"messages", "odd"}
    assert order.echo["store"] is True and order.echo["metadata"] == {}


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"moderation": {"model": "x"}}, "moderation"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"response_format": {"type": "text"}}, "response_format"),
        ({"n": 2}, "n"),
        ({"stream_options": {}}, "stream_options"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"metadata": {"a": "x" * 513}}, "metadata[...]"),
        ({"include": ["everything"]}, "include[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].type"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [{**TOOL, "allowed_callers": ["programmatic"]}]}, "tools[0].allowed_callers"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "mcp", "server_label": "x"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.tools"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "g"}]}},
            "tool_choice.tools[0].name",
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "tools": [{"type": "mcp"}]}},
            "tool_choice.tools[0].type",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0].type"),
        ({"input": [{"type": "message", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "input[0].name"),
        ({"input": [RESULT]}, "input[0].call_id"),
        ({"input": [CALL, {**RESULT, "output": None}]}, "input[1].output"),
        (part(type="input_image", file_id="f"), "input[0].content[0].file_id"),
        (part(type="input_file", file_url="u"), "input[0].content[0].file_url"),
        (part(type="input_image"), "input[0].content[0].image_url"),
        (part(type="input_file"), "input[0].content[0].file_data"),
        (part(type="reasoning_text", text="x"), "input[0].content[0].type"),
        (part(type="odd"), "input[0].content[0].type"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(fields: dict[str, Any], name: str) -> None:
    assert refused(**fields).param == name


def test_the_bound_of_a_prompt_holds_the_form_of_the_answer_and_what_nobody_here_knows() -> None:
    text, least = "x" * 5000, parsed().order.prompt_tokens_max + 5000
    form = {"format": {"type": "json_schema", "name": "a", "schema": {"description": text}}}
    for fields in ({"text": form}, {"documents": [text]}):
        assert parsed(**fields).order.prompt_tokens_max >= least, fields.keys()


def test_earlier_items_come_first_and_are_named_by_the_field_that_brought_them() -> None:
    earlier = Earlier(tuple(msgspec.convert([{"role": "user", "content": "?"}, CALL], list[Item])))
    order = parsed(earlier, input=[RESULT], previous_response_id="resp_x", instructions="Be brief.")
    assert [turn["role"] for turn in param(order, "messages")] == ["system", "user", "assistant", "tool"]
    assert order.places == ("instructions", "previous_response_id", "previous_response_id", "input[0].output")
    assert order.order.prompt_tokens_max > parsed(input=[CALL, RESULT]).order.prompt_tokens_max


def test_a_reference_stands_for_its_item() -> None:
    known = {"fc_1": {**CALL, "id": "fc_1"}}
    order = parsed(Earlier((), known), input=[{"id": "fc_1"}, {"type": "item_reference", "id": "fc_1"}, RESULT])
    assert len(param(order, "messages")[0]["tool_calls"]) == 2
    with pytest.raises(CallerError) as caught:
        parsed(input=[{"type": "item_reference", "id": "fc_2"}])
    assert (caught.value.status, caught.value.param) == (404, "input[0].id")


def test_what_is_kept_of_an_input_has_types_and_ids_that_lead_back() -> None:
    known = {"fc_1": {**CALL, "id": "fc_1", "status": "completed"}}
    items = [user("?"), {"role": "assistant", "content": "So"}, {"id": "fc_1"}, {**RESULT, "id": "mine"}]
    understood = read_responses(json.dumps({"model": "m", "input": items}).encode())
    request_id = bytes(range(16))
    raw = kept_input(understood.fields["input"], request_id, known)
    kept = asked_in(StoredResponse(request_id, 1, 1, None, 0, raw, b""))
    assert [item["type"] for item in kept] == ["message", "message", "function_call", "function_call_output"]
    assert kept[0]["content"] == [{"type": "input_text", "text": "?"}] and kept[0]["status"] == "completed"
    assert kept[1]["content"][0]["type"] == "output_text"
    assert (kept[2], kept[3]["id"]) == (known["fc_1"], "mine")
    assert response_of(kept[0]["id"]) == response_of(kept[1]["id"]) == request_id
    assert kept[0]["id"] != kept[1]["id"]
    text = read_responses(b'{"model":"m","input":"Hi"}').fields["input"]
    (only,) = asked_in(StoredResponse(request_id, 1, 1, None, 0, kept_input(text, request_id, {}), b""))
    assert (only["role"], only["content"][0]["text"]) == ("user", "Hi")
    assert kept_input(None, request_id, {}) == b"[]"
    for said in ("resp_1", "x", "msg_" + "g" * 32, "", "../../x"):
        assert response_of(said) is None
