"""The real platform as a user starts it: `steelyard up` as a child process, on a free port and its own data directory.

Waits for conditions, never for time. Everything is asked through the command line and HTTP, as a person would.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fakes.authority import Authority

from steelyard.emulators.chat import KEY
from steelyard.emulators.vendors import EMULATORS

START_S = 90
ENGINE = os.environ.get("STEELYARD_TEST_ENGINE", "xllamacpp")
"""The engine of the suite's platforms: the light one, unless a run wants the other."""
ALTERNATIVES = 1 if ENGINE == "openvino" else 2
"""Log probabilities to ask for at each place: OpenVINO tells that of the token it chose, and of no other."""
STOP_S = 40
VENDOR_KEYS = {
    "STEELYARD_UPSTREAM_KEY_CLAUDE": "sk-ant-emulated",
    "STEELYARD_UPSTREAM_KEY_CLAUDE_BUSY": "sk-ant-emulated",
    **{f"STEELYARD_UPSTREAM_KEY_V_{kind.upper()}": KEY for kind in EMULATORS},
}
"""Credentials of the emulated vendors that want one (tests/emulators)."""
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    """The first truthy value of `condition`; fails loudly when it does not come."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds} s in vain for {what}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def steelyard(*arguments: str, data: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    command = [sys.executable, "-m", "steelyard.cli.main", *arguments]
    if data is not None:
        command += ["--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(arguments)} → {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


class Platform:
    """One running installation. Its embedding model runs where a test wants it: it would come up beside the rest."""

    def __init__(self, data: Path, *options: str, port: int | None = None, embeddings: bool = False) -> None:
        self.data = data
        self.port = port or free_port()
        self.options = options
        self.embeddings = embeddings
        self.lines: list[str] = []
        self.api_key = ""
        self.operator_key = ""
        self.authority: Authority | None = None  # whose certificates it believes
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def text(self) -> str:
        return ANSI.sub("", "".join(self.lines))

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> "Platform":
        command = [sys.executable, "-m", "steelyard.cli.main", "up", "--data", str(self.data), "--port", str(self.port)]
        environment = {**os.environ, **VENDOR_KEYS, "PYTHONUNBUFFERED": "1", "COLUMNS": "160"}
        if self.authority is not None:
            environment["STEELYARD_CA_FILE"] = str(self.authority.ca_file)
        environment.setdefault("STEELYARD_ENGINE", ENGINE)
        if not self.embeddings:
            environment["STEELYARD_EMBEDDINGS"] = "false"
        self.lines.clear()
        self._process = subprocess.Popen(
            [*command, *self.options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_for(self._up_or_dead, "the platform to come up", START_S)
        assert self._process.poll() is None, f"steelyard up ended:\n{self.text}\n{self.logs()}"
        for key in re.findall(r"sk-sy-\w+(?:-\w+)?", self.text):
            if key.startswith("sk-sy-op-"):
                self.operator_key = self.operator_key or key
            else:
                self.api_key = self.api_key or key
        return self

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line)

    def _up_or_dead(self) -> bool:
        assert self._process is not None
        return "Ctrl-C" in self.text or self._process.poll() is not None

    def stop(self) -> int:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        code = self._process.wait(STOP_S)
        self._finish()
        return code

    def kill(self) -> None:
        """kill -9 of the supervisor; its children must notice by themselves."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(STOP_S)
        self._finish()

    def _finish(self) -> None:
        assert self._process is not None and self._process.stdout is not None and self._reader is not None
        self._reader.join(STOP_S)
        self._process.stdout.close()

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()}" for path in sorted((self.data / "log").glob("*.log")))

    def run(self, *arguments: str) -> Any:
        """A command against this installation, its `--json` decoded."""
        return json.loads(steelyard(*arguments, "--json", data=self.data).stdout)

    def get(self, path: str, key: str | None = None) -> Any:
        request = urllib.request.Request(self.url + path)
        if key:
            request.add_header("authorization", f"Bearer {key}")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read())

    def posted_receipt(self, request_id: str, key: str = "") -> Any:
        """The receipt, once the books have posted it; a moment after the answer they may not have read of it yet."""

        def look() -> Any:
            try:
                found = self.get(f"/v1/receipts/{request_id}", key or self.api_key)
            except urllib.error.HTTPError as error:
                if error.code != 404:
                    raise
                return None
            return found if found["state"] == "posted" else None

        return wait_for(look, f"the posted receipt of {request_id}")

    def post(self, path: str, body: dict[str, Any]) -> tuple[Any, str]:
        """Ask with the demonstration key; the answer and the id of its request."""
        request = urllib.request.Request(self.url + path, json.dumps(body).encode())
        request.add_header("authorization", f"Bearer {self.api_key}")
        request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read()), answer.headers["x-request-id"]

    def children(self, kind: str) -> list[int]:
        """Process ids of the running workers, books or engine."""
        import psutil

        found = []
        for child in psutil.Process(self.pid).children(recursive=True):
            try:
                if f"steelyard.processes.{kind}" in " ".join(child.cmdline()):
                    found.append(child.pid)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found

    def new_customer(self, name: str, money: str | None = "100") -> str:
        """A tenant with a key and a wallet; returns the key."""
        self.admin("tenants", {"name": name})
        if money is not None:
            self.admin(f"wallets/{name}/topups", {"amount": money, "note": "test"})
        return str(self.admin("keys", {"tenant": name, "name": "test"})["key"])

    def wallet(self, name: str) -> Any:
        return self.get(f"/admin/v1/wallets/{name}", self.operator_key)

    def requests(self) -> int:
        """How many are posted."""
        found = self.get("/admin/v1/usage?by=tenant", self.operator_key)["groups"]
        return sum(int(row["requests"]) for row in found)

    def admin(self, path: str, body: dict[str, Any]) -> Any:
        """POST to the admin API."""
        request = urllib.request.Request(f"{self.url}/admin/v1/{path}", json.dumps(body).encode())
        request.add_header("authorization", f"Bearer {self.operator_key}")
        request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read())
