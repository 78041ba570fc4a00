"""An order as a request of Anthropic's Messages API: which field becomes which, and what is refused by name.

Fields nobody here knows are passed on, for vendors that know them; what would change the price, the counts or who
answers is ours to set. Pure; knows no connection and no answer.
"""

import re
from typing import Any

import msgspec
from msgspec import Raw

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.offers import Offer
from steelyard.upstream.anthropic_turns import Message, Turns
from steelyard.upstream.whose import not_carried

BUDGET_TOKENS_MIN = 1024
"""The least the dialect lets a model think, if it thinks by budget."""

WITHHELD = frozenset(
    {
        *("model", "n", "best_of", "stream", "stream_options", "max_tokens", "max_completion_tokens"),
        *("service_tier", "speed", "store", "container", "mcp_servers", "inference_geo", "fallbacks"),
        *("anthropic_beta", "betas", "anthropic_version", "workspace_id", "user_profile_id"),
    }
)
"""Ours to set, or not a customer's to choose: they change what is counted, what we pay, or who answers."""

CANNOT = frozenset(
    {
        *("seed", "logit_bias", "logprobs", "top_logprobs", "presence_penalty", "frequency_penalty"),
        *("min_p", "typical_p", "repeat_penalty", "repeat_last_n", "grammar", "ignore_eos"),
        *("dry_multiplier", "dry_base", "dry_allowed_length", "xtc_probability", "xtc_threshold"),
        *("mirostat", "mirostat_tau", "mirostat_eta", "verbosity"),
    }
)
"""Fields of other dialects that change an answer and that this one has no word for."""

_NEUTRAL = frozenset({b"false", b"0", b"0.0", b"{}", b"[]"})
_TRANSLATED = frozenset(
    {
        *("messages", "tools", "tool_choice", "parallel_tool_calls", "stop", "response_format"),
        *("reasoning_effort", "thinking", "enable_thinking", "thinking_budget"),
    }
)
_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
_NONE_TEXT = b'"none"'
_NONE = Raw(_NONE_TEXT)
_BETA = re.compile(r"[\w.:-]+", re.ASCII)
_encode = msgspec.json.encode
_decode = msgspec.json.decode


class Sent(msgspec.Struct, frozen=True):
    """What goes over the wire, and where each part of it came from."""

    fields: dict[str, Any]
    betas: str
    messages: list[Message]
    system_places: list[int]

    @property
    def body(self) -> bytes:
        return _encode({**self.fields, "stream": True})

    @property
    def counted(self) -> bytes:
        """The same prompt, for a count."""
        return _encode({name: value for name, value in self.fields.items() if name in _PROMPT})


_PROMPT = frozenset(
    {"model", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "cache_control"}
)


