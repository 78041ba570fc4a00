"""OpenVINO GenAI's continuous batching, one step at a time: sequences in, what each step added to them out.

Owns the pipeline and the state of every sequence. One thread uses it, and a step holds Python's lock, so whoever steps
also listens in between. A failing step leaves the pipeline unusable (measured), so what could make one fail is refused
before: forms are tried by `Forms`, ids are compared with the vocabulary. Knows no connection.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steelyard.engines.asked import Ask, Refused, Sampling
from steelyard.engines.blocks import Blocks
from steelyard.engines.converted import STAND_IN, Manifest
from steelyard.engines.drafts import DRAFT_RUN, DRAFT_TOKENS, Drafts
from steelyard.engines.forms import Forms, form_config, reason
from steelyard.engines.said import Counts, TokenSaid
from steelyard.engines.silent import genai, tensor_of
from steelyard.engines.text import Text
from steelyard.kernel.engines import EngineLoad

BLOCK_TOKENS = 32
"""Of the KV cache on a CPU: fixed by OpenVINO, and seen in first-token times (tests/e2e/test_engine_openvino.py)."""

_SEEDS = 2**63


class Broken(Exception):
    """The pipeline failed; the process must end and be started again."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the pipeline is built with."""

    threads: int
    sequences: int  # decoded at once; more wait
    context: int  # tokens of prompt and answer of one sequence
    batch_tokens: int  # of one step: how long a new prompt may hold up running answers
    cache_blocks: int
    precision: str  # "bf16", "f32", or "" as the weights are
    cache_precision: str = ""  # of the KV cache; "": 8 bits
    lookup: bool = False  # tokens are drafted from what was there before
    extra: dict[str, Any] = field(default_factory=dict)


class Sequence:
    """One answer on its way. What a step added lies in `text` and `tokens` until `taken`."""

    def __init__(self, ask: Ask, prompt: list[int], room: int, text: Text) -> None:
        self.ask = ask
        self.room = room  # tokens it may answer
        self.counts = Counts(len(prompt))
        self.finish: str | None = None
        self.failed: str | None = None
        self.said: list[str] = []
        self.tokens: list[TokenSaid] = []
        self.handle: Any = None
        self.ids = prompt  # and the answer behind it
        self.decoded = text
        self.scheduled = self.computed = False  # its ids, since it came or came back
        self.cached = 0  # of them were in the cache then

    @property
    def stop(self) -> str | None:
        return self.decoded.stop

    def taken(self) -> tuple[str, list[TokenSaid]]:
        """What is new since the last call."""
        said, tokens = "".join(self.said), self.tokens
        self.said, self.tokens = [], []
        return said, tokens


