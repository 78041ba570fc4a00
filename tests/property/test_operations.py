"""The real teller, posting and office against a ledger of a page, after every step of random histories."""

import tempfile
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.fakes.ledger import TARIFFS, TOPUP_NANO, Requests, books
from tests.property.reference_ledger import ReferenceLedger

from steelyard.kernel.clock import NS_PER_S, ManualClock
from steelyard.kernel.errors import CallerError
from steelyard.kernel.money import text_from_nano
from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import Opened, Settlement
from steelyard.ledger.posting import post
from steelyard.ledger.purses import read_purses
from steelyard.ledger.teller import Teller
from steelyard.ledger.verify import verify
from steelyard.processes.office import Office
from steelyard.processes.outcome import Outcome
from steelyard.processes.paying import set_aside
from steelyard.rating.rate import rate

NAMES = ("acme", "beta")
who = st.integers(0, 1)
amounts = st.sampled_from([1, 1500, TOPUP_NANO // 3, TOPUP_NANO, 3 * TOPUP_NANO])


class Operations(RuleBasedStateMachine):
    """Two tenants with 5 CNY each; requests cost 1500 nano a token."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = ManualClock()
        self.engine = books(Path(self.folder.name) / "books.db", NAMES, self.clock)
        self.office = Office(self.engine, self.clock)
        self.requests = Requests(self.clock)
        with self.engine.connect() as connection:
            self.teller = Teller(read_purses(connection))
        self.reference = ReferenceLedger(2, TOPUP_NANO)
        self.start_ns = self.clock.now_ns()
        self.open: dict[int, tuple[int, Opened]] = {}
        self.number = 0

    def do(self, op: str, **payload: Any) -> Outcome:
        self.clock.advance(1)
        outcome = self.office.execute(op, payload)
        self.teller.correct(outcome.purses)
        return outcome

    def paid(self, op: str, **payload: Any) -> bool:
        """As `processes.paying` does it."""
        try:
            needs = self.office.execute("money.needs", {"op": op, "payload": payload}).reply
            with set_aside(self.teller, needs):
                outcome = self.office.execute(op, payload)
        except CallerError as error:
            assert error.code == "wallet_short"
            return False
        self.teller.correct(outcome.purses)
        return True

    @rule(one=who, amount=amounts)
    def topup(self, one: int, amount: int) -> None:
        self.do("wallet.topup", tenant=NAMES[one], amount=text_from_nano(amount))
        self.reference.customers[one].wallet += amount

    @rule(one=who, amount=amounts, seconds=st.integers(1, 60))
    def grant(self, one: int, amount: int, seconds: int) -> None:
        expires_ns = self.reference.now_ns + seconds * NS_PER_S
        self.do("wallet.grant", tenant=NAMES[one], amount=text_from_nano(amount), expires_ns=self.start_ns + expires_ns)
        self.reference.grant(one, amount, expires_ns)

    @rule(one=who, amount=st.sampled_from([0, 7, TOPUP_NANO]))
    def limit(self, one: int, amount: int) -> None:
        self.do("wallet.limit", tenant=NAMES[one], amount=text_from_nano(amount))
        self.reference.set_limit(one, amount)

    @rule(one=who, amount=amounts)
    def refund(self, one: int, amount: int) -> None:
        done = self.paid("wallet.refund", tenant=NAMES[one], amount=text_from_nano(amount))
        assert done == self.reference.pay(one, amount)

    @rule(one=who, amount=amounts)
    def transfer(self, one: int, amount: int) -> None:
        to = 1 - one
        done = self.paid("wallet.transfer", tenant=NAMES[one], to=NAMES[to], amount=text_from_nano(amount))
        assert done == self.reference.pay(one, amount, to)

    @rule(one=who, want=amounts, part=st.sampled_from([1, 2]))
    def hold(self, one: int, want: int, part: int) -> None:
        self.clock.advance(1)
        request_id = self.requests.ids.next()
        got = self.teller.hold(request_id, one + 1, want, want // part, "w0-1")
        assert got == self.reference.hold(one, self.number, want, want // part)
        if got:
            opened = self.requests.opened(one + 1, got)
            self.open[self.number] = (one, msgspec.structs.replace(opened, request_id=request_id))
            self.number += 1

    @rule(tokens=st.sampled_from([0, 1, 1000, 10_000_000]), newest=st.booleans())
    def end(self, tokens: int, newest: bool) -> None:
        if not self.open:
            return
        number = max(self.open) if newest else min(self.open)
        one, opened = self.open.pop(number)
        rated = rate(Settlement(opened, self.requests.closed(opened, Usage(output=tokens))), TARIFFS[1], TARIFFS[2])
        with self.engine.begin() as connection:
            post(connection, [rated], {}, self.clock)
        self.teller.settle(opened.request_id, one + 1, opened.hold_nano, rated.charge_nano)
        self.reference.end(one, number, rated.charge_nano)

    @rule(seconds=st.sampled_from([1, 20, 100]))
    def pass_time(self, seconds: int) -> None:
        self.reference.pass_time(seconds * NS_PER_S)
        self.clock.advance(self.start_ns + self.reference.now_ns - self.clock.now_ns())
        due = self.teller.expire(self.clock.now_ns())
        self.teller.correct(self.office.execute("time.passed", {"due": due}).purses)
        assert self.teller.expire(self.clock.now_ns()) == {}

    @rule(one=who, tokens=st.sampled_from([0, 1000]))
    def expire_under_a_hold(self, one: int, tokens: int) -> None:
        """What random steps seldom hit: a hold across an expiry that ends while a later one runs."""
        self.grant(one, TOPUP_NANO, 1)
        self.hold(one, TOPUP_NANO // 3, 1)
        self.both_agree()
        self.pass_time(1)
        self.both_agree()
        self.hold(one, 1500, 1)
        self.both_agree()
        self.end(tokens, newest=False)

    @invariant()
    def both_agree(self) -> None:
        with self.engine.connect() as connection:
            purses = read_purses(connection)
        assert self.teller.complaints(purses) == []
        for one, customer in enumerate(self.reference.customers):
            purse = purses[one + 1]
            assert purse.wallet_nano == customer.wallet
            lefts = sorted((grant.expires_ns - self.start_ns, grant.left_nano) for grant in purse.grants)
            assert lefts == sorted((grant.expires_ns, grant.left) for grant in customer.grants if grant.left)
            assert self.teller.available(one + 1) == self.reference.available(one)
            assert self.teller.payable(one + 1) == self.reference.payable(one)

    def teardown(self) -> None:
        with self.engine.connect() as connection:
            findings = verify(connection, rate, TARIFFS)
        assert [finding.detail for finding in findings if not finding.ok] == []
        self.engine.dispose()
        self.folder.cleanup()


Operations.TestCase.settings = settings(max_examples=10, stateful_step_count=20, deadline=None)
TestOperations = Operations.TestCase
