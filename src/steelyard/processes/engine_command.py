"""How a GPU engine is started: its command line and environment, and what may be shown of them. Pure.

vLLM takes its key from VLLM_API_KEY; SGLang knows a file of arguments (`--config`), which keeps its key off the command
line, where everybody on the machine could read it.
"""

import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from steelyard.kernel.engines import EngineKind, EngineSpec
from steelyard.kernel.errors import StartError, bad_request

HOST = "127.0.0.1"
_SECRET = re.compile(r"--?[a-z-]*(?:key|token|secret|password)[a-z-]*", re.IGNORECASE)
_OURS = frozenset(
    {
        *("--host", "--port", "--api-key", "--served-model-name", "--model", "--model-path", "--config"),
        *("--uds", "--ssl-keyfile", "--ssl-certfile", "--root-path"),
    }
)
"""Arguments that decide who reaches the server, and by what name: they are set here."""
_PROGRAMS: Mapping[EngineKind, tuple[str, ...]] = {
    EngineKind.VLLM: ("vllm", "serve"),
    EngineKind.SGLANG: (sys.executable, "-m", "sglang.launch_server"),
}


class Started(NamedTuple):
    """What to run. `config` is the content of the file that stands at `config_file`; empty: none is needed."""

    command: list[str]
    environment: dict[str, str]
    config: str
    shown: str


def check_extra(kind: EngineKind, extra: Sequence[str]) -> None:
    """Raises CallerError 400 for an argument that is ours to set."""
    for argument in extra:
        name = argument.partition("=")[0].replace("_", "-")
        if name in _OURS:
            raise bad_request(f"{name} is set by Steelyard. Leave it out.", "extra")
        if kind is EngineKind.VLLM and name == "--speculative-config":
            raise bad_request("Give --speculative-config before the --, so that it can be checked and shown.", "extra")


def check_speculative(kind: EngineKind, text: str) -> None:
    """Raises CallerError 400 for what is no JSON object, or is given to a server that takes none."""
    if not text:
        return
    if kind is not EngineKind.VLLM:
        raise bad_request(
            "--speculative-config is vLLM's. SGLang takes arguments of its own, behind the --: "
            "--speculative-algorithm NEXTN --speculative-num-steps 3",
            "speculative",
        )
    try:
        asked = json.loads(text)
    except ValueError:
        asked = None
    if not isinstance(asked, dict) or not isinstance(asked.get("num_speculative_tokens"), int):
        raise bad_request(
            '--speculative-config is a JSON object with num_speculative_tokens, such as \'{"method":"mtp",'
            '"num_speculative_tokens":1}\'.',
            "speculative",
        )


def start_of(spec: EngineSpec, port: int, key: str, config_file: str) -> Started:
    """The server behind `port` of this machine, reachable with `key` only. Raises StartError for a key that the server
    would take for an option: earlier versions made some."""
    arguments = _vllm(spec) if spec.kind is EngineKind.VLLM else _sglang(spec, config_file if key else "")
    program = spec.command or _PROGRAMS[spec.kind]
    command = [*program, *arguments, "--host", HOST, "--port", str(port), *spec.extra]
    environment = {"CUDA_VISIBLE_DEVICES": ",".join(spec.gpus)} if spec.gpus else {}
    shown = dict(environment)
    config = ""
    if key and spec.kind is EngineKind.VLLM:
        environment["VLLM_API_KEY"] = key
        shown["VLLM_API_KEY"] = "…"
    elif key.startswith("-"):
        raise StartError(f"{spec.name} has a key that SGLang cannot read. Remove the engine and add it again.")
    elif key:
        config = f"api-key: {json.dumps(key)}\n"
    return Started(command, environment, config, shown_command(command, shown))


def shown_command(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """As one would type it, without secrets."""
    words = [f"{name}={value}" for name, value in environment.items()]
    return " ".join([*words, *_hidden(command)])


def _hidden(command: Sequence[str]) -> Iterator[str]:
    hide = False
    for argument in command:
        name, equals, _ = argument.partition("=")
        if hide and not argument.startswith("-"):
            yield "…"
        elif equals and _SECRET.fullmatch(name):
            yield f"{name}=…"
        else:
            yield shlex.quote(argument)
        hide = not equals and _SECRET.fullmatch(argument) is not None


def _vllm(spec: EngineSpec) -> list[str]:
    arguments = [spec.weights, "--served-model-name", spec.model, "--enable-prompt-tokens-details"]
    arguments += ["--disable-uvicorn-access-log"]  # a line for each of our four looks a second, and for each request
    if spec.context_tokens:
        arguments += ["--max-model-len", str(spec.context_tokens)]
    if spec.gpu_count > 1:
        arguments += ["--tensor-parallel-size", str(spec.gpu_count)]
    if spec.speculative:
        arguments += ["--speculative-config", spec.speculative]
    return arguments


def _sglang(spec: EngineSpec, config_file: str) -> list[str]:
    arguments = ["--config", config_file] if config_file else []
    arguments += ["--model-path", spec.weights, "--served-model-name", spec.model]
    arguments += ["--enable-metrics", "--enable-cache-report", "--log-level-http", "warning"]
    if spec.context_tokens:
        arguments += ["--context-length", str(spec.context_tokens)]
    if spec.gpu_count > 1:
        arguments += ["--tp", str(spec.gpu_count)]
    return arguments
