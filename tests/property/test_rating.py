"""Rating against exact rationals, for any tariff and any usage."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from steelyard.kernel.choice import Sold
from steelyard.kernel.offers import Model
from steelyard.kernel.quantities import Meter, Usage
from steelyard.kernel.records import Caller, Granted, HoldAsk, Order
from steelyard.kernel.settled import Closed, End, Opened, Settlement
from steelyard.kernel.tariff import Tariff, TariffLine
from steelyard.rating.bounds import affordable_tokens, asking, covered, worst_case_nano
from steelyard.rating.rate import charge_nano, charge_of, cost_of, rate

PICO_PER_NANO = 1000
pers = st.sampled_from([1, 1_000, 1_000_000, 3_600_000_000_000, 7])
picos = st.one_of(st.integers(0, 5000), st.integers(0, 10**13), st.sampled_from([500, 1500, 2500, 500_000]))
counts = st.one_of(st.integers(0, 10), st.integers(0, 10**6))
small = st.integers(0, 300)


def tariffs(meters: tuple[Meter, ...], tariff_id: int) -> st.SearchStrategy[Tariff]:
    lines = st.tuples(*(st.builds(TariffLine, st.just(meter), st.just("?"), picos, pers) for meter in meters))
    return lines.map(lambda some: Tariff(tariff_id, "s", "CNY", 0, tuple(some)))


ALWAYS, LATER = (Meter.INPUT, Meter.CACHED_INPUT, Meter.OUTPUT), (Meter.CACHE_WRITE, Meter.REASONING)
LIKE = {Meter.CACHE_WRITE: Meter.INPUT, Meter.REASONING: Meter.OUTPUT}
prices = st.one_of(*(tariffs(ALWAYS + more, 1) for more in ((), LATER, LATER[:1], LATER[1:])))
costs = tariffs((Meter.CPU, Meter.ENERGY), 2)
# 4·10⁸ ns and µJ at the dearest price drawn still fits an account; what does not fit is refused, see the unit tests
costly = st.integers(0, 4 * 10**8)
usages = st.builds(Usage, counts, counts, counts, costly, costly, counts, counts)


def exact(count: int, line: TariffLine) -> Fraction:
    return Fraction(count * line.pico, line.per * PICO_PER_NANO)


def line_of(price: Tariff, meter: Meter) -> TariffLine:
    """Its own, or the one of what it is a part of."""
    own = {line.meter: line for line in price.lines}
    return own.get(meter) or own[LIKE[meter]]


def settlement(usage: Usage) -> Settlement:
    opened = Opened(bytes(16), 0, 0, 1, 1, 1, "m", "local", 1, 2, "CNY", 0, 1, 1, False)
    return Settlement(opened, Closed(bytes(16), 1, usage, End.COMPLETE, 1, 1))


@given(usages, prices, costs)
def test_each_line_is_the_exact_amount_rounded_half_even(usage: Usage, price: Tariff, cost: Tariff) -> None:
    rated = rate(settlement(usage), price, cost)
    charged, spent = charge_of(usage, price), cost_of(usage, cost)
    lines = {line.meter: line for line in charged + spent}
    elsewhere = {Meter.CALL, Meter.GPU}  # of other tariffs: a fee, an engine on GPUs
    assert set(lines) == {meter for meter in Meter if usage.of(meter) and meter not in elsewhere}
    for meter, line in lines.items():
        priced = line_of(cost if meter in (Meter.CPU, Meter.ENERGY) else price, meter)
        wanted, amount = exact(usage.of(meter), priced), line.amount_nano
        assert (line.text, line.per, line.quantity) == (priced.text, priced.per, usage.of(meter))
        assert abs(amount - wanted) <= Fraction(1, 2)
        if abs(amount - wanted) == Fraction(1, 2):
            assert amount % 2 == 0
        assert amount == round(wanted)  # Fraction rounds ties to even
    assert rated.charge_nano == sum(line.amount_nano for line in charged)
    assert rated.cost_nano == sum(line.amount_nano for line in spent)


@given(usages, prices, costs)
def test_rating_again_gives_the_same(usage: Usage, price: Tariff, cost: Tariff) -> None:
    first, again = rate(settlement(usage), price, cost), rate(settlement(usage), price, cost)
    assert first == again
    shown = charge_of(usage, price), cost_of(usage, cost)
    assert charge_nano(usage, price) == charge_nano(usage, price) == sum(line.amount_nano for line in shown[0])
    assert [sum(line.amount_nano for line in lines) for lines in shown] == [again.charge_nano, again.cost_nano]


@given(prices, small, small, st.integers(1, 4), st.data())
def test_worst_case_covers_every_charge_within_its_bounds(
    price: Tariff, prompt: int, output: int, sequences: int, data: st.DataObject
) -> None:
    fresh = data.draw(st.integers(0, prompt * sequences))
    cached = data.draw(st.integers(0, prompt * sequences - fresh))
    written = data.draw(st.integers(0, prompt * sequences - fresh - cached))
    out = data.draw(st.integers(0, output * sequences))
    thought = data.draw(st.integers(0, output * sequences - out))
    used = Usage(fresh, cached, out, cache_write=written, reasoning=thought)
    charged = sum(line.amount_nano for line in charge_of(used, price))
    assert charged <= worst_case_nano(price, prompt, output, sequences)


@given(prices, small, small, st.integers(1, 4))
def test_worst_case_is_at_most_half_a_nano_per_line_from_the_dearest_use(
    price: Tariff, prompt: int, output: int, sequences: int
) -> None:
    wanted = sum(
        max(exact(tokens * sequences, line_of(price, meter)) for meter in meters)
        for tokens, meters in (
            (prompt, (Meter.INPUT, Meter.CACHED_INPUT, Meter.CACHE_WRITE)),
            (output, (Meter.OUTPUT, Meter.REASONING)),
        )
    )
    worst_nano = worst_case_nano(price, prompt, output, sequences)
    assert wanted - 1 <= worst_nano <= wanted + Fraction(5, 2)


FEE = TariffLine(Meter.CALL, "?", 2_500, 1)
OWN = (TariffLine(Meter.REUSED_INPUT, "?", 77_000, 10), TariffLine(Meter.REUSED_OUTPUT, "?", 0, 1))
wares = st.tuples(prices, st.sampled_from([(), (FEE,), OWN, (FEE, *OWN)]), st.integers(2, 200), st.integers(1, 200))


@given(
    st.lists(wares, min_size=1, max_size=3),
    small,
    st.integers(1, 300) | st.none(),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_what_is_asked_for_is_the_worst_case_of_each_model_within_what_its_offers_take(
    some: list[tuple[Tariff, tuple[TariffLine, ...], int, int]],
    prompt: int,
    max_tokens: int | None,
    sequences: int,
    parts: int,
) -> None:
    """The same twice: the second time of what was kept of the first."""
    found, takes = [], {}
    for number, (price, more, context, output) in enumerate(some):
        model = Model(number, f"m{number}", 0, 50, ())
        found.append(Sold(model, replace(price, lines=price.lines + more)))
        takes[number] = context, output
    order = Order(bytes(16), "m0", {}, prompt, max_tokens, sequences, False, parts=parts)
    caller = Caller(7, 3, 1, "t", "p", "CNY")
    for _ in range(2):
        asked = asking(found, order, caller, lambda model, _: takes[model.id], 9)
        wanted = []
        for model, price in found:
            context, output = takes[model.id]
            tokens, cap = min(prompt, parts * context), min(max_tokens or 50, output)
            want, floor = (worst_case_nano(price, tokens, most, sequences) for most in (cap, 1))
            wanted.append(HoldAsk(bytes(16), 1, want, floor, 3, 7, 9, tokens * sequences, cap, sequences))
        assert asked.asks == wanted
        assert (asked.dearest.want_nano, asked.dearest.floor_nano) == (
            max(one.want_nano for one in wanted),
            wanted[0].floor_nano,
        )
        given = Granted(asked.dearest.want_nano, asked.dearest.max_tokens)
        terms = covered(asked, given)
        assert [(one.model, one.price) for one in terms] == found
        for one, ask in zip(terms, wanted, strict=True):
            assert (one.granted, one.max_tokens, one.lowered, one.priced_ns) == (given, ask.max_tokens, False, 9)


@given(prices, small, st.integers(1, 4), st.integers(0, 10**13))
def test_affordable_tokens_is_the_most_that_money_covers(
    price: Tariff, prompt: int, sequences: int, money_nano: int
) -> None:
    tokens = affordable_tokens(price, prompt, sequences, money_nano)
    if tokens < 0:
        assert tokens == -1
        assert worst_case_nano(price, prompt, 0, sequences) > money_nano
        return
    assert worst_case_nano(price, prompt, tokens, sequences) <= money_nano
    if line_of(price, Meter.OUTPUT).pico or line_of(price, Meter.REASONING).pico:
        assert worst_case_nano(price, prompt, tokens + 1, sequences) > money_nano


@given(prices, small, small, st.integers(1, 4))
def test_what_the_worst_case_costs_affords_its_tokens(price: Tariff, prompt: int, output: int, sequences: int) -> None:
    hold_nano = worst_case_nano(price, prompt, output, sequences)
    assert affordable_tokens(price, prompt, sequences, hold_nano) >= output
