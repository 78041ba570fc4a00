"""Tariffs with variants: which lines price a request, or which of its tokens.

Pure. What depended on the moment was decided when the request was opened and comes in as `met`, a bit per variant; what
depends on the counts is decided here, so that rating again gives the same (I9). Each line is rounded once.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import msgspec

from steelyard.kernel.money import INT64_MAX
from steelyard.kernel.quantities import INPUT_METERS, OUTPUT_METERS, Meter, Usage, counter
from steelyard.kernel.settled import AmountLine
from steelyard.kernel.tariff import Condition, Tariff, TariffLine
from steelyard.rating.sheet import Sheet, price_of, refuse_negative

BASE = -1
"""Stands for the lines of the tariff itself among the indexes of its variants."""


class Stretch(NamedTuple):
    """Tokens of a prompt or an answer that one variant prices, by their places: behind `over`, up to `up_to`."""

    variant: int
    over: int
    up_to: int


class Varied:
    """A tariff with variants made ready to rate many requests."""

    __slots__ = ("_counts", "_meters", "_own", "_sheets", "_tariff")

    def __init__(self, tariff: Tariff, meters: Sequence[Meter]) -> None:
        self._tariff = tariff
        self._meters = meters
        self._counts = counter(meters)
        self._sheets = [Sheet(plain(tariff, index), meters) for index in range(BASE, len(tariff.variants))]
        self._own = [_own_meters(tariff, index, meters) for index in range(BASE, len(tariff.variants))]

    def amounts(self, usage: Usage, met: int) -> list[int]:
        """What each meter comes to, in nano, in the order of the meters."""
        if not self._tariff.marginal:
            index = variant_of(self._tariff, met, usage.prompt, usage.generated)
            return self._sheets[index + 1].amounts(self._counts(usage))
        total = [0] * len(self._meters)
        for index, quantities in self._parts(usage, met):
            for place, amount in enumerate(self._sheets[index + 1].amounts(quantities)):
                total[place] += amount
        return total

    def lines(self, usage: Usage, met: int) -> tuple[AmountLine, ...]:
        """One line per meter and variant with a count; a variant is named where the price is its own."""
        lines = []
        for index, quantities in self._parts(usage, met):
            for line in self._sheets[index + 1].lines(quantities):
                named = line.meter in self._own[index + 1]
                name = self._tariff.variants[index].name if named else ""
                lines.append(msgspec.structs.replace(line, variant=name))
        return tuple(sorted(lines, key=lambda line: self._meters.index(line.meter)))

    def _parts(self, usage: Usage, met: int) -> list[tuple[int, Sequence[int]]]:
        """Which variant prices how much of each meter. The base comes first, then variants in the file's order."""
        if not self._tariff.marginal:
            index = variant_of(self._tariff, met, usage.prompt, usage.generated)
            return [(index, self._counts(usage))]
        parts: dict[int, list[int]] = {}
        for index, meter, quantity in _split(self._tariff, met, usage):
            # What has no price of its own there is one line with the base's, rounded once.
            priced_by = index if meter in self._own[index + 1] else BASE
            part = parts.setdefault(priced_by, [0] * len(self._meters))
            part[self._meters.index(meter)] += quantity
        return sorted(parts.items())


def standing(tariff: Tariff, met: int) -> Tariff:
    """The version as it stood for a request that was opened with these conditions met."""
    return msgspec.structs.replace(tariff, met=met) if met else tariff


def plain(tariff: Tariff, index: int) -> Tariff:
    """The tariff as it is while only this variant counts."""
    return msgspec.structs.replace(tariff, lines=lines_of(tariff, index), variants=())


def lines_of(tariff: Tariff, index: int) -> tuple[TariffLine, ...]:
    """The lines of a variant, and the base's for meters that it has none of."""
    return tariff.lines if index == BASE else _merged(tariff.lines, tariff.variants[index].lines)


@lru_cache(maxsize=4096)
def _merged(base: tuple[TariffLine, ...], own: tuple[TariffLine, ...]) -> tuple[TariffLine, ...]:
    priced = {line.meter for line in own}
    return (*own, *(line for line in base if line.meter not in priced))


def variant_of(tariff: Tariff, met: int, prompt: int, generated: int) -> int:
    """The variant that prices a whole request with these counts: the first that holds."""
    for index, variant in enumerate(tariff.variants):
        if met >> index & 1 and fits(variant.when, prompt, generated):
            return index
    return BASE


def fits(when: Condition, prompt: int, generated: int) -> bool:
    """Whether the bands hold for these counts."""
    return (
        (when.input_over is None or prompt > when.input_over)
        and (when.input_up_to is None or prompt <= when.input_up_to)
        and (when.output_over is None or generated > when.output_over)
        and (when.output_up_to is None or generated <= when.output_up_to)
    )


def stretches(tariff: Tariff, met: int, count: int, *, output: bool) -> Iterator[Stretch]:
    """A marginal tariff's prompt of `count` tokens (or its answer), cut where another variant begins to price them.

    Variants with a band of the other side do not price these tokens at all.
    """
    bands = []
    for index, variant in enumerate(tariff.variants):
        when = variant.when
        if met >> index & 1 and not (when.bands_input if output else when.bands_output):
            over, up_to = (
                (when.output_over, when.output_up_to) if output else (when.input_over, when.input_up_to)
            )  # fmt: skip
            bands.append(Stretch(index, over or 0, INT64_MAX if up_to is None else up_to))
    edges = sorted({0, count, *(edge for band in bands for edge in (band.over, band.up_to) if 0 < edge < count)})
    for over, up_to in pairwise(edges):
        index = next((band.variant for band in bands if band.over <= over and up_to <= band.up_to), BASE)
        yield Stretch(index, over, up_to)


def bandless(tariff: Tariff, met: int) -> int:
    """The variant of a marginal tariff that prices what is no token: the first that holds and has no band."""
    for index, variant in enumerate(tariff.variants):
        if met >> index & 1 and not (variant.when.bands_input or variant.when.bands_output):
            return index
    return BASE


def _split(tariff: Tariff, met: int, usage: Usage) -> Iterator[tuple[int, Meter, int]]:
    """Each meter's count by variant, the tokens in the order of a prompt and of an answer."""
    for meters, output in ((INPUT_METERS, False), (OUTPUT_METERS, True)):
        count = sum(usage.of(meter) for meter in meters)
        cuts = list(stretches(tariff, met, count, output=output))
        start = 0
        for meter in meters:
            refuse_negative(usage.of(meter))
            end = start + usage.of(meter)
            for cut in cuts:
                inside = min(end, cut.up_to) - max(start, cut.over)
                if inside > 0:
                    yield cut.variant, meter, inside
            start = end
    if usage.call and any(line.meter is Meter.CALL for line in tariff.lines):
        yield bandless(tariff, met), Meter.CALL, 1


def _own_meters(tariff: Tariff, index: int, meters: Sequence[Meter]) -> frozenset[Meter]:
    """The meters that this variant prices itself, also by the line of another that they are priced like."""
    if index == BASE:
        return frozenset()
    own = tariff.variants[index].lines
    merged = plain(tariff, index)
    return frozenset(meter for meter in meters if price_of(merged, meter, meters) in own)
