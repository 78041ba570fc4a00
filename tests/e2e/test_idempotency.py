"""Idempotency-Key against the real platform, by openai-python: one charge for one key, whatever the client repeats."""

import itertools
import threading
from collections.abc import Iterator

import openai
import pytest
from tests.platform import Platform, wait_for

MODEL = "smollm2-135m-instruct"
END_OF_TURN = 2


NUMBERS = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def the_books_are_right(platform: Platform) -> Iterator[None]:
    """After every test of this file: what one of them had left wrong would still be."""
    yield
    assert platform.run("verify")["ok"] is True


@pytest.fixture
def customer(platform: Platform) -> "Customer":
    return Customer(platform, f"once-{next(NUMBERS)}")


class Customer:
    """A tenant of its own, so that every charge of the test is seen."""

    def __init__(self, platform: Platform, name: str, money: str | None = "100") -> None:
        self.platform = platform
        self.name = name
        self.key = platform.new_customer(name, money)

    def ask(self, key: str | None, text: str = "Name a colour.", **rest):
        headers = {} if key is None else {"Idempotency-Key": key}
        with openai.OpenAI(base_url=f"{self.platform.url}/v1", api_key=self.key, max_retries=0) as client:
            raw = client.chat.completions.with_raw_response.create(
                model=MODEL,
                messages=[{"role": "user", "content": text}],
                temperature=0,
                max_tokens=rest.pop("max_tokens", 8),
                extra_headers=headers,
                **rest,
            )
            return raw.status_code, raw.http_response.read(), raw.headers

    def refused(self, key: str, text: str = "Name a colour.", **rest) -> tuple[int, str, dict]:
        with pytest.raises(openai.APIStatusError) as error:
            self.ask(key, text, **rest)
        return error.value.status_code, error.value.body["code"], error.value.response.headers

    def requests(self) -> int:
        used = self.platform.get("/admin/v1/usage?by=tenant", self.platform.operator_key)["groups"]
        rows = [row for row in used if row["name"] == self.name]
        return rows[0]["requests"] if rows else 0

    def settled(self, count: int) -> None:
        wait_for(lambda: self.requests() == count, f"{count} posted requests")
        assert self.platform.wallet(self.name)["held_nano"] == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_repeat_gets_the_same_bytes_and_is_not_charged(customer: Customer, stream: bool) -> None:
    rest = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    first = customer.ask("k-1", **rest)
    again = customer.ask("k-1", **rest)
    assert again[1] == first[1]
    assert (b"[DONE]" in first[1]) is stream
    for name in ("content-type", "x-request-id", "request-id"):
        assert again[2][name] == first[2][name]
    assert "idempotent-replayed" not in first[2]
    assert again[2]["idempotent-replayed"] == "true"
    assert customer.platform.get(f"/v1/receipts/{again[2]['x-request-id']}", customer.key)["amount_nano"] > 0
    customer.settled(1)
    other = customer.ask("k-2", **rest)
    assert other[2]["x-request-id"] != first[2]["x-request-id"]
    customer.settled(2)


def test_concurrent_duplicates_through_two_workers_are_charged_once(customer: Customer) -> None:
    gate = threading.Barrier(8)
    said: list[tuple[int, bytes, dict]] = []

    def ask() -> None:
        gate.wait(20)
        said.append(customer.ask("same", "Count to five.", max_tokens=24))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(said) == 8
    assert len({body for _, body, _ in said}) == 1
    assert len({headers["x-request-id"] for _, _, headers in said}) == 1
    assert sum("idempotent-replayed" not in headers for _, _, headers in said) == 1
    customer.settled(1)


def test_another_body_under_the_key_is_422_and_other_projects_do_not_meet(customer: Customer) -> None:
    customer.ask("k")
    assert customer.refused("k", "Name a fruit.")[:2] == (422, "idempotency_key_reused")
    customer.settled(1)
    neighbour = Customer(customer.platform, customer.name + "-b")
    assert "idempotent-replayed" not in neighbour.ask("k", "Name a fruit.")[2]


@pytest.mark.parametrize("key", ["", "two words", "x" * 256])
def test_a_key_that_cannot_be_is_400(customer: Customer, key: str) -> None:
    assert customer.refused(key)[:2] == (400, "invalid_idempotency_key")
    assert customer.requests() == 0


def test_what_sold_nothing_is_not_remembered(platform: Platform) -> None:
    customer = Customer(platform, "once-penniless", money=None)
    assert customer.refused("k")[:2] == (402, "insufficient_quota")
    platform.run("wallet", "topup", "once-penniless", "10")
    assert "idempotent-replayed" not in customer.ask("k")[2]
    customer.settled(1)


def test_a_stream_the_customer_left_is_409_and_charged_once(customer: Customer) -> None:
    rest = {"stream": True, "max_tokens": 3000, "logit_bias": {END_OF_TURN: -100}}
    text = "Count upwards and never stop."
    with (
        openai.OpenAI(base_url=f"{customer.platform.url}/v1", api_key=customer.key, max_retries=0) as client,
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": text}],
            temperature=0,
            extra_headers={"Idempotency-Key": "left"},
            **rest,
        ) as stream,
    ):
        for number, _ in enumerate(stream):
            if number == 5:
                break
    status, code, headers = customer.refused("left", text, **rest)
    assert (status, code) == (409, "idempotent_answer_incomplete")
    assert headers["x-should-retry"] == "false"
    customer.settled(1)
