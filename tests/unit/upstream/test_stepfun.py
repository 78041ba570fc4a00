"""What StepFun is asked, whose turn it is when it refuses, and how its balance is read."""

from typing import Any

import msgspec
import pytest
from tests.unit.upstream.asking import body

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.faults import Fault
from steelyard.upstream.balance import Balance
from steelyard.upstream.openai_fault import refusal
from steelyard.upstream.stepfun import FAULTS, STEPFUN

HOST = "api.stepfun.com"


@pytest.mark.parametrize(
    ("wanted", "effort"),
    [
        ({}, None),
        ({"reasoning_effort": "xhigh"}, "high"),
        ({"thinking": {"type": "enabled", "budget_tokens": 500}}, "low"),
        ({"enable_thinking": False}, None),
    ],
)
def test_thinking_is_said_as_an_effort(wanted: dict[str, Any], effort: str | None) -> None:
    sent = body(STEPFUN, **wanted)
    assert sent.get("reasoning_effort") == effort
    assert not {"thinking", "enable_thinking"} & sent.keys()


@pytest.mark.parametrize(
    ("status", "kind", "fault"),
    [
        (400, "request_params_invalid", Fault.BAD_REQUEST),
        (401, "invalid_api_key", Fault.AUTH),
        (402, "quota_exceeded", Fault.NO_MONEY),
        (404, "", Fault.MODEL_MISSING),
        (429, "", Fault.RATE_LIMITED),
        (451, "", Fault.CONTENT),
        (500, "", Fault.SERVER),
        (503, "engine_overloaded", Fault.SERVER),
    ],
)
def test_without_a_code_the_status_says_what_it_is(status: int, kind: str, fault: Fault) -> None:
    said = msgspec.json.encode({"error": {"message": "why", "type": kind}})
    error = refusal("vendor", said, status, faults=FAULTS)
    assert error.fault is fault
    assert error.retryable == (fault in {Fault.RATE_LIMITED, Fault.SERVER})


def test_its_balance_is_read_as_it_is_written() -> None:
    assert STEPFUN.balance is not None
    said = b'{"object":"account","type":"prepaid","balance":12.50,"total_cash_balance":0,"total_voucher_balance":12.5}'
    assert STEPFUN.balance.of("vendor", said, HOST) == (Balance("CNY", "12.50", {"cash": "0", "voucher": "12.5"}),)
    for empty in (b'{"balance":0.00}', b'{"balance":-1.5}', b'{"balance":"0"}'):
        assert not STEPFUN.balance.of("vendor", empty, HOST)[0].usable
    for wrong in (b'{"object":"account"}', b"[]", b'{"balance":null}', b'{"balance":"much"}'):
        with pytest.raises(UpstreamError, match="balance that cannot be read"):
            STEPFUN.balance.of("vendor", wrong, HOST)