class Decoder:
    """The pipeline over the weights in a folder made by `engines/converted.py`."""

    def __init__(self, folder: Path, manifest: Manifest, shape: Shape) -> None:
        self._genai = openvino_genai = genai()
        self._shape = shape
        self._manifest = manifest
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.max_num_batched_tokens = shape.batch_tokens
        scheduler.max_num_seqs = shape.sequences
        scheduler.num_kv_blocks = shape.cache_blocks
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = True
        properties = {"INFERENCE_NUM_THREADS": shape.threads, **shape.extra}
        if shape.precision:
            properties["INFERENCE_PRECISION_HINT"] = shape.precision
        if shape.cache_precision:
            properties["KV_CACHE_PRECISION"] = shape.cache_precision
        if shape.lookup:
            properties["prompt_lookup"] = True
        self.tokenizer = openvino_genai.Tokenizer(str(folder))
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(folder), self.tokenizer, scheduler, "CPU", **properties
        )
        self._pieces = _pieces(self.tokenizer.get_vocab(), manifest)
        self._forms = Forms(folder / STAND_IN, self.tokenizer)
        self._blocks = Blocks(BLOCK_TOKENS, shape.cache_blocks)
        self._drafts = Drafts()
        self._sums = Counts(0)
        self._running: dict[int, Sequence] = {}
        self._number = 0

    @property
    def active(self) -> int:
        """Sequences that wait or are decoded."""
        return len(self._running)

    def load(self) -> EngineLoad:
        """What runs, and what was done since the start; the cache's hits and the drafts are our own account."""
        sums = self._sums
        return EngineLoad(
            running=self.active,
            prefill_tokens=sums.prompt - sums.cached,
            decode_tokens=sums.generated,
            cache_asked_tokens=sums.prompt,
            cache_hit_tokens=sums.cached,
            drafted_tokens=self._drafts.drafted,
            accepted_tokens=self._drafts.accepted,
        )

    def tokens_of(self, text: str, *, special: bool) -> list[int]:
        """The ids of a text; `special`: with what the tokenizer puts around one."""
        found: list[int] = self.tokenizer.encode(text, add_special_tokens=special).input_ids.data[0].tolist()
        return found

    def prompt_of(self, ask: Ask) -> list[int]:
        """The ids of what is asked."""
        return self.tokens_of(ask.prompt, special=not ask.chat) if isinstance(ask.prompt, str) else [*ask.prompt]

    def add(self, ask: Ask, prompt: list[int]) -> Sequence:
        """`prompt`: what `prompt_of` said, which is the sequence's from now on. Raises Refused for what this model
        cannot be asked."""
        if len(prompt) >= self._shape.context:
            raise Refused(
                f"the request has {len(prompt)} tokens, the context {self._shape.context}",
                "exceed_context_size_error",
                n_prompt_tokens=len(prompt),
                n_ctx=self._shape.context,
            )
        if not isinstance(ask.prompt, str) and any(not 0 <= token < len(self._pieces) for token in prompt):
            raise Refused("'prompt' has token ids that this model's vocabulary does not have. Send the text instead.")
        self._forms.try_out(ask)
        room = min(ask.max_tokens, self._shape.context - len(prompt))
        sequence = Sequence(ask, prompt, room, Text(self._pieces, ask.stops))
        try:
            self._run(sequence)
        except RuntimeError as error:
            raise Refused(f"The engine does not take this request: {reason(error)}.") from None
        return sequence

    def rest(self, sequence: Sequence) -> None:
        """It makes way in the next step and keeps what it has said. Raises Broken."""
        if sequence.counts.generated:
            self._blocks.add(sequence.ids[:-1])
        self.cancel(sequence)

    def resume(self, sequence: Sequence) -> None:
        """Go on with one that rested: what it said is prompt now, most of it in the cache. Raises Broken."""
        sequence.scheduled = sequence.computed = False
        try:
            self._run(sequence)
        except RuntimeError as error:
            raise Broken(reason(error)) from None

    def cancel(self, sequence: Sequence) -> None:
        """It is not decoded any more from the next step on. Raises Broken."""
        sequence.handle.cancel()
        self._running = {number: one for number, one in self._running.items() if one is not sequence}
        if not self._running:
            self._drop()

    def step(self) -> Iterator[Sequence]:
        """Decode one step; the sequences that it added something to or ended. Raises Broken."""
        for sequence in self._running.values():
            if not sequence.scheduled:
                sequence.scheduled = True
                sequence.cached = self._blocks.cached(sequence.ids)
                if not sequence.counts.generated:  # what is computed again after a rest is nobody's bill
                    sequence.counts.cached = sequence.cached
        self._step()
        ended: list[int] = []
        for number, sequence in self._running.items():
            if self._read(sequence):
                yield sequence
            if sequence.finish is not None or sequence.failed is not None:
                ended.append(number)
        for number in ended:
            self._running.pop(number, None)
        if not self._running:
            self._drop()

    def _run(self, sequence: Sequence) -> None:
        config = self._config(sequence.ask, sequence.room - sequence.counts.generated)
        sequence.handle = self._pipeline.add_request(self._number + 1, tensor_of(sequence.ids), config)
        self._number += 1
        self._running[self._number] = sequence

    def _drop(self) -> None:
        """Let the pipeline forget cancelled requests: it does so in a step."""
        if self._pipeline.has_non_finished_requests():
            self._step()

    def _step(self) -> None:
        try:
            self._pipeline.step()
        except RuntimeError as error:
            raise Broken(reason(error)) from None

    def _read(self, sequence: Sequence) -> bool:
        handle = sequence.handle
        if not handle.can_read():
            if handle.get_status() == self._genai.GenerationStatus.IGNORED:
                sequence.failed = "The engine's cache is too small for this request just now."
                return True
            return False
        [output] = handle.read().values()
        ids, counts = output.generated_ids, sequence.counts
        if not sequence.computed:
            sequence.computed = True
            self._blocks.add(sequence.ids)
            self._sums.prompt += len(sequence.ids)
            self._sums.cached += sequence.cached
        elif self._shape.lookup:
            self._drafts.add(sequence.ids, ids, sequence.room - counts.generated)
        self._sums.generated += len(ids)
        for token, logprob in zip(ids, output.generated_log_probs, strict=True):
            counts.generated += 1
            sequence.ids.append(token)
            if text := sequence.decoded.feed(token):
                sequence.said.append(text)
            if sequence.stop is not None:
                sequence.handle.cancel()
                sequence.finish = "stop"
                break
            if sequence.ask.logprobs and (piece := self._pieces[token]):
                sequence.tokens.append(TokenSaid(piece, logprob, sequence.ask.sampling.greedy))
        if sequence.finish is None:
            sequence.finish = self._finish(output.finish_reason)
        if sequence.finish is not None:
            self._blocks.add(sequence.ids[:-1])
            if rest := sequence.decoded.rest():
                sequence.said.append(rest)
        return True

    def _finish(self, reason: Any) -> str | None:
        reasons = self._genai.GenerationFinishReason
        if reason == reasons.NONE:
            return None
        return "length" if reason == reasons.LENGTH else "stop"

    def _config(self, ask: Ask, max_tokens: int) -> Any:
        fields = _sampled(ask.sampling)
        if self._shape.lookup:  # a pipeline that drafts takes no request that does not
            fields |= {"num_assistant_tokens": DRAFT_TOKENS, "max_ngram_size": DRAFT_RUN}
        if (form := form_config(ask)) is not None:
            fields["structured_output_config"] = form
        config = self._genai.GenerationConfig(
            max_new_tokens=max_tokens,
            ignore_eos=ask.ignore_eos,
            logprobs=int(ask.logprobs),
            apply_chat_template=False,
            stop_token_ids=set(self._manifest.end_ids),
            **fields,
        )
        config.set_eos_token_id(self._manifest.end_ids[0])
        return config


def _sampled(sampling: Sampling) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "repetition_penalty": sampling.repeat_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
    }
    if sampling.greedy:
        return {**fields, "do_sample": False}
    seed = secrets.randbelow(_SEEDS) if sampling.seed is None else sampling.seed
    return {
        **fields,
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_p": min(1.0, sampling.top_p),
        "top_k": sampling.top_k,
        "min_p": min(max(sampling.min_p, 0.0), 0.999),
        "rng_seed": seed,
    }


def _pieces(vocabulary: dict[bytes, int], manifest: Manifest) -> list[bytes]:
    pieces = [b""] * (max(vocabulary.values()) + 1)
    for piece, token in vocabulary.items():
        pieces[token] = piece
    for token in manifest.special_ids:
        pieces[token] = b""
    return pieces
