"""Scripted servers sold by the real platform: a model `vendor-m` at the upstream `vendor` that speaks OpenAI's dialect,
and `claude-m` at `claude`, which speaks Anthropic's."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.emulators.anthropic_server import AnthropicServer
from tests.emulators.openai_server import OpenAIServer
from tests.platform import Platform, wait_for

from steelyard.cli.desk import Line
from steelyard.kernel.directory import DataDir

MODEL, UPSTREAM = "vendor-m", "vendor"
CLAUDE_MODEL, CLAUDE = "claude-m", "claude"
BUSY_MODEL, BUSY = "claude-busy", "claude-busy"
"""The same server by another name: an upstream that says for how long it is busy is left alone for so long."""
READERS = {"vendor-embed": "embedding", "vendor-rank": "rerank", "vendor-judge": "moderation"}
PRICE = """
[[price]]
model = "{model}"
currency = "CNY"
effective_from = 2026-01-01T00:00:00+08:00
per = "1M tokens"
input = "2"
cached_input = "0.2"
output = "8"
source = "tests"
"""
PRICES = f"""{PRICE}
[[price]]
model = "{{model}}"
tier = "batch"
currency = "CNY"
effective_from = 2026-01-01T00:00:00+08:00
per = "1M tokens"
input = "1"
cached_input = "0.1"
output = "4"
source = "tests"

[[cost]]
upstream = "{{upstream}}"
currency = "CNY"
effective_from = 2026-01-01T00:00:00+08:00
cpu_hour = "0.10"
watts_per_busy_core = "8"
kwh = "0.60"
source = "tests"
"""
READER_PRICE = """
[[price]]
model = "{model}"
currency = "CNY"
effective_from = 2026-01-01T00:00:00+08:00
per = "1M tokens"
input = "0.7"
source = "tests"
"""


@contextmanager
def sold(platform: Platform) -> Iterator[OpenAIServer]:
    with OpenAIServer() as server, offered(platform, f"127.0.0.1:{server.port}"):
        offer_readers(platform, f"127.0.0.1:{server.port}")
        yield server


@contextmanager
def claude_sold(platform: Platform) -> Iterator[AnthropicServer]:
    """Over TLS where a certificate can be made, and below a path as vendors have it."""
    tls = platform.authority and platform.authority.server()
    with (
        AnthropicServer(tls) as server,
        offered(platform, claude_address(server, tls), model=CLAUDE_MODEL, upstream=CLAUDE, kind="anthropic"),
    ):
        yield server


def claude_address(server: AnthropicServer, tls: object) -> str:
    return f"http{'s' if tls else ''}://127.0.0.1:{server.port}/anthropic"


@contextmanager
def offered(
    platform: Platform, address: str, *, model: str = MODEL, upstream: str = UPSTREAM, kind: str = "openai"
) -> Iterator[None]:
    counts = dict.fromkeys(("context_tokens", "max_output_tokens", "default_max_tokens"), 4096)
    names = {"name": model, "upstream": upstream, "upstream_model": "their-m", "kind": kind}
    with Line(DataDir(platform.data).socket) as line:
        line.command("prices.load", {"text": PRICES.format(model=model, upstream=upstream)})
        line.command("model.register", {**names, **counts, "address": address})
    wait_for(
        lambda: all(model in platform.get("/readyz")["models"] for _ in range(6)), "every worker to know the model"
    )
    yield
    with Line(DataDir(platform.data).socket) as line:
        line.command("model.withdraw", {"upstream": upstream})


def offer_readers(platform: Platform, address: str) -> None:
    """At the upstream of `MODEL`, with which they are withdrawn."""
    counts = {"context_tokens": 512, "max_output_tokens": 0, "default_max_tokens": 0}
    names = {"upstream": UPSTREAM, "upstream_model": "their-m", "kind": "openai", "address": address}
    with Line(DataDir(platform.data).socket) as line:
        line.command("prices.load", {"text": "".join(READER_PRICE.format(model=model) for model in READERS)})
        for model, capability in READERS.items():
            line.command("model.register", {**names, **counts, "name": model, "capabilities": [capability]})
    wait_for(
        lambda: all(set(READERS) <= set(platform.get("/readyz")["models"]) for _ in range(6)),
        "every worker to know the models",
    )
