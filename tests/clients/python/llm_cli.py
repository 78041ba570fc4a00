"""The command `llm`, run in this process; the answers' ids come from its log. It answers its own tool calls."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from drive import Job, parsed

FUNCTIONS = """
def weather(city: str, days: int) -> str:
    "The weather of some days."
    return "done"

def time(zone: str) -> str:
    "The time in a zone."
    return "done"
"""
USAGE = re.compile(r"Token usage: ([\d,]+) input, ([\d,]+) output(?:, (\{.*\}))?")


def cell(job: Job) -> dict[str, Any]:
    models = Path(os.environ["LLM_USER_PATH"]) / "extra-openai-models.yaml"
    made = {"model_id": "ours", "model_name": job.model, "api_base": f"{job.url}/v1", "api_key_name": "ours"}
    models.write_text(json.dumps([made | {"supports_schema": True, "supports_tools": True}]))
    arguments = ["prompt", job.prompt, "-m", "ours", "--key", job.key]
    if job.ask == "tools":
        arguments += ["--functions", FUNCTIONS]
    if job.ask == "schema":
        arguments += ["--schema", json.dumps(job.schema)]
    if job.way == "plain":
        arguments += ["--no-stream"]
    if job.leave:
        return left(arguments)
    return seen(*run([*arguments, "--usage"] if job.usage or job.way == "plain" else arguments))


def run(arguments: list[str]) -> tuple[str, str]:
    """What the command writes to its two outputs."""
    from llm.cli import cli

    os.environ["LLM_RAISE_ERRORS"] = "1"
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as shown:
        cli.main(arguments, standalone_mode=False)
    return out.getvalue(), shown.getvalue()


def left(arguments: list[str]) -> dict[str, Any]:
    """Only the end of the process hangs up."""
    command = [sys.executable, "-m", "llm", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as process:
        assert process.stdout is not None
        text = process.stdout.read(3).decode()
        process.kill()
    return {"text": text}


def seen(out: str, shown: str) -> dict[str, Any]:
    logged = json.loads(run(["logs", "list", "--json", "-n", "2"])[0])
    last = [row for row in logged if row["conversation_id"] == logged[-1]["conversation_id"]]
    counts = [
        (int(a.replace(",", "")), int(b.replace(",", "")), json.loads(c or "{}")) for a, b, c in USAGE.findall(shown)
    ]
    return {
        "ids": [row["response_json"]["id"] for row in last],
        "text": out.strip(),
        "value": parsed(out),
        "calls": [[call["name"], call["arguments"]] for row in last for call in row["tool_calls"]],
        "usage": {
            "prompt": sum(count[0] for count in counts),
            "cached": sum(count[2].get("prompt_tokens_details", {}).get("cached_tokens", 0) for count in counts),
            "output": sum(count[1] for count in counts),
        }
        if counts
        else None,
    }
