"""kill -9 of a worker or of the books under an Idempotency-Key: a repeat is never charged a second time."""

import json
import os
import signal
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tests.platform import Platform, steelyard, wait_for

MODEL = "smollm2-135m-instruct"
END_OF_TURN = 2


@pytest.fixture
def running(tmp_path: Path):
    platform = Platform(tmp_path / "data", "--workers", "1").start()
    yield platform
    platform.stop()


class Ask(threading.Thread):
    """One request with a key, read to its end or to the end of its worker."""

    def __init__(self, platform: Platform, max_tokens: int) -> None:
        super().__init__(daemon=True)
        self.platform = platform
        self.max_tokens = max_tokens
        self.texts = 0
        self.status = 0
        self.body = b""
        self.headers: dict[str, str] = {}

    def run(self) -> None:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Count upwards and never stop."}],
            "max_tokens": self.max_tokens,
            "logit_bias": {END_OF_TURN: -100},
            "temperature": 0,
            "stream": True,
        }
        request = urllib.request.Request(
            f"{self.platform.url}/v1/chat/completions",
            json.dumps(body).encode(),
            {"authorization": f"Bearer {self.platform.api_key}", "idempotency-key": "one"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                self.status, self.headers = answer.status, dict(answer.headers)
                for line in answer:
                    self.body += line
                    self.texts += b'"content":"' in line and b'"role"' not in line
        except urllib.error.HTTPError as error:
            self.status, self.body = error.code, error.read()
        except OSError:
            return

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["error"]["code"])


def asked(platform: Platform, max_tokens: int) -> Ask | None:
    """An answer of the platform; None while it restarts."""
    ask = Ask(platform, max_tokens)
    ask.start()
    ask.join(60)
    return ask if ask.status and ask.status != 503 else None


def test_a_worker_killed_in_mid_answer_leaves_one_charge_and_a_clear_409(running: Platform) -> None:
    before = running.requests()
    first = Ask(running, 3000)
    first.start()
    wait_for(lambda: first.texts >= 3, "the stream to speak", 60)
    os.kill(running.children("worker")[0], signal.SIGKILL)
    first.join(60)
    again = wait_for(lambda: asked(running, 3000), "the platform to answer the repeat", 90)
    assert (again.status, again.code) == (409, "idempotent_answer_incomplete")
    assert first.headers["x-request-id"] in again.body.decode()
    receipt = running.get(f"/v1/receipts/{first.headers['x-request-id']}", running.api_key)
    assert receipt["end"] == "worker_died"
    assert receipt["amount_nano"] > 0
    wait_for(lambda: running.requests() == before + 1, "one request to be posted")
    assert json.loads(steelyard("verify", "--json", data=running.data).stdout)["ok"] is True


def test_books_killed_in_mid_answer_keep_the_claim_and_get_the_answer(running: Platform) -> None:
    before = running.requests()
    first = Ask(running, 80)
    first.start()
    wait_for(lambda: first.texts >= 3, "the stream to speak", 60)
    (books,) = running.children("books")
    os.kill(books, signal.SIGKILL)
    first.join(60)
    assert first.body.endswith(b"data: [DONE]\n\n")
    again = wait_for(lambda: asked(running, 80), "the platform to answer the repeat", 90)
    assert (again.status, again.headers["idempotent-replayed"]) == (200, "true")
    assert again.body == first.body
    assert again.headers["x-request-id"] == first.headers["x-request-id"]
    wait_for(lambda: running.requests() == before + 1, "one request to be posted")
    running.stop()
    running.start()
    before = running.requests()
    later = wait_for(lambda: asked(running, 80), "the restarted platform to answer")
    assert (later.body, later.headers["idempotent-replayed"]) == (first.body, "true")
    assert json.loads(steelyard("verify", "--json", data=running.data).stdout)["ok"] is True
    assert running.requests() == before
