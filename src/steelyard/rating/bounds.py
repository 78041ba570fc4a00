"""Bounds the charge of a request before it runs: what is set aside, and what the money of a wallet covers.

Pure. A hold is the dearest of all that can still come (charge ≤ hold): the moment is known when it is made, so a
variant that it rules out does not count, and each band only where the bounds of the request can reach it.
"""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import msgspec

from steelyard.kernel import limits
from steelyard.kernel.choice import Sold
from steelyard.kernel.errors import BooksError, money_held, wallet_empty
from steelyard.kernel.frozen import Record
from steelyard.kernel.money import INT64_MAX, divide_half_even
from steelyard.kernel.offers import Capability, Model
from steelyard.kernel.quantities import Meter
from steelyard.kernel.records import Caller, Granted, HoldAsk, Order, Terms
from steelyard.kernel.tariff import Tariff, TariffLine
from steelyard.rating.sheet import CALL_METERS, find_line, line_of, reduced, refuse_negative
from steelyard.rating.varied import BASE, bandless, lines_of, stretches

_PROMPT, _PROMPT_ONLY, _ANSWER = "prompt", "prompt only", "answer"
"""What of a request is bounded. A prompt that is all there is needs no price of cached tokens."""


class _Reach(NamedTuple):
    """Lines that can price a whole request: with at most so many prompt tokens, and output tokens within the band."""

    lines: tuple[TariffLine, ...]
    input_up_to: int = INT64_MAX
    output_over: int = -1  # without any, too
    output_up_to: int = INT64_MAX


def worst_case_nano(price: Tariff, prompt_tokens_max: int, max_tokens: int, sequences: int) -> int:
    """The least amount that is certain to cover the charge of a request within these bounds, rounded up.

    Each sequence is metered by itself, so its prompt counts once per sequence, at the dearest of the prompt's prices.
    What has no output tokens needs no price of them, and none of cached ones: without it no token is counted there.
    """
    prompt, output = _totals(prompt_tokens_max, max_tokens, sequences)
    prompt_side = _PROMPT_ONLY if max_tokens == 0 else _PROMPT
    if not price.variants:
        prompt_nano = _worst_nano(_dearest(price, price.lines, prompt_side), prompt) + _fee_nano(price.lines)
        return prompt_nano + (_worst_nano(_dearest(price, price.lines, _ANSWER), output) if output else 0)
    if price.marginal:
        fee_nano = _fee_nano(lines_of(price, bandless(price, price.met)))
        return fee_nano + _worst_side_nano(price, prompt, prompt_side) + _worst_side_nano(price, output, _ANSWER)
    return max(
        _fee_nano(one.lines)
        + _worst_nano(_dearest(price, one.lines, prompt_side), min(prompt, one.input_up_to))
        + (_worst_nano(_dearest(price, one.lines, _ANSWER), min(output, one.output_up_to)) if output else 0)
        for one in _reachable(price, prompt)
        if output > one.output_over
    )


def affordable_tokens(price: Tariff, prompt_tokens_max: int, sequences: int, money_nano: int) -> int:
    """The most output tokens per sequence whose worst case `money_nano` covers; -1 when it misses even the prompt.

    With an output price of zero there is no most: the largest int64 stands for "as many as you like".
    """
    prompt, _ = _totals(prompt_tokens_max, 0, sequences)
    if not price.variants:
        return _affordable(price, _Reach(price.lines), prompt, sequences, money_nano)
    if price.marginal:
        return _affordable_marginal(price, prompt, sequences, money_nano)
    return min(_affordable(price, one, prompt, sequences, money_nano) for one in _reachable(price, prompt))


Most = Callable[[Model, Capability], tuple[int, int]]
"""The tokens that any offer of a model takes in one piece, and that it writes (routing.choose)."""


class Asking(Record, frozen=True, gc=False):
    """What to set aside for an order, and for what."""

    found: Sequence[Sold]
    asks: list[HoldAsk]  # at each of the models found
    dearest: HoldAsk  # one hold for all of them: the most that any can cost, at least what the first one must
    priced_ns: int


