"""Sub-limits as a customer meets them, by every worker alike."""

import json

from tests.e2e.test_refusals import HELLO, post
from tests.platform import Platform, wait_for

from steelyard.kernel.money import nano_from_text

BODY = json.dumps(HELLO).encode()


def test_requests_per_minute_are_counted_by_all_workers_together(platform: Platform) -> None:
    key = platform.new_customer("limited-rpm")
    platform.run("limit", "set", "--tenant", "limited-rpm", "--rpm", "3")
    answers = [post(platform, BODY, key) for _ in range(5)]  # each on a connection of its own
    assert [status for status, _, _ in answers] == [200, 200, 200, 429, 429]
    left = [headers["x-ratelimit-remaining-requests"] for status, _, headers in answers if status == 200]
    assert left == ["2", "1", "0"]
    assert answers[0][2]["x-ratelimit-limit-requests"] == "3" and "x-ratelimit-limit-tokens" not in answers[0][2]
    _, answer, headers = answers[-1]
    assert (answer["error"]["code"], answer["error"]["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert 0 < int(headers["retry-after"]) <= 60
    platform.run("limit", "lift", "--tenant", "limited-rpm", "--kind", "rpm")
    wait_for(lambda: platform.wallet("limited-rpm")["held_nano"] == 0, "the postings")
    status, _, headers = post(platform, BODY, key)
    assert status == 200 and "x-ratelimit-limit-requests" not in headers
    wallet = wait_for(lambda: (w := platform.wallet("limited-rpm"))["held_nano"] == 0 and w, "the posting")
    assert nano_from_text(headers["x-steelyard-balance"]) == wallet["available_nano"], "the last answer told it before"


def test_a_budget_lowers_max_tokens_then_refuses_for_good(platform: Platform) -> None:
    key = platform.new_customer("limited-budget")
    platform.admin(
        "limits", {"tenant": "limited-budget", "budget": "0.000001", "every": "day", "zone": "Asia/Shanghai"}
    )
    status, answer, headers = post(platform, BODY, key)
    assert (status, answer["error"]["code"]) == (402, "budget_exceeded")
    assert "begins anew at" in answer["error"]["message"]
    assert headers["x-should-retry"] == "false"
    assert "retry-after" not in headers
    wallet = platform.wallet("limited-budget")
    assert wallet["balance_nano"] == wallet["available_nano"] == 100 * 10**9


def test_tokens_per_minute_lower_max_tokens_and_too_long_a_request_is_told_so(platform: Platform) -> None:
    key = platform.new_customer("limited-tpm")
    platform.run("limit", "set", "--tenant", "limited-tpm", "--tpm", "400")
    long = json.dumps({**HELLO, "max_tokens": 2000}).encode()
    status, answer, headers = post(platform, long, key)
    assert status == 200, answer
    assert 0 < int(headers["x-steelyard-max-tokens-lowered"]) < 400
    platform.run("limit", "set", "--tenant", "limited-tpm", "--tpm", "2")
    status, answer, headers = post(platform, BODY, key)
    assert (status, headers["x-should-retry"]) == (429, "false")
    assert "needs at least" in answer["error"]["message"]
