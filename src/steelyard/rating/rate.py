"""Rates usage with tariffs, and bounds the charge of a request before it runs.

Pure: integers in, integers out. Knows no wallet and no database. Each line is rounded once, half-even, at nano (I9: the
same settlement and tariffs always give the same amounts). What has no price is refused, never rated at nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import gcd

from steelyard.kernel.errors import BooksError
from steelyard.kernel.money import INT64_MAX, PICO_PER_NANO, divide_half_even
from steelyard.kernel.quantities import Meter, Usage
from steelyard.kernel.records import AmountLine, Caller, Granted, HoldAsk, Opened, Order, Rated, Settlement
from steelyard.kernel.tariff import Tariff, TariffLine

PRICE_METERS = (Meter.INPUT, Meter.CACHED_INPUT, Meter.OUTPUT, Meter.CACHE_WRITE, Meter.REASONING)
"""What a price book charges customers for: what most requests have first."""
_PRICED_LIKE = {Meter.CACHE_WRITE: Meter.INPUT, Meter.REASONING: Meter.OUTPUT}
"""What has no line of its own has the price of what it is a part of elsewhere; it stays a line of its own meter."""
COST_METERS = (Meter.CPU, Meter.ENERGY)
"""What a cost book says an engine costs us; a vendor bills the meters of a price book."""
RATE_METERS = (Meter.MONEY,)


class Sheet:
    """A tariff made ready to rate many requests: its lines in the order of its book's meters."""

    __slots__ = ("_lines", "_meters", "_tariff")

    def __init__(self, tariff: Tariff, meters: Sequence[Meter]) -> None:
        self._tariff = tariff
        self._meters = meters
        self._lines: list[tuple[int, int]] = []  # nano per unit of each meter as a fraction

    def amounts(self, quantities: Sequence[int]) -> list[int]:
        """What each quantity comes to, in nano; `quantities` are in the order of the meters, of all or the first."""
        if not self._lines and not self._prepare(quantities):
            return [0] * len(quantities)
        amounts: list[int] = []
        for quantity, (numerator, denominator) in zip(quantities, self._lines):  # noqa: B905 - perhaps only the first meters
            amount = quantity * numerator
            if denominator != 1:
                amount = divide_half_even(amount, denominator)
            if quantity < 0 or amount > INT64_MAX:
                raise self._refusal(self._meters[len(amounts)], quantity)
            amounts.append(amount)
        return amounts

    def lines(self, quantities: Sequence[int]) -> tuple[AmountLine, ...]:
        """One line per meter with a count, for people to read."""
        lines = []
        for quantity, meter, amount in zip(quantities, self._meters, self.amounts(quantities), strict=True):
            if quantity:
                line = _line_of(self._tariff, meter, self._meters)
                lines.append(AmountLine(meter, quantity, line.text, line.per, amount))
        return tuple(lines)

    def _prepare(self, quantities: Sequence[int]) -> bool:
        """Whether there is anything to rate: what nobody uses needs no price."""
        if any(quantities):
            self._lines = [_reduced(_price_of(self._tariff, meter, self._meters)) for meter in self._meters]
        return bool(self._lines)

    def _refusal(self, meter: Meter, quantity: int) -> BooksError:
        _refuse_negative(quantity)
        line = _line_of(self._tariff, meter, self._meters)
        return BooksError(f"{quantity} {meter} at {line.text} per {line.per} is more than an account can hold")


def rate(settlement: Settlement, price: Tariff, cost: Tariff, exchange: Tariff | None = None) -> Rated:
    """The settlement with its money. Raises BooksError when these are not the tariffs it was opened with."""
    opened = settlement.opened
    tariffs = {opened.price_id: price, opened.cost_id: cost}
    return rate_all([settlement], tariffs if exchange is None else tariffs | {opened.rate_id: exchange})[0]


def rate_all(settlements: Iterable[Settlement], tariffs: Mapping[int, Tariff]) -> list[Rated]:
    """`rate` for many: each set of tariffs, found by the ids the requests were opened with, is looked at once."""
    known: dict[tuple[int, int, str, int], tuple[Sheet, Sheet | VendorSheet]] = {}
    rated = []
    for one in settlements:
        opened, usage = one.opened, one.closed.usage
        key = (opened.price_id, opened.cost_id, opened.currency, opened.rate_id)
        sheets = known.get(key)
        if sheets is None:
            sheets = known[key] = _sheets(opened, tariffs)
        if usage.cache_write or usage.reasoning:
            charged = sheets[0].amounts([usage.of(meter) for meter in PRICE_METERS])
        else:
            charged = sheets[0].amounts((usage.input, usage.cached_input, usage.output))
        cost = sheets[1]
        if isinstance(cost, Sheet):
            cpu_cost, energy_cost = cost.amounts((usage.cpu_ns, usage.energy_uj))
            rated.append(Rated(one, sum(charged), cpu_cost, energy_cost))
        else:
            rated.append(Rated(one, sum(charged), 0, 0, *cost.amounts(one.closed.billed)))
    return rated


