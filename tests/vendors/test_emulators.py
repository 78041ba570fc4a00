"""The emulators as the vendors' own customers see them: by the SDK that each vendor tells them to use, unchanged."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tests.vendors.cases import CASES, Case
from tests.vendors.running import Running, running
from tests.vendors.sdks import Sdk, sdk

Asking = Callable[..., dict[str, Any]]

TOOL = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": TOOL}]
BY_OPENAI = [kind for kind, case in CASES.items() if case.sdk in {"by_openai", "by_zai"}]
"""Those whose SDK gives answers in the form of OpenAI's chat."""


@pytest.fixture(scope="module")
def sdks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Sdk]]:
    made: dict[str, Sdk] = {}
    with ExitStack() as stack:

        def of(module: str) -> Sdk:
            if module not in made:
                made[module] = stack.enter_context(sdk(module, tmp_path_factory.mktemp("sdk")))
            return made[module]

        yield of


@pytest.fixture(scope="module", params=BY_OPENAI)
def vendor(request: pytest.FixtureRequest) -> Iterator[tuple[Case, Running]]:
    case = CASES[request.param]
    with running(case.emulator()) as one:
        yield case, one


@pytest.fixture
def ask(vendor: tuple[Case, Running], sdks: Callable[[str], Sdk]) -> Asking:
    case, at = vendor

    def asked(scene: str, *turns: Any, key: str = case.key, **fields: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": f"scene: {scene}"}, *turns]
        return sdks(case.sdk).ask(at.address, key, model="their-m", messages=messages, **fields)

    return asked


def heard(said: list[dict[str, Any]], name: str) -> str:
    deltas = [choice.get("delta") or choice["message"] for piece in said for choice in piece["choices"]]
    return "".join(delta.get(name) or "" for delta in deltas)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_and_its_counts_arrive_whole(ask: Asking, vendor: tuple[Case, Running], stream: bool) -> None:
    options = {"stream": True} | ({"stream_options": {"include_usage": True}} if vendor[0].sdk == "by_openai" else {})
    answer = ask("cached " + "x" * 100, **(options if stream else {}))
    assert "error" not in answer, answer
    said = answer["said"]
    assert heard(said, "content").endswith("Hello")
    usages = [piece["usage"] for piece in said if piece.get("usage")]
    usages += [choice["usage"] for piece in said for choice in piece["choices"] if choice.get("usage")]
    (usage,) = usages
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 20
    assert usage["completion_tokens"] > 2 or heard(said, "reasoning_content") == ""


def test_the_vendors_way_of_reasoning_is_seen(ask: Asking, vendor: tuple[Case, Running]) -> None:
    said = ask("reasoning", stream=True)["said"]
    text = heard(said, "content")
    assert text.endswith("42")
    if vendor[0].kind == "minimax":
        assert text == "<think>\nLet me see.\n</think>\n\n42", "unless it is asked to tell it apart"
    else:
        assert heard(said, "reasoning_content") == "Let me see."


@pytest.mark.parametrize("stream", [False, True])
def test_tools_are_called_as_the_sdk_expects_them(ask: Asking, vendor: tuple[Case, Running], stream: bool) -> None:
    own = {"tool_stream": True} if vendor[0].kind == "zhipu" and stream else {}
    answer = ask("tools", tools=TOOLS, stream=stream, **own)
    assert "error" not in answer, answer
    choices = [choice for piece in answer["said"] for choice in piece["choices"]]
    calls = [call for each in choices for call in (each.get("delta") or each["message"]).get("tool_calls") or ()]
    assert "".join(call["function"]["arguments"] for call in calls) == '{"city": "Bern"}'
    assert calls[0]["function"]["name"] == "weather" and choices[-1]["finish_reason"] == "tool_calls"


STATUSES = {
    "deepseek": {"no_money": 402, "rate_limited": 429, "auth": 401, "server": 503, "model_missing": 400},
    "zhipu": {"no_money": 429, "quota": 429, "rate_limited": 429, "auth": 401, "server": 500, "content": 400},
    "moonshot": {"no_money": 429, "rate_limited": 429, "auth": 401, "server": 500, "model_missing": 404},
    "minimax": {"bad_request": 400, "auth": 401},
}


def test_a_refusal_is_one_for_the_sdk_too(ask: Asking, vendor: tuple[Case, Running]) -> None:
    for fault, status in STATUSES[vendor[0].kind].items():
        answer = ask(fault)
        assert answer["error"]["status_code"] == status, (fault, answer)


@pytest.mark.parametrize("stream", [False, True])
def test_who_waits_at_deepseek_is_kept_awake(sdks: Callable[[str], Sdk], stream: bool) -> None:
    """Blank lines ahead of an answer in one piece, comments ahead of a stream: no SDK takes them for an answer."""
    case = CASES["deepseek"]
    with running(case.emulator()) as at:
        turns = [{"role": "user", "content": "scene: queued"}]
        answer = sdks(case.sdk).ask(at.address, case.key, model="m", messages=turns, stream=stream)
        assert heard(answer["said"], "content") == "Hello"


def test_a_wrong_key_is_refused(ask: Asking) -> None:
    assert ask("hello", key="wrong.key")["error"]["status_code"] == 401


def test_what_a_vendor_checks_is_checked(ask: Asking, vendor: tuple[Case, Running]) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    lost = {"role": "assistant", "content": "", "tool_calls": [call]}
    wrong: dict[str, Any] = {
        "deepseek": lambda: ask("hello", lost, {"role": "tool", "tool_call_id": "c", "content": "Rain"}, tools=TOOLS),
        "zhipu": lambda: ask("hello", stop=["a", "b"]),
    }
    if (asking := wrong.get(vendor[0].kind)) is not None:
        assert asking()["error"]["status_code"] == 400


def test_zhipus_sdk_signs_tokens_that_are_taken(sdks: Callable[[str], Sdk]) -> None:
    """The old form of its credential, by the SDK itself: `disable_token_cache=False`."""
    case = CASES["zhipu"]
    with running(case.emulator()) as at:
        answer = sdks("by_zai").ask(
            at.address,
            case.key,
            options={"disable_token_cache": False},
            model="m",
            messages=[{"role": "user", "content": "scene: hello"}],
        )
        assert "error" not in answer, answer
        assert at.headers["authorization"].count(".") == 2, "a token, not the key"
