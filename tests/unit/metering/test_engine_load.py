"""What vLLM and SGLang tell on /metrics, in their own words."""

from tests.fakes.gpu_server import metrics

from steelyard.kernel.engines import EngineKind, EngineLoad
from steelyard.metering.engine_load import load_from_metrics


def test_vllm() -> None:
    found = load_from_metrics(EngineKind.VLLM, metrics("vllm", "q8", 3, 10))
    assert found == EngineLoad(3, 0, 125, 400, 40, 400, 320, 60, 20)


def test_sglang_tells_no_drafts() -> None:
    found = load_from_metrics(EngineKind.SGLANG, metrics("sglang", "q8", 1, 2))
    assert found == EngineLoad(1, 0, 280, 80, 8, 80, 64, None, None)


def test_earlier_names_and_several_ranks() -> None:
    text = (
        'vllm:num_requests_running{engine="0"} 2\nvllm:num_requests_running{engine="1"} 3.0\n'
        'vllm:gpu_cache_usage_perc{model_name="a b, c"} 1e-1\nvllm:prompt_tokens_total{m="x"} NaN\n'
    )
    found = load_from_metrics(EngineKind.VLLM, text)
    assert found is not None
    assert (found.running, found.kv_permille, found.prefill_tokens) == (5, 100, None)


def test_what_is_no_such_server_says_nothing() -> None:
    assert load_from_metrics(EngineKind.VLLM, "") is None
    assert load_from_metrics(EngineKind.VLLM, "<html>vllm:num_requests_running</html>") is None
    assert load_from_metrics(EngineKind.VLLM, metrics("sglang", "q8", 1, 1)) is None


def test_llama_cpp_tells_drafts_and_leaves_cached_tokens_out_of_its_prompts() -> None:
    text = """# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed, excluding cached tokens
llamacpp:prompt_tokens_total 124
llamacpp:prompt_tokens_cached_total 118
llamacpp:tokens_predicted_total 166
llamacpp:spec_decode_num_draft_tokens_total 298
llamacpp:spec_decode_num_accepted_tokens_total 84
llamacpp:requests_processing 1
llamacpp:requests_deferred 0
"""
    found = load_from_metrics(EngineKind.XLLAMACPP, text)
    assert found == EngineLoad(1, 0, None, 124, 166, 242, 118, 298, 84)
