"""The scripted OpenAI server sold by the real platform: a model `vendor-m` with prices, at the upstream `vendor`."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.emulators.openai_server import OpenAIServer
from tests.platform import Platform, wait_for

from steelyard.cli.desk import Line
from steelyard.kernel.directory import DataDir

MODEL, UPSTREAM = "vendor-m", "vendor"
PRICES = f"""
[[price]]
model = "{MODEL}"
currency = "CNY"
effective_from = 2026-01-01T00:00:00+08:00
per = "1M tokens"
input = "2"
cached_input = "0.2"
output = "8"
source = "tests"

[[cost]]
upstream = "{UPSTREAM}"
currency = "CNY"
effective_from = 2026-01-01T00:00:00+08:00
cpu_hour = "0.10"
watts_per_busy_core = "8"
kwh = "0.60"
source = "tests"
"""


@contextmanager
def sold(platform: Platform) -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        counts = dict.fromkeys(("context_tokens", "max_output_tokens", "default_max_tokens"), 4096)
        names = {"name": MODEL, "upstream": UPSTREAM, "upstream_model": "their-m", "kind": "openai"}
        with Line(DataDir(platform.data).socket) as line:
            line.command("prices.load", {"text": PRICES})
            line.command("model.register", {**names, **counts, "address": f"127.0.0.1:{server.port}"})
        wait_for(
            lambda: all(MODEL in platform.get("/readyz")["models"] for _ in range(6)), "every worker to know the model"
        )
        yield server
        with Line(DataDir(platform.data).socket) as line:
            line.command("model.withdraw", {"upstream": UPSTREAM})