def request_of(upstream: str, offer: Offer, params: dict[str, Raw], max_tokens: int) -> Sent:
    """Raises UpstreamError 400 that names the field which cannot be carried over."""
    if "prompt" in params:
        raise not_carried(upstream, "prompt", "this model answers conversations only; ask /v1/chat/completions")
    for name in sorted(CANNOT & params.keys()):
        if bytes(params[name]) not in _NEUTRAL:
            raise not_carried(upstream, name, "this model has nothing like it; leave it out")
    turns = Turns(upstream)
    turns.take(params["messages"])
    known = WITHHELD | CANNOT | _TRANSLATED
    fields: dict[str, Any] = {name: value for name, value in params.items() if name not in known}
    fields["model"] = offer.upstream_model
    fields["max_tokens"] = max_tokens
    fields["messages"] = [{"role": message.role, "content": message.content} for message in turns.messages]
    if turns.system:
        fields["system"] = turns.system
    fields |= _tools(params, turns)
    fields |= _shape(upstream, params)
    if (thinking := _thinking(upstream, params, max_tokens)) is not None:
        fields["thinking"] = thinking
    if "stop" in params:
        stop = _decode(params["stop"])
        fields["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    if (heat := params.get("temperature")) is not None and _decode(heat, type=float) > 1:
        raise not_carried(upstream, "temperature", "this model takes at most 1")
    return Sent(fields, _betas(upstream, params), turns.messages, turns.system_places)


def _tools(params: dict[str, Raw], turns: Turns) -> dict[str, Any]:
    """What is offered and demanded. Calls made before must stand on offer, if only to be refused."""
    if "tools" not in params:
        if not turns.called:
            return {}
        known = [{"name": name, "input_schema": {"type": "object"}} for name in turns.called]
        return {"tools": known, "tool_choice": {"type": "none"}}
    fields: dict[str, Any] = {"tools": [_tool(tool) for tool in _decode(params["tools"])]}
    match _decode(params.get("tool_choice", Raw(b'"auto"'))):
        case {"function": {"name": name}}:
            choice = {"type": "tool", "name": name}
        case "required":
            choice = {"type": "any"}
        case _:
            choice = {"type": "auto"}
    if bytes(params.get("parallel_tool_calls", b"")) == b"false":
        choice["disable_parallel_tool_use"] = True
    if choice != {"type": "auto"}:
        fields["tool_choice"] = choice
    return fields


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    made = {"name": function["name"], "input_schema": {"type": "object", **(function.get("parameters") or {})}}
    if function.get("description"):
        made["description"] = function["description"]
    if function.get("strict"):
        made["strict"] = True
    if tool.get("cache_control"):
        made["cache_control"] = tool["cache_control"]
    return made


def _shape(upstream: str, params: dict[str, Raw]) -> dict[str, Any]:
    """How hard to try and which form to answer in."""
    config: dict[str, Any] = {}
    effort = _decode(params.get("reasoning_effort", _NONE))
    if not isinstance(effort, str) or effort not in {"none", *_EFFORTS}:
        raise not_carried(upstream, "reasoning_effort", f"it is one of none, {', '.join(_EFFORTS)}")
    if effort != "none":
        config["effort"] = _EFFORTS[effort]
    if "response_format" in params:
        form = _decode(params["response_format"])
        if form.get("type") != "json_schema":
            raise not_carried(
                upstream, "response_format", "this model answers in JSON by a schema only; send json_schema"
            )
        config["format"] = {"type": "json_schema", "schema": form["json_schema"]["schema"]}
    return {"output_config": config} if config else {}


def _thinking(upstream: str, params: dict[str, Raw], max_tokens: int) -> Any:
    """Whether to think and for how many tokens at most, from any of the words vendors have for it."""
    wanted: Any = _decode(params["thinking"]) if "thinking" in params else None
    budget = _decode(params["thinking_budget"]) if "thinking_budget" in params else None
    if wanted is None and "enable_thinking" in params:
        wanted = {"type": "enabled" if bytes(params["enable_thinking"]) == b"true" else "disabled"}
    if wanted is None and budget is not None:
        wanted = {"type": "enabled"}
    if wanted is None:
        return {"type": "disabled"} if bytes(params.get("reasoning_effort", b"")) == _NONE_TEXT else None
    if not isinstance(wanted, dict):
        raise not_carried(upstream, "thinking", "it is an object with a 'type'")
    if wanted.get("type") == "auto":
        return {**wanted, "type": "adaptive"}
    if wanted.get("type") != "enabled":
        return wanted
    asked = wanted.get("budget_tokens") or budget or max(BUDGET_TOKENS_MIN, max_tokens // 2)
    if not isinstance(asked, int) or isinstance(asked, bool) or asked < 0:
        raise not_carried(upstream, "thinking", "'budget_tokens' is a number")
    if asked >= max_tokens > BUDGET_TOKENS_MIN:
        asked = max_tokens - 1  # an upper bound anyway; it has to leave room for one token of the answer
    if asked >= max_tokens:
        raise not_carried(upstream, "thinking", f"it takes {BUDGET_TOKENS_MIN} tokens of at most {max_tokens} here")
    return {**wanted, "budget_tokens": asked}


def _betas(upstream: str, params: dict[str, Raw]) -> str:
    """The customer's own header, which the gateway keeps in the order."""
    betas = _decode(params.get("anthropic_beta", Raw(b"[]")))
    if not isinstance(betas, list) or not all(
        isinstance(beta, str) and _BETA.fullmatch(beta) for beta in betas if beta
    ):
        raise UpstreamError(upstream, "The header 'anthropic-beta' is a list of names.", status=400)
    return ",".join(beta for beta in betas if beta)
