"""Rates usage with tariffs, and bounds the charge of a request before it runs.

Pure: integers in, integers out. Knows no wallet and no database. Each line is rounded once, half-even, at nano (I9: the
same settlement and tariffs always give the same amounts). What has no price is refused, never rated at nothing.
"""

from collections.abc import Sequence

from steelyard.kernel.errors import BooksError
from steelyard.kernel.money import INT64_MAX, PICO_PER_NANO, divide_half_even
from steelyard.kernel.quantities import Meter, Usage
from steelyard.kernel.records import (
    AmountLine,
    Caller,
    Granted,
    HoldAsk,
    Order,
    Rated,
    Settlement,
    Tariff,
    TariffLine,
)

PRICE_METERS = (Meter.INPUT, Meter.CACHED_INPUT, Meter.OUTPUT)
"""What a price book charges customers for."""
COST_METERS = (Meter.CPU, Meter.ENERGY)
"""What a cost book says an upstream costs us."""


def rate(settlement: Settlement, price: Tariff, cost: Tariff) -> Rated:
    """The settlement with its money. Raises BooksError when these are not the tariffs it was opened with."""
    opened, usage = settlement.opened, settlement.closed.usage
    for tariff, wanted_id in ((price, opened.price_id), (cost, opened.cost_id)):
        if tariff.id != wanted_id:
            raise BooksError(f"the request was opened with tariff {wanted_id}, not {tariff.id}")
        if tariff.currency != opened.currency:
            raise BooksError(f"tariff {tariff.id} is in {tariff.currency}, the request in {opened.currency}")
    return Rated(settlement, charge_of(usage, price), cost_of(usage, cost))


def charge_of(usage: Usage, price: Tariff) -> tuple[AmountLine, ...]:
    """What a customer pays for this usage: one line per meter with a count, in the order of the meters."""
    return _lines(usage, price, PRICE_METERS)


def cost_of(usage: Usage, cost: Tariff) -> tuple[AmountLine, ...]:
    """What this usage cost us: one line per meter with a count, in the order of the meters."""
    return _lines(usage, cost, COST_METERS)


def worst_case_nano(price: Tariff, prompt_tokens_max: int, max_tokens: int, sequences: int) -> int:
    """The least amount that is certain to cover the charge of a request within these bounds, rounded up.

    Each sequence is metered by itself, so its prompt counts once per sequence, at the dearer of the two input prices.
    """
    _refuse_negative(max_tokens)
    prompt_nano = _worst_prompt_nano(price, prompt_tokens_max, sequences)
    output = _line_of(price, Meter.OUTPUT, PRICE_METERS)
    return prompt_nano + -(-max_tokens * sequences * output.pico // (output.per * PICO_PER_NANO))


def affordable_tokens(price: Tariff, prompt_tokens_max: int, sequences: int, money_nano: int) -> int:
    """The most output tokens per sequence whose worst case `money_nano` covers; -1 when it misses even the prompt.

    With an output price of zero there is no most: the largest int64 stands for "as many as you like".
    """
    left_nano = money_nano - _worst_prompt_nano(price, prompt_tokens_max, sequences)
    if left_nano < 0:
        return -1
    output = _line_of(price, Meter.OUTPUT, PRICE_METERS)
    if output.pico == 0:
        return INT64_MAX
    return left_nano * output.per * PICO_PER_NANO // (output.pico * sequences)


def hold_ask(price: Tariff, order: Order, caller: Caller, bounds: tuple[int, int], opened_ns: int) -> HoldAsk:
    """What to set aside for an order. `bounds`: prompt tokens and output tokens of one sequence, at most."""
    prompt, output = bounds
    return HoldAsk(
        order.request_id,
        caller.tenant_id,
        worst_case_nano(price, prompt, output, order.sequences),
        worst_case_nano(price, prompt, 1, order.sequences),
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


def _worst_prompt_nano(price: Tariff, prompt_tokens_max: int, sequences: int) -> int:
    _refuse_negative(prompt_tokens_max)
    if sequences < 1:
        raise BooksError(f"a request has at least one sequence, not {sequences}")
    both = [_line_of(price, meter, PRICE_METERS) for meter in (Meter.INPUT, Meter.CACHED_INPUT)]
    fresh, cached = both
    dearest = fresh if fresh.pico * cached.per >= cached.pico * fresh.per else cached
    quotient, rest = divmod(prompt_tokens_max * sequences * dearest.pico, dearest.per * PICO_PER_NANO)
    # The prompt may be split between two lines, and both may be rounded up: 1.5 + 1.5 makes 2 + 2. With whole nanos
    # per token nothing is rounded.
    whole = all(line.pico % (line.per * PICO_PER_NANO) == 0 for line in both)
    return quotient if prompt_tokens_max == 0 or (whole and not rest) else quotient + 1


def _lines(usage: Usage, tariff: Tariff, meters: Sequence[Meter]) -> tuple[AmountLine, ...]:
    lines = []
    for meter in meters:
        quantity = usage.of(meter)
        _refuse_negative(quantity)
        if quantity:
            line = _line_of(tariff, meter, meters)
            lines.append(AmountLine(meter, quantity, line.text, line.per, _amount_nano(quantity, line)))
    return tuple(lines)


def _amount_nano(quantity: int, line: TariffLine) -> int:
    amount = divide_half_even(quantity * line.pico, line.per * PICO_PER_NANO)
    if amount > INT64_MAX:
        raise BooksError(f"{quantity} {line.meter} at {line.text} per {line.per} is more than an account can hold")
    return amount


def _line_of(tariff: Tariff, meter: Meter, meters: Sequence[Meter]) -> TariffLine:
    """The tariff's one line for the meter. A tariff with a foreign, doubled, negative or unbounded line is refused."""
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
    if found is None:
        raise BooksError(
            f"tariff {tariff.id} of {tariff.subject} has no price for {meter}: nothing is rated at nothing"
        )
    return found


def _refuse_negative(count: int) -> None:
    if count < 0:
        raise BooksError(f"a count cannot be negative: {count}")
