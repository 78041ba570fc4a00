"""What is asked of an engine that is not llama.cpp, in llama.cpp's dialect: read, checked, put as `Sampling`.

Owns the defaults (those of llama.cpp, so that a change of engine changes no answer's temper) and the refusal by name of
what only llama.cpp can do. Knows no engine's API.
"""

from typing import Any, Literal

import msgspec

CHATML_TURN = "<|im_start|>{role}\n{content}<|im_end|>\n"
CHATML_ASSISTANT = "<|im_start|>assistant\n"
_SEED_MAX = 2**63 - 1


class Refused(Exception):
    """The request is at fault. `field` is at fault, the words may be shown to the customer."""

    def __init__(self, message: str, kind: str = "invalid_request_error", **more: int) -> None:
        super().__init__(message)
        self.message, self.kind, self.more = message, kind, more


class Sampling(msgspec.Struct, frozen=True):
    """How the next token is chosen; temperature 0 is greedy."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    seed: int | None = None
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    @property
    def greedy(self) -> bool:
        return self.temperature <= 0 or self.top_k == 1 or self.top_p <= 0

    @property
    def penalised(self) -> bool:
        return self.repeat_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


class Ask(msgspec.Struct, frozen=True):
    """One sequence asked for. `prompt` is a text, or token ids; `schema` and `grammar` bind the answer's form."""

    prompt: str | tuple[int, ...]
    chat: bool
    max_tokens: int
    sampling: Sampling
    stops: tuple[str, ...] = ()
    schema: str | None = None
    grammar: str | None = None
    logprobs: bool = False
    ignore_eos: bool = False
    verbose: bool = False

    @property
    def resumes(self) -> bool:
        """Whether it can be asked on from what it has said: not where a form, a seed or penalties count from its
        beginning."""
        drawn = self.sampling.seed is not None and not self.sampling.greedy
        return not (drawn or self.sampling.penalised or self.schema is not None or self.grammar is not None)


class _Message(msgspec.Struct):
    role: str
    content: str | None = None


class _Schema(msgspec.Struct):
    schema: dict[str, Any] = {}


class _Format(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: _Schema | None = None


class _Body(msgspec.Struct):
    """The fields we read; those of llama.cpp alone are looked at by `_only_there`."""

    messages: list[_Message] | None = None
    prompt: str | list[int] | None = None
    max_tokens: int = 0
    stop: str | list[str] | None = None
    seed: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    response_format: _Format | None = None
    grammar: str | None = None
    logprobs: bool | int | None = None
    top_logprobs: int | None = None
    ignore_eos: bool | None = None
    verbose: bool | None = None
    logit_bias: dict[str, float] | None = None
    typical_p: float | None = None
    mirostat: int | None = None
    xtc_probability: float | None = None
    dry_multiplier: float | None = None
    dynatemp_range: float | None = None
    top_n_sigma: float | None = None
    adaptive_target: float | None = None
    samplers: Any = None
    tools: Any = None


_NEUTRAL: dict[str, tuple[float, ...]] = {
    "typical_p": (1,),
    "mirostat": (0,),
    "xtc_probability": (0,),
    "dry_multiplier": (0,),
    "dynatemp_range": (0,),
    "top_n_sigma": (0, -1),
    "adaptive_target": (-1,),
}
"""Samplers only llama.cpp has, and the values under which they do nothing."""

_body_decoder = msgspec.json.Decoder(_Body)


def read_ask(body: bytes, *, chat: bool) -> Ask:
    """Raises Refused, naming the field."""
    try:
        read = _body_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(f"The request cannot be read: {error}.") from None
    _only_there(read)
    form = read.response_format
    schema = None
    if form is not None and form.type != "text":
        schema = msgspec.json.encode(form.json_schema.schema if form.json_schema else {"type": "object"}).decode()
    return Ask(
        prompt=_chat_prompt(read) if chat else _prompt(read),
        chat=chat,
        max_tokens=max(1, read.max_tokens),
        sampling=_sampling(read),
        stops=() if read.stop is None else (read.stop,) if isinstance(read.stop, str) else tuple(read.stop),
        schema=schema,
        grammar=read.grammar or None,
        logprobs=_logprobs(read),
        ignore_eos=bool(read.ignore_eos),
        verbose=bool(read.verbose),
    )


def _chat_prompt(read: _Body) -> str:
    if not read.messages:
        raise Refused("'messages' is missing.")
    turns = [CHATML_TURN.format(role=turn.role, content=turn.content or "") for turn in read.messages]
    return "".join([*turns, CHATML_ASSISTANT])


def _prompt(read: _Body) -> str | tuple[int, ...]:
    if not read.prompt:
        raise Refused("'prompt' is missing.")
    return read.prompt if isinstance(read.prompt, str) else tuple(read.prompt)


def _sampling(read: _Body) -> Sampling:
    named = {name: getattr(read, name) for name in Sampling.__struct_fields__}
    given = {name: value for name, value in named.items() if value is not None}
    if "seed" in given:
        given["seed"] = None if given["seed"] == -1 else given["seed"] & _SEED_MAX
    if (penalty := given.get("repeat_penalty")) is not None and penalty <= 0:
        raise Refused("'repeat_penalty' must be above 0.")
    return Sampling(**given)


def _logprobs(read: _Body) -> bool:
    wanted = bool(read.logprobs)
    if (read.top_logprobs or 0) > 1 or (wanted and not isinstance(read.logprobs, bool) and (read.logprobs or 0) > 1):
        raise Refused(
            "'top_logprobs' above 1 is not supported here: this engine tells the log probability of the token it "
            "chose, and of no other. Send at most 1."
        )
    return wanted


def _only_there(read: _Body) -> None:
    for name, neutral in _NEUTRAL.items():
        value = getattr(read, name)
        if value is not None and value not in neutral:
            raise Refused(f"'{name}' is not supported by the engine that serves this model. Leave it out.")
    for name in ("logit_bias", "samplers"):
        if getattr(read, name):
            raise Refused(f"'{name}' is not supported by the engine that serves this model. Leave it out.")
    if read.tools is not None:
        raise Refused("'tools' are told in words to this engine, which has no place for them.")
