"""Speaks for client libraries: a job a line on stdin, what the client saw as a line on stdout.

Runs in an environment of its own, so it knows nothing of the platform but what stands in a job. Each client has a
module with a function `cell`; it is imported by the first job that asks for it. A library's own prints go to stderr,
and it finds nothing to read.
"""

import gc
import importlib
import importlib.metadata
import json
import os
import sys
import traceback
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Job:
    client: str  # the module that speaks for it
    package: str  # whose version is told
    url: str  # of the platform
    key: str
    model: str
    prompt: str
    way: str  # "plain" or "stream"
    ask: str  # "text", "tools" or "schema"
    usage: bool  # whether a stream is asked for its usage
    leave: bool  # hang up after the first piece of text
    tools: list[dict[str, Any]]  # name, description, parameters
    schema: dict[str, Any]

    @property
    def turns(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.prompt}]

    @property
    def functions(self) -> list[dict[str, Any]]:
        """The tools as OpenAI's chat dialect has them."""
        return [{"type": "function", "function": tool} for tool in self.tools]

    @property
    def response_format(self) -> dict[str, Any]:
        return {
            "type": "json_schema",
            "json_schema": {"name": "forecast", "strict": True, "schema": self.schema},
        }


def parsed(text: str | None) -> Any:
    """The JSON value in a text, or None."""
    try:
        return json.loads(text or "")
    except ValueError:
        return None


def told(error: BaseException) -> dict[str, Any]:
    """An error as a program sees it: its class, and the status if the library tells one."""
    status = next(
        (value for name in ("status_code", "status") if isinstance(value := getattr(error, name, None), int)), None
    )
    return {
        "kind": type(error).__name__,
        "of": type(error).__module__.partition(".")[0],
        "status": status,
        "text": str(error)[:300],
    }


def main() -> None:
    jobs, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    gc.disable()  # litellm leaves streams open: collected while its pool of connections is locked, one closes never
    for line in jobs:
        job = Job(**json.loads(line))
        said: dict[str, Any] = {}
        try:
            said = {"version": importlib.metadata.version(job.package)}
            said |= importlib.import_module(job.client).cell(job)
        except Exception as error:  # whatever a library raises is what its user sees
            traceback.print_exc()
            said["error"] = told(error)
        gc.collect()
        gc.freeze()  # a library is hundreds of thousands of objects, and the next collection need not walk them again
        print(json.dumps(said), file=answers, flush=True)


if __name__ == "__main__":
    sys.modules["drive"] = sys.modules["__main__"]
    main()
