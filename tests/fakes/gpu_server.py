"""A program that behaves as `vllm serve` or `sglang.launch_server` do towards whoever started it. Real HTTP, no GPU.

Takes their arguments, answers /health, /v1/models, /metrics and chat, wants the key they would want. What it was
started with stands in its log. A question that says `hold` ends when one that says `free` has come; `die` kills it.
As a real vLLM in the first step of a burst, it tells of no more than one that runs.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from tests.emulators.openai_server import DONE, GREETING, STOP, counted, delta, usage

PROMPT, CACHED, OUTPUT = 40, 32, 4


class GpuServer:
    def __init__(self, kind: str, model: str, key: str, context: int) -> None:
        self.kind, self.model, self.key, self.context = kind, model, key, context
        self.running = self.answered = 0
        self._free = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0] or 0)
                body = json.loads(await reader.readexactly(length) or b"{}")
                path = head.split(" ", 2)[1]
                if path.startswith("/v1/") and self.key and f"bearer {self.key}".lower() not in head.lower():
                    self._whole(writer, 401, "{}")
                elif path == "/v1/chat/completions":
                    await self._chat(writer, body)
                else:
                    self._whole(writer, 200, self._told(path))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _whole(self, writer: asyncio.StreamWriter, status: int, text: str) -> None:
        said = text.encode()
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(said), said))

    def _told(self, path: str) -> str:
        if path == "/v1/models":
            return json.dumps({"object": "list", "data": [{"id": self.model, "max_model_len": self.context}]})
        return metrics(self.kind, self.model, min(1, self.running), self.answered) if path == "/metrics" else ""

    async def _chat(self, writer: asyncio.StreamWriter, body: dict) -> None:
        asked = str(body["messages"][-1]["content"])
        if "die" in asked:
            print("CUDA error: an illegal memory access was encountered", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        self.running += 1
        try:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            self._piece(writer, GREETING)
            self._piece(writer, delta(content="Hello"))
            await writer.drain()
            if "free" in asked:
                self._free.set()
            if "hold" in asked:
                await self._free.wait()
            for piece in (delta(content=" there."), STOP, counted(usage(OUTPUT, PROMPT, CACHED)), DONE):
                self._piece(writer, piece)
            writer.write(b"0\r\n\r\n")
            await writer.drain()
            self.answered += 1
        finally:
            self.running -= 1

    def _piece(self, writer: asyncio.StreamWriter, piece: bytes) -> None:
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))


def metrics(kind: str, model: str, running: int, answered: int) -> str:
    """Some of what they tell, in their words: histograms and what else nobody reads among it."""
    read, written, hit = PROMPT * answered, OUTPUT * answered, CACHED * answered
    if kind == "sglang":
        told = f"""# HELP sglang:num_running_reqs The number of running requests
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{{model_name="{model}",tp_rank="0"}} {running}.0
sglang:num_queue_reqs{{model_name="{model}"}} 0.0
sglang:token_usage{{model_name="{model}"}} 0.28
sglang:cache_hit_rate{{model_name="{model}"}} 0.0075
sglang:prompt_tokens_total{{model_name="{model}"}} {read}.0
sglang:generation_tokens_total{{model_name="{model}"}} {written}.0
sglang:cached_tokens_total{{model_name="{model}",cache_source="device"}} {hit}.0
sglang:time_to_first_token_seconds_bucket{{le="0.001",model_name="{model}"}} 0.0
"""
    else:
        labels = f'engine="0",model_name="{model}"'
        told = f"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{{labels}}} {running}.0
vllm:num_requests_waiting{{{labels}}} 0.0
vllm:num_requests_waiting_by_reason{{{labels},reason="capacity"}} 2.0
vllm:kv_cache_usage_perc{{{labels}}} 0.125
vllm:prefix_cache_queries_total{{{labels}}} {float(read)!r}
vllm:prefix_cache_queries_created{{{labels}}} 1.7e+09
vllm:prefix_cache_hits_total{{{labels}}} {float(hit)!r}
vllm:prompt_tokens_total{{{labels}}} {float(read)!r}
vllm:generation_tokens_total{{{labels}}} {float(written)!r}
vllm:spec_decode_num_drafts_total{{{labels}}} {3.0 * answered}
vllm:spec_decode_num_draft_tokens_total{{{labels}}} {6.0 * answered}
vllm:spec_decode_num_accepted_tokens_total{{{labels}}} {2.0 * answered}
vllm:e2e_request_latency_seconds_bucket{{le="+Inf",{labels}}} 7.0
"""
    return told


async def _run(options: argparse.Namespace, model: str, key: str) -> None:
    server = GpuServer(options.kind, model, key, options.context)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", options.port)
    print(f"listening on {listening.sockets[0].getsockname()[1]}", flush=True)
    async with listening:
        await listening.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    parser.add_argument("weights", nargs="?")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--served-model-name", "--model-path", dest="model", default="their-model")
    parser.add_argument("--context", "--max-model-len", "--context-length", dest="context", type=int, default=2048)
    parser.add_argument("--config", type=Path)
    options, rest = parser.parse_known_args()
    print("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES"), "passed on", *rest, flush=True)
    if "--fail" in rest:
        sys.exit("ValueError: No available memory for the cache blocks.")
    key = os.environ.get("VLLM_API_KEY", "")
    if options.config is not None:
        key = json.loads(options.config.read_text().partition("api-key: ")[2])
    asyncio.run(_run(options, options.model, key))


if __name__ == "__main__":
    main()
