"""`make bench-ladder`: from transformers one by one to our server, rung by rung, on stated workloads.

Every rung of ours is asked through the real `steelyard up`: keys, holds, meter and books are in its figures. The naive
rungs run in an environment of their own (torch and transformers, under the user's cache, or a Python that is named) and
are extrapolated from a few requests, which the table says. `--only PART …` measures some parts again and keeps the rest
of this machine's last results. What was measured is on the record after each part, so a run may be stopped.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench.lab.baseline import installed, named
from bench.lab.child import Child, free_port, until_answered
from bench.lab.draw import bars
from bench.lab.replay import (
    DISTINCT,
    OUTPUT_TOKENS,
    REPEATING,
    REQUESTS,
    TEXT_TOKENS,
    TEXTS,
    Conversation,
    Done,
    conversation,
    put,
    replay,
)
from bench.lab.weigh import cpu_s, rss_mb
from bench.report import RESULTS, Report, circumstances, plain, write
from steelyard.catalog.demo import demo_price_text
from steelyard.catalog.price_file import parse_price_file
from steelyard.kernel.quantities import Meter, Usage
from steelyard.metering.energy import energy_uj
from steelyard.rating.rate import cost_of
from steelyard.upstream.gguf import read_gguf
from steelyard.upstream.weights import fetch

SCRIPT = Path(__file__).parent / "lab" / "naive.py"
NAIVE_REQUESTS = 3
SERVED_AT_ONCE = 32
NAIVE_CLIENTS = 4  # of the 32 that a server behind a lock is asked by: it answers one after the other
AT_ONCE = 64
UNSHARED_REQUESTS = 16
CACHE = "x-steelyard-cache: answer\r\n"
FILE = RESULTS / "ladder.json"
PICTURE = RESULTS.parent.parent / "docs" / "explain" / "ladder.svg"
Measured = dict[str, dict[str, Any]]

NAIVE, BF16 = "transformers fp32, one by one", "transformers bf16, one by one"
BATCHED, PREFIX = "+ continuous batching", "+ prefix cache"
LEADER, ANSWERS = "+ leader first", "+ exact-answer cache"
DRAFTS = "+ speculation (off in the next rung)"
REPEATS, DRAFTED = "answers that repeat the prompt, one by one", "the same with speculation"
UNREPEATED = "no repeats: leader first"
NAIVE_SERVER, BF16_SERVER = "32-way: FastAPI + fp32 + lock", "32-way: FastAPI + bf16 + lock"
OUR_SERVER = "32-way: steelyard"
_RUNGS = (NAIVE, BF16, BATCHED, PREFIX, LEADER, DRAFTS, ANSWERS)
ORDER = (*_RUNGS, UNREPEATED, NAIVE_SERVER, BF16_SERVER, OUR_SERVER, REPEATS, DRAFTED)
AGAINST = {UNREPEATED: NAIVE, REPEATS: "", DRAFTED: "", BF16_SERVER: NAIVE_SERVER, OUR_SERVER: NAIVE_SERVER}
"""With what a rung is compared that is not the first of the ladder's."""
BEFORE = {BF16: NAIVE, BATCHED: BF16, PREFIX: BATCHED, LEADER: PREFIX, DRAFTS: LEADER, ANSWERS: LEADER}
BEFORE |= {OUR_SERVER: BF16_SERVER, DRAFTED: REPEATS}


class Given(NamedTuple):
    """What the parts are given: the model's file, and the naive rungs' Python, None where there is none."""

    model: Path
    python: Path | None


def naive(python: Path, model: Path, dtype: str) -> dict[str, Any]:
    """A few requests one by one, as long as all of the replay would take at that pace."""
    job = {
        "timed": [conversation(number) for number in range(NAIVE_REQUESTS + 1)],
        "texts": TEXTS,
        "max_tokens": OUTPUT_TOKENS,
        "text_tokens": TEXT_TOKENS,
    }
    command = [str(python), "-I", str(SCRIPT), str(model), dtype]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"The naive way failed: {done.stderr[-800:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    times = REQUESTS / found["requests"]
    sums = {name: found[name] * times for name in ("wall_s", "cpu_s", "tokens")}
    return sums | {name: found[name] for name in ("prompt_tokens", "texts", "versions")} | {"extrapolated": times}


