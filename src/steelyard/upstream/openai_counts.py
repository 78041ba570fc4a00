"""The counts of OpenAI's dialect, under every name they were seen, as disjoint buckets.

`prompt_tokens` holds what was read from a cache and what was written to one, `completion_tokens` holds the reasoning,
unless the total has it beside that, as xAI's. Vendors differ in where they say how much: what nobody says is 0, and no
part is ever greater than its whole. Pure.
"""

import msgspec

from steelyard.kernel.quantities import Usage
from steelyard.upstream.tally import Tally


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_creation_input_tokens: int | None = None  # DashScope


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


_NO_DETAILS = _PromptDetails()


class Counts(msgspec.Struct, gc=False):
    """A `usage` object."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    prompt_cache_hit_tokens: int | None = None  # DeepSeek
    cached_tokens: int | None = None  # Moonshot, StepFun
    reasoning_tokens: int | None = None

    def usage(self, tally: Tally, *, hides_thoughts: bool = False) -> Usage | None:
        """Disjoint buckets. None for zeros, as some servers send with every chunk but the last: they say nothing.

        `hides_thoughts`: what the total holds beside prompt and completion is reasoning, and is paid for. So it is
        wherever that is exactly as much as is told of.
        """
        prompt, output = self.prompt_tokens or 0, self.completion_tokens or 0
        if prompt < 0 or output < 0:
            prompt, output = max(0, prompt), max(0, output)
        thought, hidden = self.completion_tokens_details, 0
        told = thought.reasoning_tokens if thought else self.reasoning_tokens
        if told or hides_thoughts:
            beside = max(0, (self.total_tokens or 0) - prompt - output)
            hidden = beside if hides_thoughts or beside == told else 0
            output += hidden
        if not prompt and not output:
            return None
        details = self.prompt_tokens_details or _NO_DETAILS
        read = details.cached_tokens or self.prompt_cache_hit_tokens or self.cached_tokens or 0
        if read:
            read = min(max(read, 0), prompt)
        written = details.cache_write_tokens or details.cache_creation_input_tokens or 0
        if written:
            written = min(max(written, 0), prompt - read)
        reasoning = 0
        if told or hidden or tally.thoughts:
            reasoning = tally.reasoning(output, max(told or 0, hidden) if hidden else told)
        return Usage(prompt - read - written, read, output - reasoning, cache_write=written, reasoning=reasoning)