class VendorSheet:
    """A vendor's tariff made ready, with the rate that turns his currency into the customer's."""

    __slots__ = ("_currency", "_rate", "_sheet")

    def __init__(self, cost: Tariff, rate: Tariff | None) -> None:
        self._currency = cost.currency
        self._sheet = Sheet(cost, PRICE_METERS)
        self._rate = Sheet(rate, RATE_METERS) if rate is not None else None

    def amounts(self, billed: Usage) -> tuple[int, int, str]:
        """Cost in the customer's currency, and what is payable in the vendor's: its sum is turned over as one."""
        payable = sum(self._sheet.amounts([billed.of(meter) for meter in PRICE_METERS]))
        return self._rate.amounts((payable,))[0] if self._rate else payable, payable, self._currency


def _sheets(opened: Opened, tariffs: Mapping[int, Tariff]) -> tuple[Sheet, Sheet | VendorSheet]:
    price, cost, rate = tariffs[opened.price_id], tariffs[opened.cost_id], tariffs.get(opened.rate_id)
    if not (price.id == opened.price_id and cost.id == opened.cost_id and (rate.id if rate else 0) == opened.rate_id):
        ids = f"{opened.price_id}, {opened.cost_id} and {opened.rate_id}"
        raise BooksError(f"the request was opened with tariffs {ids}, not these")
    turned = (rate.subject, rate.currency) if rate and cost.of_vendor else (opened.currency, opened.currency)
    if price.currency != opened.currency or (cost.currency, opened.currency) != turned:
        raise BooksError(f"tariffs in {price.currency} and {cost.currency} for a request in {opened.currency}")
    return Sheet(price, PRICE_METERS), VendorSheet(cost, rate) if cost.of_vendor else Sheet(cost, COST_METERS)


def charge_of(usage: Usage, price: Tariff) -> tuple[AmountLine, ...]:
    """What a customer pays for this usage: one line per meter with a count, in the order of the meters."""
    return Sheet(price, PRICE_METERS).lines([usage.of(meter) for meter in PRICE_METERS])


def cost_of(usage: Usage, cost: Tariff) -> tuple[AmountLine, ...]:
    """What this usage cost us: one line per meter with a count, in the order of the meters.

    In the tariff's currency; of what a vendor served, `usage` is what he bills (`Closed.billed`).
    """
    meters = PRICE_METERS if cost.of_vendor else COST_METERS
    return Sheet(cost, meters).lines([usage.of(meter) for meter in meters])


def exchange_of(payable_nano: int, exchange: Tariff) -> tuple[AmountLine, ...]:
    """What an amount in the rate's own currency is worth in the other."""
    return Sheet(exchange, RATE_METERS).lines([payable_nano])


def worst_case_nano(price: Tariff, prompt_tokens_max: int, max_tokens: int, sequences: int) -> int:
    """The least amount that is certain to cover the charge of a request within these bounds, rounded up.

    Each sequence is metered by itself, so its prompt counts once per sequence, at the dearest of the prompt's prices.
    What has no output tokens needs no price of them, and none of cached ones: without it no token is counted there.
    """
    _refuse_negative(max_tokens)
    prompt_nano = _worst_prompt_nano(price, prompt_tokens_max, sequences, reads_only=max_tokens == 0)
    if max_tokens == 0:
        return prompt_nano
    return prompt_nano + _worst_nano(_output_lines(price), max_tokens * sequences)