_Ready = tuple[Model, Tariff, Capability, int, int, tuple[tuple[int, int, int], tuple[int, int, int], int] | None]
"""A model, its price, and what bounds every order of them: the tokens it takes and writes, and the slopes of the
prompt's and of the answer's worst case with the fee; None where each order is looked at by itself."""
_kept: dict[int, _Ready] = {}
"""By the price's own object: a snapshot's are asked for again and again, and never changed."""


def asking(found: Sequence[Sold], order: Order, caller: Caller, most: Most, priced_ns: int) -> Asking:
    """What to set aside for an order at each of the models that may answer it. Raises CallerError as `most` does."""
    sequences = order.sequences
    asks: list[HoldAsk] = []
    for model, price in found:
        ready = _kept.get(id(price))
        if ready is None or ready[1] is not price or ready[0] is not model or ready[2] is not order.capability:
            ready = _readied(model, price, order.capability, *most(model, order.capability))
        _, _, _, context_tokens, output_tokens, slopes = ready
        prompt, prompt_most = order.prompt_tokens_max, order.parts * context_tokens
        prompt = prompt if prompt < prompt_most else prompt_most
        output = order.max_tokens or model.default_max_tokens
        output = output if output < output_tokens else output_tokens
        if slopes is None or output < 1 or prompt < 0 or sequences < 1:
            want_nano = worst_case_nano(price, prompt, output, sequences)
            floor_nano = worst_case_nano(price, prompt, min(output, 1), sequences)
        else:
            (prompt_slope, prompt_start, prompt_per), (slope, start, per), fee_nano = slopes
            prompt_nano = ((prompt * sequences * prompt_slope + prompt_start) // prompt_per if prompt else 0) + fee_nano
            want_nano = prompt_nano + (output * sequences * slope + start) // per
            floor_nano = prompt_nano + (sequences * slope + start) // per
        ask = HoldAsk(
            order.request_id,
            caller.tenant_id,
            want_nano,
            floor_nano,
            caller.project_id,
            caller.key_id,
            priced_ns,
            prompt * sequences,
            output,
            sequences,
        )
        asks.append(ask)
    return Asking(found, asks, asks[0] if len(asks) == 1 else _dearest_ask(asks), priced_ns)


def _readied(model: Model, price: Tariff, capability: Capability, context_tokens: int, output_tokens: int) -> _Ready:
    """A price with variants is not worth keeping: it is another object for each order (`met`)."""
    if price.variants or not output_tokens:
        return model, price, capability, context_tokens, output_tokens, None
    slopes = _slope(_dearest(price, price.lines, _PROMPT)), _slope(_dearest(price, price.lines, _ANSWER))
    if len(_kept) >= limits.TARIFFS_READY_MAX:
        _kept.clear()
    slopes_and_fee = (*slopes, _fee_nano(price.lines))
    ready = _kept[id(price)] = model, price, capability, context_tokens, output_tokens, slopes_and_fee
    return ready


def _slope(dearest: tuple[int, int, int]) -> tuple[int, int, int]:
    """`_worst_nano` of so many tokens, none excepted, is (tokens × the first + the second) // the third."""
    numerator, denominator, broken = dearest
    return 2 * numerator, broken * denominator, 2 * denominator


def covered_tokens(price: Tariff, ask: HoldAsk, granted: Granted) -> int:
    """The output tokens per sequence that what was granted covers, at most what was asked for."""
    if granted.amount_nano >= ask.want_nano:
        return min(ask.max_tokens, granted.max_tokens)
    affordable = affordable_tokens(price, ask.prompt_tokens // ask.sequences, ask.sequences, granted.amount_nano)
    return min(ask.max_tokens, granted.max_tokens, affordable)


def _dearest_ask(asks: Sequence[HoldAsk]) -> HoldAsk:
    most = {name: max(getattr(ask, name) for ask in asks) for name in ("want_nano", "prompt_tokens", "max_tokens")}
    return msgspec.structs.replace(asks[0], **most)


def covered(asked: Asking, granted: Granted) -> list[Terms]:
    """What was granted covers of each model; one whose first token it does not cover is left out.

    Raises CallerError: 402 where it does not cover that of the first, 429 where only other requests keep it from that.
    """
    found, asks, first, priced_ns = asked.found, asked.asks, asked.asks[0], asked.priced_ns
    if granted.amount_nano < first.floor_nano:
        raise money_held() if granted.busy else wallet_empty()
    if first is asked.dearest and granted.amount_nano >= first.want_nano and granted.max_tokens >= first.max_tokens:
        return [Terms(found[0].model, found[0].price, granted, first.max_tokens, False, priced_ns)]
    terms: list[Terms] = []
    for (model, price), ask in zip(found, asks, strict=True):
        if granted.amount_nano >= ask.floor_nano:
            tokens = covered_tokens(price, ask, granted)
            terms.append(Terms(model, price, granted, tokens, tokens < ask.max_tokens, priced_ns))
    return terms


def _totals(prompt_tokens_max: int, max_tokens: int, sequences: int) -> tuple[int, int]:
    refuse_negative(prompt_tokens_max)
    refuse_negative(max_tokens)
    if sequences < 1:
        raise BooksError(f"a request has at least one sequence, not {sequences}")
    return prompt_tokens_max * sequences, max_tokens * sequences


def _reachable(price: Tariff, prompt: int) -> Iterator[_Reach]:
    """The lines that can price a request whose prompt has at most so many tokens.

    Up to `shadow` output tokens one of the variants before is certain to hold.
    """
    shadow = -1
    for index, variant in enumerate(price.variants):
        when = variant.when
        if not price.met >> index & 1 or (when.input_over is not None and prompt <= when.input_over):
            continue
        up_to = INT64_MAX if when.input_up_to is None else when.input_up_to
        output_up_to = INT64_MAX if when.output_up_to is None else when.output_up_to
        over = max(shadow, -1 if when.output_over is None else when.output_over)
        if over < output_up_to:
            yield _Reach(lines_of(price, index), up_to, over, output_up_to)
        if when.input_over is None and when.output_over is None and prompt <= up_to:
            shadow = max(shadow, output_up_to)
        if shadow == INT64_MAX:
            return
    yield _Reach(lines_of(price, BASE), output_over=shadow)


def _affordable(price: Tariff, reach: _Reach, prompt: int, sequences: int, money_nano: int) -> int:
    """Output tokens per sequence that these lines allow: at least those with which they do not count."""
    free = -1 if reach.output_over < 0 else reach.output_over // sequences
    prompt_nano = _worst_nano(_dearest(price, reach.lines, _PROMPT), min(prompt, reach.input_up_to))
    left_nano = money_nano - prompt_nano - _fee_nano(reach.lines)
    if left_nano < 0:
        return free
    dearest = numerator, denominator, broken = _dearest(price, reach.lines, _ANSWER)
    if numerator == 0:
        return INT64_MAX
    if reach.output_up_to < INT64_MAX and _worst_nano(dearest, reach.output_up_to) <= left_nano:
        return INT64_MAX
    # The most tokens whose `_worst_nano` is not above what is left.
    return max(free, 0, ((2 * (left_nano + 1) - broken) * denominator - 1) // (2 * numerator * sequences))


def _affordable_marginal(price: Tariff, prompt: int, sequences: int, money_nano: int) -> int:
    """By halving: every further token costs something or nothing, never less than nothing."""
    fee_nano = _fee_nano(lines_of(price, bandless(price, price.met)))
    left_nano = money_nano - fee_nano - _worst_side_nano(price, prompt, _PROMPT)
    if left_nano < 0:
        return -1
    low, high = 0, INT64_MAX
    while low < high:
        middle = (low + high + 1) // 2
        if _worst_side_nano(price, middle * sequences, _ANSWER) <= left_nano:
            low = middle
        else:
            high = middle - 1
    return low


def _worst_side_nano(price: Tariff, tokens: int, side: str) -> int:
    """What the tokens of a prompt or an answer come to at most by marginal bands: in each stretch all at the dearest of
    its prices."""
    total = Fraction(0)
    broken: set[tuple[Meter, TariffLine]] = set()
    for variant, over, up_to in stretches(price, price.met, tokens, output=side == _ANSWER):
        lines = lines_of(price, variant)
        numerator, denominator, _ = _dearest(price, lines, side)
        total += Fraction((up_to - over) * numerator, denominator)
        broken.update(one for one in _lines_for(lines, side) if reduced(one[1])[1] != 1)
    return int((2 * total + len(broken)) // 2)


def _worst_nano(dearest: tuple[int, int, int], tokens: int) -> int:
    """What so many tokens come to at most, however they are split between the lines.

    Each line may be rounded up by a half: 1.5 + 1.5 makes 2 + 2. With whole nanos per token nothing is rounded.
    """
    if tokens == 0:
        return 0
    slope, start, per = _slope(dearest)
    return (tokens * slope + start) // per


@lru_cache(maxsize=4096)
def _fee_nano(lines: tuple[TariffLine, ...]) -> int:
    """What one request costs beside its tokens, rounded as its line will be."""
    fees = [reduced(line) for line in lines if line.meter is Meter.CALL]
    return divide_half_even(*fees[0]) if fees else 0


def _dearest(price: Tariff, lines: tuple[TariffLine, ...], side: str) -> tuple[int, int, int]:
    """Nano per token by the dearest line of this side, as a fraction, and how many of the lines can be rounded.

    Raises BooksError that names the tariff when one of them is missing or broken.
    """
    try:
        return _dearest_of(lines, side)
    except BooksError:
        _meter_lines(msgspec.structs.replace(price, lines=lines), side)
        raise


@lru_cache(maxsize=4096)
def _dearest_of(lines: tuple[TariffLine, ...], side: str) -> tuple[int, int, int]:
    """Kept, because every hold asks for the same again: finding out takes ten times as long as remembering."""
    prices = [reduced(line) for _, line in _lines_for(lines, side)]
    dearest = prices[0]
    for one in prices:
        if one[0] * dearest[1] > dearest[0] * one[1]:
            dearest = one
    return (*dearest, sum(denominator != 1 for _, denominator in prices))


def _lines_for(lines: tuple[TariffLine, ...], side: str) -> list[tuple[Meter, TariffLine]]:
    return _meter_lines(Tariff(0, "", "", 0, lines), side)


def _meter_lines(price: Tariff, side: str) -> list[tuple[Meter, TariffLine]]:
    """The line of each meter that a prompt or an answer may be counted by."""
    if side == _ANSWER:
        lines = [(meter, line_of(price, meter, CALL_METERS)) for meter in (Meter.OUTPUT, Meter.REASONING)]
        return [*lines, *_own(price, Meter.REUSED_OUTPUT)]
    lines = [(Meter.INPUT, line_of(price, Meter.INPUT, CALL_METERS))]
    if side == _PROMPT:
        lines.append((Meter.CACHED_INPUT, line_of(price, Meter.CACHED_INPUT, CALL_METERS)))
    elif (cached := find_line(price, Meter.CACHED_INPUT, CALL_METERS)) is not None:
        lines.append((Meter.CACHED_INPUT, cached))
    lines.append((Meter.CACHE_WRITE, line_of(price, Meter.CACHE_WRITE, CALL_METERS)))
    return [*lines, *_own(price, Meter.REUSED_INPUT)]


def _own(price: Tariff, meter: Meter) -> list[tuple[Meter, TariffLine]]:
    """The line of a meter that has one of its own: it may be dearer than the one it would be priced like."""
    line = find_line(price, meter, CALL_METERS)
    return [] if line is None else [(meter, line)]
