"""The emulator of Anthropic's API stands in for it: its real client reads every answer, and is refused as it should."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from tests.emulators.anthropic_server import KEY, SCENES, AnthropicServer

TOOLS: list[Any] = [
    {"name": name, "input_schema": {"type": "object", "properties": {}}} for name in ("weather", "time", "step")
]
FORM = {"type": "object", "properties": {"city": {"enum": ["Bern"]}}}
BROKEN = frozenset({"error", "error_at_once", "unfinished", "cut", "loop"})


@pytest.fixture(scope="module")
def server() -> Iterator[AnthropicServer]:
    with AnthropicServer() as running:
        yield running


@pytest.fixture
def client(server: AnthropicServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=f"http://127.0.0.1:{server.port}", api_key=KEY, max_retries=0) as made:
        yield made


def asked(scene: str, **fields: Any) -> dict[str, Any]:
    form: Any = {"format": {"type": "json_schema", "schema": FORM}}
    turns = [{"role": "user", "content": f"scene: {scene}"}]
    return {"model": "m", "max_tokens": 2000, "messages": turns, "tools": TOOLS, "output_config": form, **fields}


@pytest.mark.parametrize("scene", sorted(SCENES.keys() - BROKEN))
def test_a_stream_makes_the_same_message_as_a_body(client: anthropic.Anthropic, scene: str) -> None:
    plain = client.messages.create(**asked(scene))
    with client.messages.stream(**asked(scene)) as stream:
        streamed = stream.get_final_message()
    assert plain.content and [block.to_dict() for block in streamed.content] == [
        block.to_dict() for block in plain.content
    ]
    assert (streamed.stop_reason, streamed.stop_sequence) == (plain.stop_reason, plain.stop_sequence)
    assert streamed.usage.output_tokens == plain.usage.output_tokens


@pytest.mark.parametrize("scene", ["error", "error_at_once"])
def test_an_error_within_a_stream_is_raised(client: anthropic.Anthropic, scene: str) -> None:
    with pytest.raises(anthropic.APIStatusError) as caught, client.messages.stream(**asked(scene)) as stream:
        stream.get_final_message()
    assert "Overloaded" in str(caught.value)


@pytest.mark.parametrize(
    ("scene", "kind"),
    [
        ("busy", anthropic.RateLimitError),
        ("broken", anthropic.InternalServerError),
        ("forbidden", anthropic.PermissionDeniedError),
        ("penniless", anthropic.BadRequestError),
        ("gone", anthropic.NotFoundError),
    ],
)
def test_refusals_are_the_librarys_own(client: anthropic.Anthropic, scene: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        client.messages.create(**asked(scene))


def test_it_is_strict(client: anthropic.Anthropic, server: AnthropicServer) -> None:
    user = {"role": "user", "content": "scene: hello"}
    call = {"type": "tool_use", "id": "a", "name": "step", "input": {}}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}]}
    budget = {"type": "enabled", "budget_tokens": 1024}
    unsigned = {"type": "thinking", "thinking": "Hm", "signature": "made up"}
    wrong: list[dict[str, Any]] = [
        {"messages": [user, user]},
        {"messages": [user, {"role": "assistant", "content": [call]}, user]},
        {"messages": [user, {"role": "assistant", "content": [unsigned]}, user]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]},
        {"messages": [user, {"role": "assistant", "content": [call]}, result], "thinking": budget},
        {"extra_body": {"seed": 7}},
        {"thinking": {"type": "enabled", "budget_tokens": 100}},
    ]
    for fields in wrong:
        with pytest.raises(anthropic.BadRequestError):
            client.messages.create(**asked("hello", **fields))
    client.messages.create(**asked("hello", messages=[user, {"role": "assistant", "content": [call]}, result]))
    with pytest.raises(anthropic.AuthenticationError):
        client.with_options(api_key="wrong").messages.create(**asked("hello"))


def test_a_count_is_what_a_message_uses(client: anthropic.Anthropic) -> None:
    fields = asked("hello")
    del fields["max_tokens"]
    counted = client.messages.count_tokens(**fields).input_tokens
    assert counted == client.messages.create(**asked("hello")).usage.input_tokens