def naive_server(python: Path, model: Path, dtype: str, folder: Path) -> dict[str, Any]:
    """Some of 32 clients at once; the lock makes it one after the other, so the rest would take as long again."""
    port = free_port()
    command = [str(python), "-I", str(SCRIPT), str(model), dtype, "--serve", str(port)]
    child = Child(command, frozenset(os.sched_getaffinity(0)), folder / "naive.log")
    try:
        until_answered(child, port, b"GET /docs HTTP/1.1\r\nhost: bench\r\n\r\n")
        asked = [conversation(number) for number in range(NAIVE_CLIENTS + 1)]
        put(port, "none", "m", asked[:1], 1, OUTPUT_TOKENS)
        found = weighed(child, lambda: put(port, "none", "m", asked[1:], NAIVE_CLIENTS, OUTPUT_TOKENS))
    finally:
        child.stop()
    times = SERVED_AT_ONCE / NAIVE_CLIENTS
    return found | {name: found[name] * times for name in ("wall_s", "cpu_s", "tokens")} | {"extrapolated": times}


def weighed(child: Child, ask: Callable[[], Done]) -> dict[str, Any]:
    """What asking took: wall time here, CPU time in the child and all its children."""
    before = cpu_s(child.pid)
    done = ask()
    return {
        "wall_s": done.wall_s,
        "cpu_s": cpu_s(child.pid) - before,
        "tokens": done.tokens,
        "prompt_tokens": done.prompt_tokens,
        "cached_tokens": done.cached_tokens,
        "extrapolated": 1,
    }


class Up:
    """`steelyard up` in a directory of its own. `leaderless`: its scheduler lets nobody wait for a leader."""

    def __init__(self, folder: Path, *, leaderless: bool, speculate: str) -> None:
        self.port, self._log = free_port(), folder / "up.log"
        path = [str(Path(__file__).parent / "lab" / "leaderless")] if leaderless else []
        environment = {
            "PYTHONPATH": os.pathsep.join([*path, *filter(None, [os.environ.get("PYTHONPATH")])]),
            "STEELYARD_EMBEDDINGS": "false",
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "200",
        }
        command = [sys.executable, "-m", "steelyard.cli.main", "up", "--data", str(folder / "data")]
        command += ["--port", str(self.port), "--speculate", speculate]
        everywhere = frozenset(os.sched_getaffinity(0))
        self.child = Child(command, everywhere, self._log, environment, says_ready=False)
        deadline = time.monotonic() + 300
        while "Ctrl-C stops it" not in self.said():
            if not self.child.alive or time.monotonic() > deadline:
                raise SystemExit(self.child.last_words())
            time.sleep(0.2)
        found = re.search(r"Demo API key\s+(\S+)", self.said())
        if found is None:
            raise SystemExit(self.child.last_words())
        self.key, self.model = found[1], read_gguf(fetch()).model_name

    def said(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._log.read_text(errors="replace"))

    @property
    def engine(self) -> str:
        found = re.search(r"Engine: (.*)", self.said().split("loading")[-1])
        return found[1] if found else "unknown"

    def ask(self, asked: Sequence[Conversation], at_once: int, header: str = "") -> dict[str, Any]:
        return weighed(self.child, lambda: put(self.port, self.key, self.model, asked, at_once, OUTPUT_TOKENS, header))

    def drafts(self) -> dict[str, int | None]:
        """What the engine drafted since it started, and what of it was accepted."""
        command = [sys.executable, "-m", "steelyard.cli.main", "engine", "show", "local", "--json"]
        command += ["--data", str(self._log.parent / "data")]
        told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        return {name: told[name] for name in ("drafted_tokens", "accepted_tokens")}

    def texts(self) -> list[str]:
        return put(self.port, self.key, self.model, TEXTS, 1, TEXT_TOKENS).texts


@contextmanager
def up(*, leaderless: bool = False, speculate: str = "off") -> Iterator[Up]:
    with tempfile.TemporaryDirectory() as folder:
        running = Up(Path(folder), leaderless=leaderless, speculate=speculate)
        try:
            yield running
        finally:
            running.child.stop()


