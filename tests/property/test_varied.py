"""Which variant prices what, against a reference that looks at every token by itself; and holds that always suffice.

Tariffs and usages are drawn by seed, close to the edges of few and narrow bands: a seed that fails is drawn again.
"""

from collections import Counter
from fractions import Fraction
from random import Random

import pytest

from steelyard.kernel.money import INT64_MAX
from steelyard.kernel.quantities import Meter, Usage
from steelyard.kernel.settled import Closed, End, Opened, Settlement
from steelyard.kernel.tariff import Condition, Tariff, TariffLine, Variant
from steelyard.rating.bounds import affordable_tokens, worst_case_nano
from steelyard.rating.rate import charge_nano, charge_of, rate
from steelyard.rating.varied import standing

PROMPT = (Meter.CACHED_INPUT, Meter.CACHE_WRITE, Meter.INPUT)
ANSWER = (Meter.REASONING, Meter.OUTPUT)
LIKE = {Meter.CACHE_WRITE: Meter.INPUT, Meter.REASONING: Meter.OUTPUT}
ALWAYS = [Meter.INPUT, Meter.CACHED_INPUT, Meter.OUTPUT]
COST = Tariff(2, "local", "CNY", 0, (TariffLine(Meter.CPU, "0", 0, 1), TariffLine(Meter.ENERGY, "0", 0, 1)))
SEEDS = pytest.mark.parametrize("seeds", [range(at, at + 150) for at in range(0, 600, 150)], ids=str)


def lines(draw: Random, meters: list[Meter], label: str) -> tuple[TariffLine, ...]:
    def pico() -> int:
        return draw.choice([0, 500, 1500, 2500, 501, 1499, draw.randrange(10**6)])

    return tuple(TariffLine(meter, label, pico(), draw.choice([1, 1, 7])) for meter in meters)


def band(draw: Random) -> tuple[int | None, int | None]:
    over = draw.choice([None, None, *range(7)])
    up_to = draw.choice([None, None, *range((over or 0) + 1, 10)])
    return over, up_to


def variant(draw: Random, label: str, marginal: bool, has_call: bool) -> Variant:
    on_input, on_output = band(draw), band(draw)
    may = [*PROMPT, *ANSWER, *([Meter.CALL] if has_call else [])]
    if marginal:
        side = draw.choice(["input", "output", "neither"])
        on_input = on_input if side == "input" else (None, None)
        on_output = on_output if side == "output" else (None, None)
        if on_input != (None, None) or on_output != (None, None):
            may = list(PROMPT if side == "input" else ANSWER)
    when = Condition("", (), (), "", False, None, *on_input, *on_output)
    return Variant(label, when, lines(draw, draw.sample(may, draw.randint(1, len(may))), label))


def tariff(draw: Random) -> Tariff:
    marginal = draw.random() < 0.5
    base = lines(draw, ALWAYS + draw.choice([[], list(LIKE), [Meter.CACHE_WRITE], [Meter.REASONING]]), "")
    has_call = draw.random() < 0.3
    base += lines(draw, [Meter.CALL], "") if has_call else ()
    varied = tuple(variant(draw, f"v{number}", marginal, has_call) for number in range(draw.randint(1, 4)))
    return Tariff(1, "m", "CNY", 0, base, variants=varied, marginal=marginal, met=draw.randrange(2 ** len(varied)))


def usage_of(draw: Random) -> Usage:
    fresh, cached, output, written, thought = (draw.randrange(4) for _ in range(5))
    return Usage(fresh, cached, output, cache_write=written, reasoning=thought)


def within(count: int, over: int | None, up_to: int | None) -> bool:
    return count > (-1 if over is None else over) and count <= (INT64_MAX if up_to is None else up_to)


def line_for(price: Tariff, variant: Variant | None, meter: Meter) -> TariffLine:
    """Of the variant, else of the base; then the same for the meter it is priced like."""
    for wanted in (meter, LIKE.get(meter)):
        for some in (variant.lines if variant else (), price.lines):
            for line in some:
                if line.meter == wanted:
                    return line
    raise AssertionError(meter)


def naive(price: Tariff, usage: Usage) -> Counter[tuple[Meter, TariffLine]]:
    """How many tokens of each meter have which price."""
    in_force = [one for place, one in enumerate(price.variants) if price.met >> place & 1]
    found: Counter[tuple[Meter, TariffLine]] = Counter()
    for meters, is_answer in ((PROMPT, False), (ANSWER, True)):
        tokens = [meter for meter in meters for _ in range(usage.of(meter))]
        for place, meter in enumerate(tokens, 1):
            chosen = None
            for one in in_force:
                w = one.when
                if price.marginal:
                    if w.bands_input if is_answer else w.bands_output:
                        continue
                    band = (w.output_over, w.output_up_to) if is_answer else (w.input_over, w.input_up_to)
                    counts_here = within(place, *band)
                else:
                    counts_here = within(usage.prompt, w.input_over, w.input_up_to) and within(
                        usage.generated, w.output_over, w.output_up_to
                    )
                if counts_here:
                    chosen = one
                    break
            found[meter, line_for(price, chosen, meter)] += 1
    if usage.total and any(line.meter is Meter.CALL for line in price.lines):
        found[Meter.CALL, line_for(price, variant_for_call(in_force, price, usage), Meter.CALL)] += 1
    return found


