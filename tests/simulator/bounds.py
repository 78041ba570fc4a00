"""The oracle's part on sub-limits, against docs/howto/limits.md: nobody gets one request more, none may be refused.

Each tenant has one kind of limit at most. An edit under way counts at the greater of both amounts for who was let in, and
makes no judgement of who was refused; a request that was asked before the last edit was confirmed is judged by none.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from steelyard.kernel.clock import NS_PER_S
from steelyard.ledger.chain import UsageRow

if TYPE_CHECKING:
    from tests.simulator.oracle import Request

MINUTE_NS = 60 * NS_PER_S
KINDS = ("rpm", "tpm", "concurrency", "budget")


@dataclass(slots=True)
class Bound:
    """One tenant's limit. `amount` None: no limit, or one of which nothing is certain."""

    kind: str
    amount: int | None = None
    since_ns: int = 0
    pending: list[int | None] = field(default_factory=list)
    whose: dict[str, Any] = field(default_factory=dict)  # how the office is told whose it is

    def sent(self, amount: int | None) -> None:
        """Somebody sets the limit; it may be in force from now on."""
        lifted = amount is None or self.amount is None
        self.pending.append(amount)
        self.amount = None if lifted else max(self.amount or 0, amount or 0)

    def confirmed(self, amount: int | None, now_ns: int) -> None:
        self.pending.remove(amount)
        if not self.pending:
            self.amount, self.since_ns = amount, now_ns

    def of(self, request: "Request") -> int | None:
        """The amount that certainly bounds this request."""
        return self.amount if request.asked_ns >= self.since_ns else None


def exceeded(bound: Bound, rows: Iterable[UsageRow], requests: dict[bytes, "Request"]) -> Iterable[str]:
    """Requests that were let in although the limit was reached, in words. `rows` are the tenant's."""
    let_in = sorted((requests[row.request_id].place, row) for row in rows if row.request_id in requests)
    for at, (_, row) in enumerate(let_in):
        most = requests[row.request_id].bound
        if most is None:
            continue
        earlier = [one for _, one in let_in[: at + 1]]
        before = [one for one in earlier if 0 <= row.opened_ns - one.opened_ns < MINUTE_NS]
        match bound.kind:
            case "rpm":
                used = len(before)
            case "tpm":
                used = sum(map(_tokens, before))
            case "budget":
                used = sum(min(one.charge_nano, one.hold_nano) for one in earlier if _day(one) == _day(row))
            case _:
                continue
        if used > most:
            yield f"tenant {row.tenant_id} has a {bound.kind} limit of {most} and used {used} with {row.request_id.hex()}"


def _tokens(row: UsageRow) -> int:
    return row.input + row.cached_input + row.cache_write + row.output + row.reasoning


def _day(row: UsageRow) -> int:
    """The day of a request in Asia/Shanghai, eight hours ahead all year."""
    return (row.opened_ns + 8 * 3600 * NS_PER_S) // (24 * 3600 * NS_PER_S)
