"""`make bench-gpu`: a real vLLM or SGLang on a real GPU, sold by `steelyard up`, and asked past us in turns.

Pace with so many at once; whose the GPU's time and joules are, against its own counter; whether the books count what
the server counts; what `kill -9` of it costs amid eight streams; and a server adopted. Needs an NVIDIA GPU, the extra
`gpu`, the server and a model: `python -m bench.gpu --model FOLDER [--name NAME] [-- THE SERVER'S ARGUMENTS]`. Elsewhere
it says so and leaves the last results as they are.
"""

import argparse
import http.client
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from bench.lab.child import Child, free_port, until_answered
from bench.lab.replay import Conversation, put
from bench.report import RUNS_MIN, Report
from bench.restart import recovered
from steelyard.kernel.directory import DataDir
from steelyard.metering.power import Nvml, nvml_for
from steelyard.processes import engine_files
from steelyard.upstream.sealed import Master

_MODEL, _ENGINE, _ADOPTED = "gpu-model", "gpu", "adopted"
_AT_ONCE = (1, 8, 64, 256)
_ROUNDS = 2  # answers of each who asks, one after the other
_TOKENS = 128
_STREAMS, _STREAM_TOKENS = 8, 4000
_ALIKE = 64
_PATIENCE_S = 300
_DATED = 'currency = "CNY"\neffective_from = 2026-01-01T00:00:00+08:00\nsource = "for measurements"\n'
_PRICE = f'{_DATED}per = "1M tokens"\ninput = "2"\ncached_input = "0.2"\noutput = "8"\n'
_COST = f'{_DATED}gpu_hour = "12.50"\nwatts_per_busy_gpu = "450"\nkwh = "0.60"\n'
_BOOK = "".join(
    (
        *(f'[[price]]\nmodel = "{model}"\n{_PRICE}' for model in (_MODEL, _ADOPTED)),
        *(f'[[cost]]\nupstream = "{upstream}"\n{_COST}' for upstream in (_ENGINE, _ADOPTED)),
    )
)


class Books(NamedTuple):
    """Sums over usage rows."""

    rows: int
    prompt: int
    cached: int
    output: int
    gpu_ns: int
    measured_uj: int

    def since(self, before: "Books") -> "Books":
        return Books(*(new - old for new, old in zip(self, before, strict=True)))


