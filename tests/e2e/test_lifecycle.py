"""Starting, stopping and failing to start: one clear line each, nothing corrupted, nothing forgotten."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tests.platform import Platform, free_port, steelyard, wait_for


def failed_start(data: Path, *options: str) -> str:
    """The one line `steelyard up` says on stderr when it cannot start."""
    done = subprocess.run(
        [sys.executable, "-m", "steelyard.cli.main", "up", "--data", str(data), *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    line = done.stderr.strip().splitlines()
    assert len(line) == 1, done.stderr
    return line[0]


def test_a_restart_keeps_tenants_keys_prices_and_books(tmp_path: Path) -> None:
    first = Platform(tmp_path / "data").start()
    assert "Paris" in first.text
    # Not the label of its energy (`test_welcome.py`): on a busy machine so short an answer may have no share of it.
    for word in ("prompt", "cached", "output", "charge", "cost", "margin", "curl", "/console"):
        assert word in first.text.lower(), word
    key = first.new_customer("acme", "12.50")
    before = (first.run("tenant", "list"), first.run("key", "list"), first.run("prices", "list"))
    spent = first.run("margin", "--by", "tenant")
    assert first.stop() == 0

    offline = json.loads(steelyard("tenant", "list", "--json", data=tmp_path / "data").stdout)
    assert {t["name"] for t in offline} == {"demo", "acme"}

    second = Platform(tmp_path / "data").start()
    assert first.api_key not in second.text, "the demo key is shown once"
    names = {t["name"] for t in second.run("tenant", "list")}
    assert names == {"demo", "acme"}
    live = {k["id"] for k in second.run("key", "list")}
    assert {k["id"] for k in before[1]} <= live
    assert second.run("prices", "list") == before[2]
    assert second.get("/v1/models", key)["data"][0]["id"] == "smollm2-135m-instruct"
    assert second.get("/v1/models", first.api_key)
    assert second.run("margin", "--by", "tenant")[0]["requests"] >= spent[0]["requests"]
    assert second.stop() == 0
    assert json.loads(steelyard("verify", "--json", data=tmp_path / "data").stdout)["ok"] is True


def test_a_killed_supervisor_leaves_no_orphans(tmp_path: Path) -> None:
    platform = Platform(tmp_path / "data", "--no-engine").start()
    children = [child.pid for child in psutil.Process(platform.pid).children(recursive=True)]
    assert len(children) >= 2
    platform.kill()
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in children), "the children to end with their parent")


def test_without_an_engine_the_books_and_pages_still_run(tmp_path: Path) -> None:
    platform = Platform(tmp_path / "data", "--no-engine").start()
    assert platform.get("/healthz") == {"status": "ok"}
    if sys.platform == "linux":  # where the files that a process has loaded can be seen
        (books,) = platform.children("books")
        assert [_loads(pid, "sqlalchemy") for pid in (books, platform.pid)] == [True, False]
    assert platform.stop() == 0


def _loads(pid: int, package: str) -> bool:
    return any(f"/{package}/" in one.path for one in psutil.Process(pid).memory_maps())


@pytest.mark.parametrize("kind", ["worker", "books"])
def test_a_dead_process_is_restarted_with_a_reason(tmp_path: Path, kind: str) -> None:
    platform = Platform(tmp_path / "data", "--no-engine").start()
    (old,) = platform.children(kind)
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: (c := platform.children(kind)) and c != [old], f"a new {kind}")
    wait_for(lambda: "SIGKILL" in platform.text, "the reason on the terminal")

    def ready() -> bool:
        try:
            return bool(platform.get("/readyz"))
        except OSError:
            return False

    wait_for(ready, "readiness")
    platform.new_customer("after")
    assert platform.stop() == 0


def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = failed_start(tmp_path / "data", "--port", str(port))
    assert str(port) in line


def test_a_locked_data_directory_is_one_clear_line(tmp_path: Path) -> None:
    platform = Platform(tmp_path / "data", "--no-engine").start()
    line = failed_start(tmp_path / "data", "--port", str(free_port()))
    assert "running" in line
    assert platform.get("/healthz") == {"status": "ok"}
    assert platform.stop() == 0


@pytest.mark.parametrize("content", [None, b"this is not a model", b"GGUF\x03\x00\x00\x00" + b"\xff" * 64])
def test_an_unreadable_model_is_one_clear_line(tmp_path: Path, content: bytes | None) -> None:
    model = tmp_path / "broken.gguf"
    if content is not None:
        model.write_bytes(content)
    line = failed_start(tmp_path / "data", "--port", str(free_port()), "--model", str(model))
    assert "broken.gguf" in line


def test_a_data_directory_that_is_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    assert "data" in failed_start(tmp_path / "data", "--port", str(free_port()))
