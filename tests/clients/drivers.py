"""The processes that speak for client libraries, each in its own environment: a job out, what the client saw back."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PREFIX = ROOT / ".venv-clients"
MODULES = HERE / "node" / "node_modules"
ANSWER_S = 120
REQUIRED = "STEELYARD_CLIENTS"
"""Set to `required` where a client that is not installed is a failure, not a reason to skip."""


def missing(process: str) -> str | None:
    """Why this driver cannot run here, if it cannot."""
    if process == "node":
        if shutil.which("node") is None:
            return "Node is not installed"
        return None if MODULES.exists() else "not installed: make clients"
    return None if _python(process).exists() else "not installed: make clients"


def need(process: str) -> None:
    """Skip, or where clients are required fail, unless the clients of this driver are installed."""
    if (why := missing(process)) is not None:
        assert os.environ.get(REQUIRED) != "required", f"{process}: {why}"
        pytest.skip(f"{process}: {why}")


def _python(process: str) -> Path:
    return PREFIX / process.partition("-")[0] / "bin" / "python"


class Driver:
    """One process for all cells of its clients, one job at a time. Its `drive` script lies in `folder`."""

    def __init__(self, process: str, log: Path, folder: Path | None = None) -> None:
        command = ["node", "drive.mjs"] if process == "node" else [str(_python(process)), "drive.py"]
        kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "LANG") if name in os.environ}
        own = {"HOME": str(log.parent), "LLM_USER_PATH": str(log.parent), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        self.log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=folder or HERE / ("node" if process == "node" else "python"),
                env={**kept, **own},
            )

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """What the client saw. Fails when the process dies, or says nothing for too long."""
        assert self._process.stdin is not None and self._process.stdout is not None
        patience = threading.Timer(ANSWER_S, self._process.kill)
        patience.start()
        print(json.dumps(job), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        patience.cancel()
        where = f"{job.get('client')} {job.get('way')}"
        assert line, f"no answer at {where}, or none within {ANSWER_S} s:\n{self.log.read_text()[-4000:]}"
        said: dict[str, Any] = json.loads(line)
        return said

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


if __name__ == "__main__":
    sys.exit("\n".join(f"{name}: {why}" for name in ("old", "new", "vendors", "node") if (why := missing(name))) or 0)