class House:
    """`steelyard up --no-engine` in a directory of its own, and what is asked of it as a person would."""

    def __init__(self, folder: Path) -> None:
        self.root, self.port, self._log = folder / "data", free_port(), folder / "up.log"
        command = [sys.executable, "-m", "steelyard.cli.main", "up", "--no-engine", "--data", str(self.root)]
        environment = {"STEELYARD_EMBEDDINGS": "false", "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
        cpus = frozenset(os.sched_getaffinity(0))
        self.child = Child([*command, "--port", str(self.port)], cpus, self._log, environment, says_ready=False)
        self.key = ""

    def furnish(self) -> None:
        """Two models with prices and costs, and somebody with money and a key."""
        until_answered(self.child, self.port, b"GET /healthz HTTP/1.1\r\nhost: bench\r\n\r\n")
        book = self.root / "gpu.toml"
        book.write_text(_BOOK)
        self.run("prices", "load", str(book))
        self.run("tenant", "add", "bench")
        self.run("wallet", "topup", "bench", "1000000")
        self.key = str(self.run("key", "add", "bench", "--name", "bench")["key"])

    def run(self, *arguments: str, check: bool = True) -> Any:
        command = [sys.executable, "-m", "steelyard.cli.main", arguments[0], *arguments[1:]]
        place = command.index("--") if "--" in command else len(command)
        command[place:place] = ["--json", "--data", str(self.root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise SystemExit(f"{' '.join(arguments)}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else {}

    def books(self) -> Books:
        sums = "count(*), sum(input + cached_input), sum(cached_input), sum(output), sum(cpu_ns), sum(measured_uj)"
        with closing(sqlite3.connect(f"file:{self.root / 'steelyard.db'}?mode=ro", uri=True)) as connection:
            found = connection.execute(f"SELECT {sums} FROM usage").fetchone()
        return Books(*(int(one or 0) for one in found))

    def settled(self, rows: int) -> Books:
        """The books once they have so many rows. Raises SystemExit when they do not get there."""
        deadline = time.monotonic() + _PATIENCE_S
        while (found := self.books()).rows < rows:
            if time.monotonic() > deadline:
                raise SystemExit(f"{found.rows} usage rows, not {rows}: {self._log.read_text()[-800:]}")
            time.sleep(0.05)
        return found

    def ask(self, *, stream: bool, tokens: int) -> HTTPResponse:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE_S)
        turn = {"role": "user", "content": "Tell a very long story about the sea."}
        asked = {"model": _MODEL, "messages": [turn], "ignore_eos": True}
        head = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        body = json.dumps({**asked, "stream": stream, "max_tokens": tokens, "temperature": 0})
        line.request("POST", "/v1/chat/completions", body, head)
        return line.getresponse()


@contextmanager
def house() -> Iterator[House]:
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as name:
        running = House(Path(name))
        try:
            running.furnish()
            yield running
        finally:
            running.child.stop()


def questions(turn: int, count: int) -> list[Conversation]:
    """Each begins differently: no prompt is in the prefix cache."""
    tale = " ".join(f"Item {number} costs {number * 7 + turn} coins." for number in range(20))
    return [[{"role": "user", "content": f"Case {turn}-{number}. {tale} Tell its story."}] for number in range(count)]


def pace(report: Report, running: House, power: Nvml, turn: Iterator[int]) -> None:
    """Tokens a second through us and past us in turns; the joules of ours, and whose they are."""
    data = DataDir(running.root)
    spec = engine_files.spec(data, _ENGINE)
    seen = engine_files.seen(data, _ENGINE)
    if seen is None:
        raise SystemExit("The engine is not seen.")
    direct = int(seen.address.rpartition(":")[2]), Master(data.master).open(spec.token)
    for at_once in _AT_ONCE:
        asked, ours, theirs, joules, shares, busy = at_once * _ROUNDS, [], [], [], [], []
        for _ in range(RUNS_MIN):
            before, _unused = running.books(), power.used_uj()
            done = put(running.port, running.key, _MODEL, questions(next(turn), asked), at_once, _TOKENS, exactly=True)
            drawn = power.used_uj() or 0
            found = running.settled(before.rows + asked).since(before)
            ours.append(done.tokens / done.wall_s)
            joules.append(drawn / 1e6 / done.tokens)
            shares.append(100 * found.measured_uj / max(1, drawn))
            busy.append(100 * found.gpu_ns / 1e9 / done.wall_s)
            done = put(*direct, _MODEL, questions(next(turn), asked), at_once, _TOKENS, exactly=True)
            theirs.append(done.tokens / done.wall_s)
        report.add(f"{at_once} at once, past us, tokens/s", theirs)
        report.add(f"{at_once} at once, tokens/s", ours, to=f"{at_once} at once, past us, tokens/s")
        report.add(f"{at_once} at once, GPU joules/token (NVML)", joules, to="" if at_once == 1 else _first(report))
        report.add(f"{at_once} at once, % of the GPU's joules that requests were given", shares)
        report.add(f"{at_once} at once, % of the wall time that requests were given as GPU time", busy)
        print(*report.table().splitlines()[-5:], sep="\n", flush=True)


def _first(report: Report) -> str:
    return next(row.label for row in report.rows if "joules/token" in row.label)


def counted(report: Report, running: House) -> None:
    """The books beside the server's own counters, over a stretch of nothing but ours."""
    told, before = running.run("engine", "show", _ENGINE), running.books()
    system = "You are a clerk. " + "Weigh every sack twice and write down both weights. " * 40
    asked: list[Conversation] = [
        [{"role": "system", "content": system}, {"role": "user", "content": f"Question {number}."}]
        for number in range(_ALIKE)
    ]
    put(running.port, running.key, _MODEL, asked, 16, 32, exactly=True)
    found = running.settled(before.rows + len(asked)).since(before)
    time.sleep(1.5)  # it tells of itself twice a second
    after = running.run("engine", "show", _ENGINE)
    for label, ours, name in (
        ("prompt tokens", found.prompt, "prefill_tokens"),
        ("output tokens", found.output, "decode_tokens"),
        ("prompt tokens from the prefix cache", found.cached, "cache_hit_tokens"),
    ):
        theirs = f"{_ALIKE} with one system prompt: {label}, the server's counter"
        counter = report.add(theirs, (after[name] or 0) - (told[name] or 0))
        report.add(f"{_ALIKE} with one system prompt: {label}, the books", ours, to=theirs if counter else "")


def servers_of(running: House) -> list[psutil.Process]:
    """All that the keeper of the engine started."""
    for child in psutil.Process(running.child.pid).children(recursive=True):
        if "steelyard.processes.keeper" in child.cmdline() and _ENGINE in child.cmdline():
            return list(child.children(recursive=True))
    raise SystemExit("The engine has no keeper.")


def killed(running: House) -> tuple[float, float]:
    """Seconds from the kill of the server until all is settled, and until there is an answer again."""
    streams = [running.ask(stream=True, tokens=_STREAM_TOKENS) for _ in range(_STREAMS)]
    for stream in streams:
        stream.readline()
    before = running.books().rows
    for server in servers_of(running):
        server.kill()
    return recovered(
        lambda: running.books().rows >= before + _STREAMS, lambda: running.ask(stream=False, tokens=4), _PATIENCE_S
    )


def adopted(running: House, kind: str) -> str:
    """The server that runs is taken in a second time, as one that somebody else started: its answer."""
    data = DataDir(running.root)
    seen = engine_files.seen(data, _ENGINE)
    key = Master(data.master).open(engine_files.spec(data, _ENGINE).token)
    os.environ["BENCH_GPU_KEY"] = key
    asked = ["--model", _MODEL, "--as", _ADOPTED, "--name", _ADOPTED, "--gpus", "0", "--key-env", "BENCH_GPU_KEY"]
    running.run("engine", "add", kind, *asked, "--adopt", f"http://{seen.address if seen else ''}")
    text = [[{"role": "user", "content": "What is the capital of France?"}]]
    said = put(running.port, running.key, _ADOPTED, text, 1, 16).texts[0]
    running.run("engine", "remove", _ADOPTED)
    return said


def measured(options: argparse.Namespace, power: Nvml) -> None:
    report, turn = Report(options.results, "see the row"), iter(range(10**6))
    with house() as running:
        began = time.monotonic()
        asked = ["--model", str(options.model), "--as", _MODEL, "--name", _ENGINE, "--gpus", "0"]
        for name in ("command", "speculative_config"):
            asked += ["--" + name.replace("_", "-"), getattr(options, name)] if getattr(options, name) else []
        running.run("engine", "add", options.kind, *asked, "--start-s", str(_PATIENCE_S), "--", *options.more)
        first = put(running.port, running.key, _MODEL, [[{"role": "user", "content": options.ask}]], 1, 24).texts[0]
        report.add("from `engine add` to the first answer, s", time.monotonic() - began)
        print(f"{options.ask} {first!r}", flush=True)
        pace(report, running, power, turn)
        counted(report, running)
        second = adopted(running, options.kind)
        print(f"adopted: {second!r}", flush=True)
        shown = running.run("engine", "show", _ENGINE)
        for label, seconds in zip(("all settled", "the first answer"), killed(running), strict=True):
            report.add(f"kill -9 amid {_STREAMS} streams: seconds to {label}", seconds)
        began = time.monotonic()
        running.run("engine", "drain", _ENGINE)
        while running.run("engine", "show", _ENGINE)["state"] != "drained" and time.monotonic() - began < _PATIENCE_S:
            time.sleep(0.1)
        report.add("drain, nothing running: seconds", time.monotonic() - began)
        verified = running.run("verify", check=False)
    kept = ("drafted_tokens", "accepted_tokens", "energy", "busy_ns", "up_ns", "busy_uj", "idle_uj", "command")
    report.finish(
        gpu=gpu_here(), model=options.name or str(options.model), said=first, adopted_said=second,
        server={name: shown.get(name) for name in kept}, verify=verified,
    )  # fmt: skip


def gpu_here() -> str:
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    if shutil.which(asked[0]) is None:
        return "unknown"
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kind", choices=("vllm", "sglang"), default="vllm")
    parser.add_argument("--command", default="", help="what starts the server, if not the kind's own program")
    parser.add_argument("--model", help="what the server loads: a folder, or a repository's name")
    parser.add_argument("--name", default="", help="what the results call it")
    parser.add_argument("--results", default="gpu", help="the name of the results")
    parser.add_argument("--ask", default="What is the capital of France?")
    parser.add_argument("--speculative-config", default="")
    parser.add_argument("more", nargs="*", help="behind --: arguments for the server")
    options = parser.parse_args(arguments)
    power = nvml_for(["0"])
    if power is None or not options.model:
        lacks = "a GPU whose energy can be read" if power is None else "--model FOLDER"
        print(f"*** SKIPPED bench-gpu: it needs {lacks}.", file=sys.stderr, flush=True)
        return
    measured(options, power)


if __name__ == "__main__":
    main()
