"""Reads what vLLM, SGLang and llama.cpp tell of themselves on /metrics, in Prometheus' text form.

The names are those of vLLM (docs.vllm.ai, "Production Metrics"; the earlier spellings too), SGLang (docs.sglang.io,
"Production Metrics") and llama.cpp (tools/server/README.md; its drafts as version 2026.10 of xllamacpp tells them).
Knows no connection. Series of several ranks or models are added up.
"""

import math
import re
from collections.abc import Mapping

from steelyard.kernel.engines import EngineKind, EngineLoad

_SAMPLE = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{[^\n]*\})? +([0-9.eE+-]+)(?: +\d+)?$", re.MULTILINE)

_NAMES: Mapping[EngineKind, Mapping[str, tuple[str, ...]]] = {
    EngineKind.VLLM: {
        "running": ("vllm:num_requests_running",),
        "waiting": ("vllm:num_requests_waiting",),
        "kv": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        "prefill_tokens": ("vllm:prompt_tokens_total",),
        "decode_tokens": ("vllm:generation_tokens_total",),
        "cache_asked_tokens": ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
        "cache_hit_tokens": ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
        "drafted_tokens": ("vllm:spec_decode_num_draft_tokens_total",),
        "accepted_tokens": ("vllm:spec_decode_num_accepted_tokens_total",),
    },
    EngineKind.SGLANG: {
        "running": ("sglang:num_running_reqs",),
        "waiting": ("sglang:num_queue_reqs",),
        "kv": ("sglang:token_usage",),
        "prefill_tokens": ("sglang:prompt_tokens_total",),
        "decode_tokens": ("sglang:generation_tokens_total",),
        "cache_asked_tokens": ("sglang:prompt_tokens_total",),
        "cache_hit_tokens": ("sglang:cached_tokens_total",),
        "drafted_tokens": (),
        "accepted_tokens": (),
    },
    EngineKind.XLLAMACPP: {
        "running": ("llamacpp:requests_processing",),
        "waiting": ("llamacpp:requests_deferred",),
        "prefill_tokens": ("llamacpp:prompt_tokens_total",),
        "decode_tokens": ("llamacpp:tokens_predicted_total",),
        "cache_hit_tokens": ("llamacpp:prompt_tokens_cached_total",),
        "drafted_tokens": ("llamacpp:spec_decode_num_draft_tokens_total",),
        "accepted_tokens": ("llamacpp:spec_decode_num_accepted_tokens_total",),
    },
}
"""Ours → theirs, the first that is told counts. SGLang tells how many drafts it accepts only as a mean, so not here."""


def load_from_metrics(kind: EngineKind, text: str) -> EngineLoad | None:
    """None when the text does not say how many requests run: then it is no such server's."""
    told: dict[str, float] = {}
    for name, number in _SAMPLE.findall(text):
        try:
            value = float(number)
        except ValueError:
            continue
        if math.isfinite(value) and value >= 0:
            told[name] = told.get(name, 0.0) + value
    found: dict[str, float] = {}
    for ours, theirs in _NAMES[kind].items():
        value_of = next((told[name] for name in theirs if name in told), None)
        if value_of is not None:
            found[ours] = value_of
    if "running" not in found:
        return None
    if kind is EngineKind.XLLAMACPP:  # its prompt tokens leave out those it found
        found["cache_asked_tokens"] = found.get("prefill_tokens", 0) + found.get("cache_hit_tokens", 0)
    kv = found.pop("kv", None)
    counts = {ours: round(value) for ours, value in found.items()}
    return EngineLoad(kv_permille=None if kv is None else min(1000, round(kv * 1000)), **counts)
