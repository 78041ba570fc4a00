"""A GPU engine sold by the real platform: added, asked, killed in an answer, removed. The server is a fake."""

import sys
import threading
import urllib.error
from pathlib import Path

import pytest
from tests.e2e.vendor import PRICE
from tests.fakes.gpu_server import CACHED, OUTPUT, PROMPT
from tests.platform import Platform, steelyard, wait_for

from steelyard.kernel.clock import NS_PER_S
from steelyard.storage.database import open_database

MODEL, ENGINE, HELD = "gpu-m", "e2e-gpu", 4
COST = f"""
[[cost]]
upstream = "{ENGINE}"
currency = "CNY"
effective_from = 2026-01-01T00:00:00+08:00
gpu_hour = "12.5"
watts_per_busy_gpu = "400"
kwh = "0.60"
source = "tests"
"""


def ask(platform: Platform, text: str) -> tuple[dict, str]:
    return platform.post("/v1/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": text}]})


def test_a_gpu_engine_is_sold_by_its_gpu_hours_and_comes_back_when_it_dies(platform: Platform, tmp_path: Path) -> None:
    book = tmp_path / "gpu.toml"
    book.write_text(PRICE.format(model=MODEL) + COST)
    steelyard("prices", "load", str(book), data=platform.data)
    fake = f"{sys.executable} -m tests.fakes.gpu_server vllm"
    asked = ["--model", "Qwen/Qwen3-8B", "--as", MODEL, "--name", ENGINE, "--gpus", "0", "--command", fake]
    said = steelyard("engine", "add", "vllm", *asked, data=platform.data).stdout
    assert "VLLM_API_KEY=… " in said and f"{ENGINE} is running." in said, said

    held: list[str] = []
    waiting = [threading.Thread(target=lambda: held.append(ask(platform, "hold")[1])) for _ in range(HELD)]
    for one in waiting:
        one.start()
    wait_for(lambda: platform.run("engine", "show", ENGINE)["busy_ns"] > NS_PER_S, "busy GPU time")
    answer, _ = ask(platform, "free")
    for one in waiting:
        one.join()
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == CACHED
    receipt = platform.posted_receipt(held[0])
    assert (receipt["prompt_tokens"], receipt["output_tokens"]) == (PROMPT, OUTPUT)
    gpu_ns, gpu_cost, energy_uj = _work(platform, held[0])
    assert gpu_ns > 0
    for one in held:
        platform.posted_receipt(one)
    given_ns = sum(_work(platform, one)[0] for one in held)
    wait_for(lambda: platform.run("engine", "show", ENGINE)["busy_ns"] >= given_ns, "no more to be given than was used")
    assert gpu_cost == round(gpu_ns * 12.5 / 3600)  # nano per ns: 12.5 an hour
    assert energy_uj == round(gpu_ns * 400 / 1000)

    shown = platform.run("engine", "show", ENGINE)
    assert (shown["state"], shown["decode_tokens"] >= OUTPUT, "token" in shown) == ("running", True, False)
    with pytest.raises(urllib.error.HTTPError):
        ask(platform, "die")
    wait_for(lambda: f"keeper-{ENGINE} ended (exit code 1): vllm ended (killed by SIGKILL" in platform.text, "a reason")
    wait_for(lambda: _answers(platform), "the engine to be back")

    steelyard("engine", "remove", ENGINE, data=platform.data)
    wait_for(lambda: not [one for one in platform.run("engine", "list") if one["name"] == ENGINE], "it to be gone")
    assert not _answers(platform)


def _answers(platform: Platform) -> bool:
    try:
        return bool(ask(platform, "hello")[0]["choices"])
    except urllib.error.HTTPError:
        return False


def _work(platform: Platform, request_id: str) -> tuple[int, int, int]:
    from sqlalchemy import select

    from steelyard.kernel.ids import id_from_text
    from steelyard.storage import tables

    columns = tables.usage.c
    query = select(columns.cpu_ns, columns.cpu_cost_nano, columns.energy_uj)
    database = open_database(platform.data / "steelyard.db", readonly=True)
    with database.connect() as connection:
        row = connection.execute(query.where(columns.request_id == id_from_text(request_id))).one()
    database.dispose()
    return row.cpu_ns, row.cpu_cost_nano, row.energy_uj