def variant_for_call(in_force: list[Variant], price: Tariff, usage: Usage) -> Variant | None:
    """A fee is for the whole request: where bands price tokens only, they say nothing of it."""
    for one in in_force:
        w = one.when
        banded = w.bands_input or w.bands_output
        fits = within(usage.prompt, w.input_over, w.input_up_to) and within(
            usage.generated, w.output_over, w.output_up_to
        )
        if not banded if price.marginal else fits:
            return one
    return None


def exact(count: int, line: TariffLine) -> Fraction:
    return Fraction(count * line.pico, line.per * 1000)


@SEEDS
def test_every_token_has_the_price_that_a_look_at_it_alone_gives(seeds: range) -> None:
    for seed in seeds:
        draw = Random(seed)
        price, usage = tariff(draw), usage_of(draw)
        assert sorted(
            (one.meter, one.variant, one.quantity, one.amount_nano) for one in charge_of(usage, price)
        ) == sorted(
            (meter, line.text, count, round(exact(count, line))) for (meter, line), count in naive(price, usage).items()
        ), f"one line per meter and price, each rounded once, half-even: {seed}"


@SEEDS
def test_rating_and_its_lines_agree(seeds: range) -> None:
    for seed in seeds:
        draw = Random(seed)
        price, usage = tariff(draw), usage_of(draw)
        opened = Opened(bytes(16), 0, 0, 1, 1, 1, "m", "local", 1, 2, "CNY", 0, 1, 1, False, price_when=price.met)
        settled = Settlement(opened, Closed(bytes(16), 1, usage, End.COMPLETE, 1, 1))
        charged = sum(line.amount_nano for line in charge_of(usage, price))
        assert charge_nano(usage, price) == charged
        assert rate(settled, standing(price, 0), COST).charge_nano == charged, seed


@SEEDS
def test_a_hold_covers_whatever_comes_within_its_bounds(seeds: range) -> None:
    for seed in seeds:
        draw = Random(seed)
        price, sequences = tariff(draw), draw.randint(1, 2)
        prompt, output = draw.randrange(9), draw.randrange(9)
        hold_nano = worst_case_nano(price, prompt, output, sequences)
        for _ in range(4):
            fresh, cached, written = split(draw, prompt * sequences, 3)
            out, thought = split(draw, output * sequences, 2)
            usage = Usage(fresh, cached, out, cache_write=written, reasoning=thought)
            assert sum(line.amount_nano for line in charge_of(usage, price)) <= hold_nano, (seed, usage)


def split(draw: Random, total: int, parts: int) -> list[int]:
    """So many counts that make at most the total, often the whole of it, often in one."""
    if draw.random() < 0.4:
        whole = [0] * parts
        whole[draw.randrange(parts)] = total
        return whole
    cuts = sorted(draw.randint(0, total) for _ in range(parts))
    return [after - before for before, after in zip([0, *cuts], cuts, strict=False)]


@SEEDS
def test_affordable_tokens_is_the_most_that_money_covers(seeds: range) -> None:
    for seed in seeds:
        draw = Random(seed)
        price, prompt, sequences = tariff(draw), draw.randrange(9), draw.randint(1, 3)
        near = worst_case_nano(price, prompt, draw.randrange(9), sequences)
        money_nano = max(0, near + draw.choice([-2, -1, 0, 1, 2, -near]))
        tokens = affordable_tokens(price, prompt, sequences, money_nano)
        if tokens < 0:
            assert worst_case_nano(price, prompt, 0, sequences) > money_nano, seed
            continue
        assert worst_case_nano(price, prompt, min(tokens, 10**9), sequences) <= money_nano, seed
        if tokens < INT64_MAX:
            assert worst_case_nano(price, prompt, tokens + 1, sequences) > money_nano, seed


@SEEDS
def test_what_the_worst_case_costs_affords_its_tokens(seeds: range) -> None:
    for seed in seeds:
        draw = Random(seed)
        price, prompt, output, sequences = tariff(draw), draw.randrange(9), draw.randrange(9), draw.randint(1, 3)
        hold_nano = worst_case_nano(price, prompt, output, sequences)
        assert affordable_tokens(price, prompt, sequences, hold_nano) >= output, seed
        assert hold_nano <= worst_case_nano(price, prompt, output + 1, sequences), "more never costs less at worst"