def affordable_tokens(price: Tariff, prompt_tokens_max: int, sequences: int, money_nano: int) -> int:
    """The most output tokens per sequence whose worst case `money_nano` covers; -1 when it misses even the prompt.

    With an output price of zero there is no most: the largest int64 stands for "as many as you like".
    """
    left_nano = money_nano - _worst_prompt_nano(price, prompt_tokens_max, sequences)
    if left_nano < 0:
        return -1
    numerator, denominator, broken = _dearest(_output_lines(price))
    if numerator == 0:
        return INT64_MAX
    # The most tokens whose `_worst_nano` is not above what is left.
    return max(0, ((2 * (left_nano + 1) - broken) * denominator - 1) // (2 * numerator * sequences))


def hold_ask(price: Tariff, order: Order, caller: Caller, bounds: tuple[int, int], opened_ns: int) -> HoldAsk:
    """What to set aside for an order. `bounds`: prompt tokens and output tokens of one sequence, at most."""
    prompt, output = bounds
    return HoldAsk(
        order.request_id,
        caller.tenant_id,
        worst_case_nano(price, prompt, output, order.sequences),
        worst_case_nano(price, prompt, min(output, 1), order.sequences),
        caller.project_id,
        caller.key_id,
        opened_ns,
        prompt * order.sequences,
        output,
        order.sequences,
    )


def covered_tokens(price: Tariff, ask: HoldAsk, granted: Granted) -> int:
    """The output tokens per sequence that what was granted covers, at most what was asked for."""
    if granted.amount_nano >= ask.want_nano:
        return min(ask.max_tokens, granted.max_tokens)
    affordable = affordable_tokens(price, ask.prompt_tokens // ask.sequences, ask.sequences, granted.amount_nano)
    return min(ask.max_tokens, granted.max_tokens, affordable)


def _worst_prompt_nano(price: Tariff, prompt_tokens_max: int, sequences: int, *, reads_only: bool = False) -> int:
    _refuse_negative(prompt_tokens_max)
    if sequences < 1:
        raise BooksError(f"a request has at least one sequence, not {sequences}")
    lines = [_line_of(price, Meter.INPUT, PRICE_METERS)]
    if not reads_only:
        lines.append(_line_of(price, Meter.CACHED_INPUT, PRICE_METERS))
    elif (cached := _find_line(price, Meter.CACHED_INPUT, PRICE_METERS)) is not None:
        lines.append(cached)
    return _worst_nano([*lines, _line_of(price, Meter.CACHE_WRITE, PRICE_METERS)], prompt_tokens_max * sequences)


def _output_lines(price: Tariff) -> list[TariffLine]:
    return [_line_of(price, meter, PRICE_METERS) for meter in (Meter.OUTPUT, Meter.REASONING)]


def _worst_nano(lines: Sequence[TariffLine], tokens: int) -> int:
    """What so many tokens come to at most, however they are split between the lines.

    Each line may be rounded up by a half: 1.5 + 1.5 makes 2 + 2. With whole nanos per token nothing is rounded.
    """
    if tokens == 0:
        return 0
    numerator, denominator, broken = _dearest(lines)
    return (2 * tokens * numerator + broken * denominator) // (2 * denominator)


def _dearest(lines: Sequence[TariffLine]) -> tuple[int, int, int]:
    """Nano per token by the dearest line, as a fraction, and how many of the lines can be rounded."""
    prices = [_reduced(line) for line in lines]
    dearest = prices[0]
    for one in prices:
        if one[0] * dearest[1] > dearest[0] * one[1]:
            dearest = one
    return (*dearest, sum(denominator != 1 for _, denominator in prices))


def _line_of(tariff: Tariff, meter: Meter, meters: Sequence[Meter]) -> TariffLine:
    """The tariff's one line for the meter, its own or the one it is priced like; without one nothing is rated."""
    found = _price_of(tariff, meter, meters)
    if found is None:
        raise BooksError(
            f"tariff {tariff.id} of {tariff.subject} has no price for {meter}: nothing is rated at nothing"
        )
    return found


def _price_of(tariff: Tariff, meter: Meter, meters: Sequence[Meter]) -> TariffLine | None:
    found = _find_line(tariff, meter, meters)
    like = _PRICED_LIKE.get(meter)
    return _find_line(tariff, like, meters) if found is None and like is not None else found


def _find_line(tariff: Tariff, meter: Meter, meters: Sequence[Meter]) -> TariffLine | None:
    """A tariff with a foreign, doubled, negative or unbounded line is refused."""
    found = None
    for line in tariff.lines:
        if line.meter not in meters:
            raise BooksError(
                f"tariff {tariff.id} of {tariff.subject} prices {line.meter!r}, which its book does not know"
            )
        if line.pico < 0 or line.per < 1:
            raise BooksError(f"tariff {tariff.id} of {tariff.subject} has a broken line for {line.meter}")
        if line.meter == meter:
            if found is not None:
                raise BooksError(f"tariff {tariff.id} of {tariff.subject} prices {meter} twice")
            found = line
    return found


def _reduced(line: TariffLine | None) -> tuple[int, int]:
    """Nano-units of money per unit of the meter; in lowest terms the numbers of a request stay small."""
    if line is None:
        return INT64_MAX + 1, 1  # whoever uses what has no price is refused like one whom no account can pay for
    divisor = line.per * PICO_PER_NANO
    common = gcd(line.pico, divisor)
    return line.pico // common, divisor // common


def _refuse_negative(count: int) -> None:
    if count < 0:
        raise BooksError(f"a count cannot be negative: {count}")
