"""What every refusal looks like in every dialect: one table. Clients decide by it whether to try again."""

import inspect
import json
from typing import NamedTuple

import pytest

from steelyard.gateway.chat_dialect import Chat
from steelyard.gateway.completion_dialect import Completions
from steelyard.gateway.dialect import Dialect
from steelyard.gateway.embedding_dialect import Embeddings
from steelyard.gateway.errors import from_upstream, internal_error
from steelyard.gateway.messages_dialect import Messages
from steelyard.gateway.moderation_dialect import Moderations
from steelyard.gateway.rerank_dialect import Rerank
from steelyard.gateway.responses_dialect import Responses
from steelyard.kernel import errors
from steelyard.kernel.errors import CallerError, UpstreamError

OPENAI = (Chat(), Completions(), Responses(), Embeddings(), Rerank(), Moderations())
ANTHROPIC = (Messages(),)
ID = bytes(15) + b"\1"


class Row(NamedTuple):
    """`again`: the seconds in Retry-After; False: x-should-retry says no; None: neither, the status says it all."""

    error: CallerError
    status: int
    code: str
    openai: str
    anthropic: str
    again: int | bool | None = None
    anthropic_status: int | None = None


def upstream(status: int, retryable: bool = False) -> CallerError:
    return from_upstream(UpstreamError("vendor", "It failed for some reason.", status=status, retryable=retryable))


INVALID, LIMIT, SERVER, BUSY = "invalid_request_error", "rate_limit_error", "server_error", "overloaded_error"
MADE_HERE = {
    "bad_request": Row(errors.bad_request("'n' is wrong.", "n"), 400, "invalid_request", INVALID, INVALID),
    "unknown_key": Row(errors.unknown_key(), 401, "invalid_api_key", "authentication_error", "authentication_error"),
    "unknown_model": Row(errors.unknown_model("x"), 404, "model_not_found", INVALID, "not_found_error"),
    "wallet_empty": Row(
        errors.wallet_empty(), 402, "insufficient_quota", "insufficient_quota", "billing_error", again=False
    ),
    "money_held": Row(errors.money_held(), 429, "money_held", LIMIT, LIMIT, again=1),
    "price_missing": Row(errors.price_missing("x"), 503, "price_missing", SERVER, BUSY, again=False),
    "cost_missing": Row(errors.cost_missing("x"), 503, "price_missing", SERVER, BUSY, again=False),
    "rate_missing": Row(errors.rate_missing("x", "USD", "CNY"), 503, "price_missing", SERVER, BUSY, again=False),
    "overloaded": Row(errors.overloaded("Full."), 429, "overloaded", LIMIT, BUSY, again=1, anthropic_status=529),
    "perhaps_done": Row(errors.perhaps_done("They went away."), 503, "books_unavailable", SERVER, BUSY, again=False),
    "unavailable": Row(errors.unavailable("draining", "It is stopping."), 503, "draining", SERVER, BUSY, again=1),
}
ROWS = [
    *MADE_HERE.values(),
    Row(
        CallerError(402, "budget_exceeded", "The budget is spent."),
        402,
        "budget_exceeded",
        "insufficient_quota",
        "billing_error",
        again=False,
    ),
    Row(
        CallerError(429, "rate_limit_exceeded", "Too many requests.", retry_after_s=7),
        429,
        "rate_limit_exceeded",
        LIMIT,
        LIMIT,
        again=7,
    ),
    Row(CallerError(429, "rate_limit_exceeded", "It can never fit."), 429, "rate_limit_exceeded", LIMIT, LIMIT, False),
    Row(CallerError(409, "key_reused", "Another body."), 409, "key_reused", "conflict_error", "conflict_error", False),
    Row(CallerError(413, "body_too_large", "Too large."), 413, "body_too_large", INVALID, "request_too_large"),
    Row(CallerError(404, "count_not_offered", "No counting."), 404, "count_not_offered", INVALID, "not_found_error"),
    Row(CallerError(405, "method_not_allowed", "No GET here."), 405, "method_not_allowed", INVALID, INVALID),
    Row(internal_error(), 500, "internal_error", SERVER, "api_error"),
    Row(upstream(400), 400, "upstream_refused", INVALID, INVALID),
    Row(upstream(422), 400, "upstream_refused", INVALID, INVALID),
    Row(upstream(429), 429, "overloaded", LIMIT, BUSY, again=1, anthropic_status=529),
    Row(upstream(402), 502, "upstream_failed", SERVER, "api_error"),
    Row(upstream(500), 502, "upstream_failed", SERVER, "api_error"),
    Row(upstream(0, retryable=True), 503, "model_unavailable", SERVER, BUSY, again=2),
]


def test_every_way_to_refuse_is_in_the_table() -> None:
    made = {
        name
        for name, function in inspect.getmembers(errors, inspect.isfunction)
        if inspect.signature(function).return_annotation is CallerError
    }
    assert made == MADE_HERE.keys()


@pytest.mark.parametrize("dialect", [*OPENAI, *ANTHROPIC], ids=lambda dialect: dialect.name.decode())
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.error.status}-{row.code}")
def test_a_refusal_in_a_dialect(dialect: Dialect, row: Row) -> None:
    status, headers, body = dialect.refusal(row.error, ID)
    answer, told = json.loads(body), dict(headers)
    error = answer["error"]
    assert (error["code"], error["param"]) == (row.code, row.error.param)
    assert error["message"].startswith(row.error.message)  # one dialect says more of a model that is not there
    if dialect in ANTHROPIC:
        assert (answer["type"], error["type"]) == ("error", row.anthropic)
        assert status == (row.anthropic_status or row.status)
    else:
        assert error["type"] == row.openai
        assert status == row.status
    assert told[b"content-type"] == b"application/json"
    seconds = row.again if isinstance(row.again, int) and not isinstance(row.again, bool) else None
    assert told.get(b"retry-after") == (None if seconds is None else b"%d" % seconds)
    assert told.get(b"x-should-retry") == (b"false" if row.again is False else None)
    assert status != 402 or row.again is False, "an empty wallet is not asked again"
    assert status not in {429, 503} or row.again is not None, "told to wait, and not how long, nor that it is no use"
