"""Tries the form of an answer (JSON schema or grammar) before it reaches the pipeline.

A form that cannot be compiled makes a step fail, and a pipeline whose step failed is lost with everything in it
(measured). So it is compiled first by a stand-in: the same tokenizer over a model of next to no weights, thrown away
when it fails. Owns the bounds on what compiling costs: it holds up every answer while it runs.
"""

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import msgspec

from steelyard.engines.asked import Ask, Refused
from steelyard.engines.silent import genai, tensor_of
from steelyard.kernel import limits

_LENGTHS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"})
_BLOCKS = 4  # with one alone nothing is computed, and everything passes
_REPEATS = re.compile(r"\{(\d+)(?:,(\d*))?\}")


class Forms:
    """`folder` holds the stand-in. Forms that passed are remembered, and those that did not."""

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        self._folder = folder
        self._tokenizer = tokenizer
        self._pipeline: Any = None
        self._known: OrderedDict[str, str | None] = OrderedDict()

    def try_out(self, ask: Ask) -> None:
        """Raises Refused with what is wrong with the form."""
        form = ask.schema if ask.schema is not None else ask.grammar
        if form is None:
            return
        key = f"{ask.schema is None}{form}"
        if key not in self._known:
            if ask.schema is not None:
                refuse_costly(ask.schema)
            self._known[key] = self._tried(ask)
            while len(self._known) > limits.ENGINE_FORMS_KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        if (wrong := self._known[key]) is not None:
            raise Refused(f"'response_format' cannot be kept by this engine: {wrong}.")

    def _tried(self, ask: Ask) -> str | None:
        """What is wrong with it."""
        openvino_genai = genai()
        if self._pipeline is None:
            scheduler = openvino_genai.SchedulerConfig()
            scheduler.num_kv_blocks = _BLOCKS
            scheduler.max_num_batched_tokens = 8
            self._pipeline = openvino_genai.ContinuousBatchingPipeline(
                str(self._folder), self._tokenizer, scheduler, "CPU", INFERENCE_NUM_THREADS=1
            )
        config = openvino_genai.GenerationConfig(max_new_tokens=1, structured_output_config=form_config(ask))
        config.set_eos_token_id(self._tokenizer.get_eos_token_id())
        try:
            handle = self._pipeline.add_request(0, tensor_of([0]), config)
            while self._pipeline.has_non_finished_requests():
                self._pipeline.step()
        except RuntimeError as error:
            self._pipeline = None
            return reason(error)
        return None if handle.can_read() else "it could not be tried"


def form_config(ask: Ask) -> Any:
    """The form in OpenVINO's words; None for a free answer."""
    if ask.schema is not None:
        return genai().StructuredOutputConfig(json_schema=ask.schema)
    return None if ask.grammar is None else genai().StructuredOutputConfig(grammar=ask.grammar)


def refuse_costly(schema: str) -> None:
    """Raises Refused for a schema whose compiling would hold up everybody for seconds."""
    if len(schema) > limits.ENGINE_FORM_BYTES_MAX:
        raise Refused(f"'response_format' is longer than {limits.ENGINE_FORM_BYTES_MAX} bytes. Ask for less at once.")
    for name, value in _members(msgspec.json.decode(schema)):
        repeats = _repeats(value) if name == "pattern" and isinstance(value, str) else 0
        if name in _LENGTHS and isinstance(value, int):
            repeats = value
        if repeats > limits.ENGINE_FORM_REPEATS_MAX:
            raise Refused(
                f"'response_format' bounds a repetition by {repeats} in '{name}'; this engine keeps bounds of at most "
                f"{limits.ENGINE_FORM_REPEATS_MAX}."
            )


def _repeats(pattern: str) -> int:
    """All counts of a pattern multiplied: what nested ones come to at worst."""
    product = 1
    for least, most in _REPEATS.findall(pattern):
        product *= max(int(least), int(most or 0), 1)
    return product if product > 1 else 0


def _members(value: Any) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            found += one.items()
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return found


def reason(error: RuntimeError) -> str:
    """The last line of OpenVINO's complaint, without the places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else "no reason given"
    return re.sub(r"^.*?\.(?:cc|cpp|hpp|h):\d+:\s*", "", last)[: limits.ENGINE_REASON_CHARACTERS_MAX].rstrip(".")