def measure_naive(measured: Measured, given: Given) -> None:
    if given.python is not None:
        measured[NAIVE] = naive(given.python, given.model, "float32")


def measure_bf16(measured: Measured, given: Given) -> None:
    if given.python is not None:
        measured[BF16] = naive(given.python, given.model, "bfloat16")


def measure_naive_server(measured: Measured, given: Given) -> None:
    if given.python is not None:
        with tempfile.TemporaryDirectory() as folder:
            measured[NAIVE_SERVER] = naive_server(given.python, given.model, "float32", Path(folder))


def measure_bf16_server(measured: Measured, given: Given) -> None:
    if given.python is not None:
        with tempfile.TemporaryDirectory() as folder:
            measured[BF16_SERVER] = naive_server(given.python, given.model, "bfloat16", Path(folder))


def measure_batching(measured: Measured, given: Given) -> None:
    """Prompts that begin differently: a part of them, for each is read from its first token on."""
    with up(leaderless=True) as running:
        found = running.ask(replay(repeats=False, shared=False, requests=UNSHARED_REQUESTS), AT_ONCE)
    times = REQUESTS / UNSHARED_REQUESTS
    sums = {name: found[name] * times for name in ("wall_s", "cpu_s", "tokens")}
    measured[BATCHED] = found | sums | {"extrapolated": times}


def measure_prefix(measured: Measured, given: Given) -> None:
    with up(leaderless=True) as running:
        measured[PREFIX] = running.ask(replay(repeats=True), AT_ONCE)


def measure_leader(measured: Measured, given: Given) -> None:
    with up() as running:
        measured[LEADER] = running.ask(replay(repeats=True), AT_ONCE)
        measured[LEADER] |= {"texts": running.texts(), "engine": running.engine, "rss_mb": rss_mb(running.child.pid)}


def measure_drafts(measured: Measured, given: Given) -> None:
    with up(speculate="lookup") as running:
        measured[DRAFTS] = running.ask(replay(repeats=True), AT_ONCE)
        time.sleep(1)  # it tells of itself twice a second
        measured[DRAFTS] |= running.drafts() | {"texts": running.texts()}


def measure_repeating(measured: Measured, given: Given) -> None:
    for label, how in ((REPEATS, "off"), (DRAFTED, "lookup")):
        with up(speculate=how) as running:
            running.ask(REPEATING[:1], 1)
            measured[label] = running.ask(REPEATING, 1)


def measure_answers(measured: Measured, given: Given) -> None:
    with up() as running:
        measured[ANSWERS] = running.ask(replay(repeats=True), AT_ONCE, CACHE)


def measure_unrepeated(measured: Measured, given: Given) -> None:
    with up() as running:
        measured[UNREPEATED] = running.ask(replay(repeats=False), AT_ONCE)


def measure_our_server(measured: Measured, given: Given) -> None:
    with up() as running:
        measured[OUR_SERVER] = running.ask([conversation(number) for number in range(SERVED_AT_ONCE)], SERVED_AT_ONCE)


PARTS: Mapping[str, Callable[[Measured, Given], None]] = {
    "naive": measure_naive,
    "bf16": measure_bf16,
    "batching": measure_batching,
    "prefix": measure_prefix,
    "leader": measure_leader,
    "speculation": measure_drafts,
    "answers": measure_answers,
    "no-repeats": measure_unrepeated,
    "naive-server": measure_naive_server,
    "bf16-server": measure_bf16_server,
    "our-server": measure_our_server,
    "repeating": measure_repeating,
}
NAIVE_PARTS = frozenset({"naive", "bf16", "naive-server", "bf16-server"})


def price_of(cpu_seconds: float) -> float:
    """CNY at the demonstration's cost book: CPU-hours, and kWh modelled from them."""
    (cost,) = [one for one in parse_price_file(demo_price_text()).tariffs if one.watts_milli and one.subject == "local"]
    tariff, cpu_ns = cost.tariff(1), round(cpu_seconds * 1e9)
    usage = Usage(cpu_ns=cpu_ns, energy_uj=energy_uj(cpu_ns, tariff.watts_milli))
    lines = {line.meter: line.amount_nano for line in cost_of(usage, tariff)}
    return (lines.get(Meter.CPU, 0) + lines.get(Meter.ENERGY, 0)) / 1e9


