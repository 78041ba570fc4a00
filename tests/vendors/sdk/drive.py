"""Speaks for the vendors' own SDKs: a job a line on stdin, what the SDK saw as a line on stdout.

Runs in an environment of its own (`make clients`). A job names the module that speaks for an SDK, where to ask, and the
words to ask it with, unchanged; `said` is whatever the SDK made of the answer, as plain JSON. An error is what its user
would see. The SDKs' own prints go to stderr.
"""

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
    sdk: str  # the module that speaks for it
    package: str  # whose version is told
    url: str
    key: str
    asked: dict[str, Any]  # what the SDK's function is called with
    call: str = "chat"
    options: dict[str, Any] | None = None  # what its client is made with


def told(error: BaseException) -> dict[str, Any]:
    """An error as a program sees it."""
    fields = {name: getattr(error, name, None) for name in ("status_code", "code", "message", "body")}
    return {"kind": type(error).__name__, "text": str(error)[:500], **fields}


def main() -> None:
    jobs, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for line in jobs:
        job = Job(**json.loads(line))
        answer: dict[str, Any] = {"said": []}
        try:
            answer["version"] = importlib.metadata.version(job.package)
            for piece in importlib.import_module(job.sdk).said(job):
                answer["said"].append(piece)  # what came before an error stays
        except Exception as error:  # whatever an SDK raises is what its user sees
            traceback.print_exc()
            answer["error"] = told(error)
        print(json.dumps(answer, default=str), file=answers, flush=True)


if __name__ == "__main__":
    sys.modules["drive"] = sys.modules["__main__"]
    main()
