"""How GPU engines are started, and that no secret shows."""

import pytest

from steelyard.kernel.engines import EngineKind, EngineSpec
from steelyard.kernel.errors import CallerError, StartError
from steelyard.processes.engine_command import check_extra, check_speculative, shown_command, start_of

MTP = '{"method":"mtp","num_speculative_tokens":1}'


def test_vllm_gets_its_key_in_the_environment() -> None:
    spec = EngineSpec(
        "fast", EngineKind.VLLM, "q8", "Qwen/Qwen3-8B", gpus=("0", "1"), context_tokens=8192, speculative=MTP,
        extra=("--max-num-seqs", "64"),
    )  # fmt: skip
    started = start_of(spec, 8001, "sy-secret", "/x.yaml")
    assert started.command == [
        *("vllm", "serve", "Qwen/Qwen3-8B", "--served-model-name", "q8", "--enable-prompt-tokens-details"),
        "--disable-uvicorn-access-log",
        *("--max-model-len", "8192", "--tensor-parallel-size", "2", "--speculative-config", MTP),
        *("--host", "127.0.0.1", "--port", "8001", "--max-num-seqs", "64"),
    ]
    assert started.environment == {"CUDA_VISIBLE_DEVICES": "0,1", "VLLM_API_KEY": "sy-secret"}
    assert started.config == ""
    assert "sy-secret" not in started.shown
    assert started.shown.startswith("CUDA_VISIBLE_DEVICES=0,1 VLLM_API_KEY=… vllm serve Qwen/Qwen3-8B")


def test_sglang_gets_it_in_a_file() -> None:
    spec = EngineSpec("sg", EngineKind.SGLANG, "q8", "Qwen/Qwen3-8B", gpus=("1",), command=("sgl",))
    started = start_of(spec, 8001, "sy-secret", "/x.yaml")
    assert started.command == [
        *("sgl", "--config", "/x.yaml", "--model-path", "Qwen/Qwen3-8B", "--served-model-name", "q8"),
        *(
            "--enable-metrics",
            "--enable-cache-report",
            "--log-level-http",
            "warning",
            "--host",
            "127.0.0.1",
            "--port",
            "8001",
        ),
    ]
    assert started.config == 'api-key: "sy-secret"\n'
    assert started.environment == {"CUDA_VISIBLE_DEVICES": "1"}
    assert "sy-secret" not in started.shown


def test_secrets_among_passed_arguments_are_hidden() -> None:
    shown = shown_command(["vllm", "--hf-token", "hf_abc", "--other-secret=x", "--token-count", "5 6"], {})
    assert shown == "vllm --hf-token … --other-secret=… --token-count …"


@pytest.mark.parametrize("extra", ["--port", "--api-key=x", "--served_model_name", "--speculative-config"])
def test_what_is_ours_to_set_is_refused(extra: str) -> None:
    with pytest.raises(CallerError, match="--"):
        check_extra(EngineKind.VLLM, [extra, "1"])


def test_speculation_is_checked_before_a_gpu_is_taken() -> None:
    check_speculative(EngineKind.VLLM, MTP)
    check_speculative(EngineKind.SGLANG, "")
    for kind, text in ((EngineKind.VLLM, "mtp"), (EngineKind.VLLM, "{}"), (EngineKind.SGLANG, MTP)):
        with pytest.raises(CallerError) as error:
            check_speculative(kind, text)
        assert error.value.param == "speculative"


def test_a_key_that_sglang_would_take_for_an_option_is_refused_with_what_to_do() -> None:
    spec = EngineSpec("sg", EngineKind.SGLANG, "q8", "Qwen/Qwen3-8B")
    with pytest.raises(StartError, match="Remove the engine and add it again"):
        start_of(spec, 8001, "-secret", "/x.yaml")
    assert start_of(spec, 8001, "a-secret", "/x.yaml").config == 'api-key: "a-secret"\n'