def figures(measured: Measured) -> Iterator[dict[str, Any]]:
    """A row of the table for each rung that was measured."""
    for label in ORDER:
        if label not in measured:
            continue
        one = measured[label]
        first, before = measured.get(AGAINST.get(label, NAIVE)), measured.get(BEFORE.get(label, ""))

        def times(other: dict[str, Any] | None, what: str, one: dict[str, Any] = one) -> float | None:
            return (other[what] / other["tokens"]) / (one[what] / one["tokens"]) if other else None

        yield {
            "label": label + (f" (× {one['extrapolated']:g} from a part)" if one["extrapolated"] > 1 else ""),
            "tokens_per_s": one["tokens"] / one["wall_s"],
            "wall_s": one["wall_s"],
            "cpu_s": one["cpu_s"],
            "cpu_ms_per_token": 1000 * one["cpu_s"] / one["tokens"],
            "cny_per_million_tokens": price_of(one["cpu_s"]) * 1e6 / one["tokens"],
            "wall_to_naive": times(first, "wall_s"),
            "cpu_to_naive": times(first, "cpu_s"),
            "wall_to_before": times(before, "wall_s"),
            "same_text": same_text(measured, label),
        }


def same_text(measured: Measured, label: str) -> str:
    """Of the answers to the 12 short questions, how many are those of fp32, word for word."""
    ours, theirs = measured[label].get("texts"), measured.get(NAIVE, {}).get("texts")
    if not ours or not theirs:
        return ""
    return f"{sum(a.strip() == b.strip() for a, b in zip(ours, theirs, strict=True))}/{len(theirs)}"


HEADS = (
    *("what", "tokens/s", "wall s", "CPU-s", "CPU ms/token", "CNY/M tokens"),
    *("× naive", "× naive CPU", "× before", "as fp32"),
)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Aligned text."""
    lines = [list(HEADS), *(list(map(_cell, row.values())) for row in rows)]
    wide = [max(len(line[place]) for line in lines) for place in range(len(HEADS))]
    return "\n".join(
        "  ".join([line[0].ljust(wide[0]), *(cell.rjust(wide[place]) for place, cell in enumerate(line) if place)])
        for line in lines
    )


def _cell(value: object) -> str:
    return "" if value is None else plain(value) if isinstance(value, (int, float)) else str(value)


def kept() -> Measured:
    """The last results, when they are this machine's."""
    last = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    here = circumstances()["machine"]
    if last and last["machine"] != here:
        print(f"The last results are of {last['machine']}; this is {here}: nothing of them is kept.", flush=True)
        return {}
    return dict(last.get("measured", {}))


def tell(measured: Measured) -> str:
    """Write the record and the picture; the table for the person."""
    rows = list(figures(measured))
    report = Report("ladder", "output tokens/s")
    for row in rows:
        report.add(row["label"], row["tokens_per_s"])
    prompt = max((one["prompt_tokens"] for one in measured.values()), default=0)
    workload = (
        f"{REQUESTS} requests, {AT_ONCE} at once, greedy, one system prompt (prompt of {prompt} tokens in all), up to "
        f"{OUTPUT_TOKENS} output tokens; {DISTINCT} questions, the last {REQUESTS - DISTINCT} repeat the first"
    )
    record = report.record()
    write(FILE, record | {"workload": workload, "figures": rows, "measured": measured})
    shown = {row["label"]: row["tokens_per_s"] for row in rows}
    PICTURE.write_text(bars("Output tokens/s, from naive to everything on", f"{record['machine']}", shown), "utf-8")
    return f"\n{workload}\n\n{table(rows)}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.ladder", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="measure these parts anew")
    parser.add_argument("--baseline-python", type=Path, metavar="PYTHON", help="run the naive rungs with this Python")
    options = parser.parse_args()
    python = named(options.baseline_python) if options.baseline_python else None
    if python is None and not NAIVE_PARTS.isdisjoint(options.only):
        python = installed()
    measured = kept() if len(options.only) < len(PARTS) else {}
    given, said = Given(fetch(), python), ""
    for part in options.only:
        print(f"… {part}", flush=True)
        PARTS[part](measured, given)
        said = tell(measured)
    print(said, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
