"""Wallet operations beside holds: draws what the operator does with money, and tells the oracle what he asked and got.

Each has an idempotency key and is now and then asked again. Knows docs/howto/wallets.md; no right or wrong (counted.py).
"""

from typing import TYPE_CHECKING, Any

from tests.simulator.counted import Done

from steelyard.kernel.clock import NS_PER_S

if TYPE_CHECKING:
    from tests.simulator.desk import Desk

Payload = dict[str, Any]
SHORT = frozenset({"wallet_short"})
OPERATIONS = (
    "grant", "allowance started", "credit limit set", "refund", "transfer", "adjust", "reversal", "credit back",
    "period closed",
)  # fmt: skip


class Money:
    """The desk's hand in the till."""

    def __init__(self, desk: "Desk") -> None:
        self._desk, self._house, self._world = desk, desk.house, desk.world
        self._counted = desk.house.oracle.counted

    def operate(self) -> None:
        """One operation, drawn."""
        rng = self._world.random
        rng.choices(
            (self.grant, self.allowance, self.credit_limit, self.refund, self.transfer, self.adjust, self.reverse,
             self.credit_back, self.close),
            (5, 2, 3, 4, 3, 4, 4, 4, 1),
        )[0]()  # fmt: skip

    def _tenant(self) -> int:
        return self._world.random.randrange(self._house.habits.tenants) + 1

    def _amount(self, parts: int) -> int:
        return self._world.random.randrange(1, max(2, self._house.habits.topup_nano // parts))

    def grant(self) -> None:
        tenant_id, amount, rng = self._tenant(), self._amount(4), self._world.random
        expires_ns = self._house.clock.now_ns() + int(rng.choice((0.2, 1, 1, 4)) * rng.random() * NS_PER_S) + 1
        self._counted.give(tenant_id, amount)
        self._move("grant", {"expires_ns": expires_ns}, tenant_id, amount, {}, Done("grant", {}, expires_ns))

    def allowance(self) -> None:
        tenant_id, counted = self._tenant(), self._counted
        payload: Payload = {"tenant": f"t{tenant_id}"}
        if tenant_id in counted.allowances and self._world.chance(0.5):
            self._ask("wallet.allowance.stop", payload, "allowance stopped")
            return
        amount = self._amount(8)
        counted.give(tenant_id, 4 * amount)  # one window ends in the first seconds of every world
        counted.allowances.setdefault(tenant_id, []).append(amount)
        payload |= {"amount_nano": amount, "every": "day", "zone": "Asia/Shanghai"}
        self._ask("wallet.allowance", payload, "allowance started", may=frozenset({"already_exists"}))

    def credit_limit(self) -> None:
        tenant_id = self._tenant()
        amount = self._world.random.choice((0, self._amount(2)))
        self._counted.credit[tenant_id] = max(amount, self._counted.credit.get(tenant_id, 0))
        self._ask("wallet.limit", {"tenant": f"t{tenant_id}", "amount_nano": amount}, "credit limit set")

    def refund(self) -> None:
        tenant_id, amount = self._tenant(), self._amount(self._world.random.choice((1, 8)))
        self._move("refund", {}, tenant_id, amount, {tenant_id: -amount})

    def transfer(self) -> None:
        giver, taker, amount = self._tenant(), self._tenant(), self._amount(self._world.random.choice((1, 8)))
        if giver != taker:
            self._move("transfer", {"to": f"t{taker}"}, giver, amount, {giver: -amount, taker: amount})

    def adjust(self) -> None:
        tenant_id, amount = self._tenant(), self._amount(4) * self._world.random.choice((1, -1))
        self._move("adjust", {}, tenant_id, amount, {tenant_id: amount})

    def reverse(self) -> None:
        """Something that is done; now and then it was reversed before."""
        counted = self._counted
        open_ones = sorted(counted.done.keys() - counted.reversing)
        if not open_ones:
            return
        batch_id = self._world.random.choice(open_ones[-6:])
        earlier = counted.done[batch_id]
        if earlier.kind in ("credit", "reversal"):
            return
        counted.reversing.add(batch_id)
        deltas = {tenant_id: -amount for tenant_id, amount in earlier.deltas.items()}
        done = Done("reversal", deltas, reverses=batch_id)
        counted.sent(deltas)
        self._ask("ledger.reverse", {"batch": batch_id}, "reversal", done, SHORT)

    def credit_back(self) -> None:
        """Of a request that ended lately: perhaps it is not posted yet, or was given back before."""
        rng, oracle = self._world.random, self._house.oracle
        ended = [one for one in list(oracle.requests.items())[-200:] if one[1].end and one[1].hold_nano]
        if not ended:
            return
        request_id, request = rng.choice(ended)
        part = rng.choice((None, rng.randrange(1, 200_000)))
        most = part or request.hold_nano or 0
        done = Done("credit", {request.tenant_id: most}, request_id=request_id)
        payload = {"request_id": request_id.hex()} | ({"amount_nano": part} if part else {})
        self._counted.sent(done.deltas)
        self._ask("wallet.credit", payload, "credit back", done, frozenset({"receipt_not_found", "above_charge"}))

    def close(self) -> None:
        rng = self._world.random
        until_ns = self._house.clock.now_ns() - int(rng.random() * NS_PER_S)
        may = frozenset({"requests_open", "not_settled", "period_not_over", "period_closed"})
        self._ask("ledger.close", {"until_ns": until_ns, "zone": "Asia/Shanghai"}, "period closed", may=may)

    def _move(
        self, op: str, rest: Payload, tenant_id: int, amount: int, deltas: dict[int, int], done: Done | None = None
    ) -> None:
        payload = {"tenant": f"t{tenant_id}", "amount_nano": amount} | rest
        self._counted.sent(deltas)
        done = done or Done(op, deltas)
        done = done._replace(given=(tenant_id, amount)) if op == "grant" else done
        self._ask(f"wallet.{op}", payload, op, done, frozenset({"invalid_request"}) if op == "grant" else SHORT)

    def _ask(
        self, op: str, payload: Payload, name: str, done: Done | None = None, may: frozenset[str] = frozenset()
    ) -> None:
        """`may`: codes of refusals that are in order."""
        tally, counted = self._world.tally, self._counted

        def confirmed(reply: Any) -> None:
            tally[f"wallet operation: {name}"] += 1
            if done is not None:
                counted.confirmed(reply["batch"], done, reply["amount_nano"])
            if op != "ledger.close" and self._world.chance(0.25):
                self._again(op, payload, done and reply)

        def refused(code: str) -> None:
            tally[f"wallet operation refused: {name}"] += 1
            if done is not None:
                counted.refused(done)

        self._desk.ask(op, self._worded(payload), confirmed, refused, may)

    def _worded(self, payload: Payload) -> Payload:
        if "amount_nano" in payload:
            payload["amount"] = self._desk.text(payload.pop("amount_nano"))
        return payload | {
            "reason": "drawn",
            "actor": "desk",
            "idempotency_key": payload.get("key") or self._key(payload),
        }

    def _key(self, payload: Payload) -> str:
        payload["key"] = self._desk.next_key()
        return str(payload["key"])

    def _again(self, op: str, payload: Payload, first: Payload | None) -> None:
        """The same under the same key: answered as the first time, or something else under it: refused."""
        tally, oracle = self._world.tally, self._house.oracle
        other = "amount" in payload and op != "ledger.reverse" and self._world.chance(0.3)
        asked = self._worded(dict(payload)) | ({"amount": "0.123456789"} if other else {})

        def confirmed(reply: Any) -> None:
            tally["wallet operation repeated"] += 1
            if other:
                oracle.fault(f"{op} {asked} was another operation under a used key and was carried out")
            elif first is not None and any(reply[name] != first[name] for name in ("batch", "amount_nano")):
                oracle.fault(f"{op} {asked} was answered differently when it was repeated")

        def refused(code: str) -> None:
            tally["wallet operation refused: another one under its key"] += 1

        self._desk.ask(op, asked, confirmed, refused, frozenset({"idempotency_conflict"}) if other else frozenset())
