"""Sums over usage, by whatever one asks for: the figures that overview, margin and usage reports share.

Reads roll-ups where the bounds fall on their edges, usage rows otherwise; both say the same (I3). Amounts of different
currencies are never added: every sum belongs to one currency. Knows no page and no terminal.
"""

from collections.abc import Iterable
from enum import StrEnum

from sqlalchemy import Connection

from steelyard.kernel import limits
from steelyard.kernel.money import divide_half_even
from steelyard.kernel.records import Record


class By(StrEnum):
    """What usage can be grouped by. Days are UTC days of the close."""

    MODEL = "model"
    TENANT = "tenant"
    KEY = "key"
    DAY = "day"


class Totals(Record, frozen=True):
    """What requests used, earned and cost, in one currency. Token buckets are disjoint."""

    currency: str
    requests: int = 0
    input: int = 0  # prompt tokens computed afresh
    cached_input: int = 0
    output: int = 0
    cpu_ns: int = 0
    energy_uj: int = 0  # estimated
    charge_nano: int = 0  # revenue
    cost_nano: int = 0  # CPU and energy
    overrun_nano: int = 0  # the part of `charge_nano` above the holds: booked as our expense, not taken from wallets
    margin_nano: int = 0  # charge − cost − overrun

    @property
    def prompt(self) -> int:
        """Prompt tokens, cached ones included."""
        return self.input + self.cached_input

    @property
    def tokens(self) -> int:
        return self.prompt + self.output

    @property
    def energy_per_token_uj(self) -> int | None:
        """Microjoules (estimated) per output token, the work on prompts included; None when nothing was generated."""
        return divide_half_even(self.energy_uj, self.output) if self.output else None


class Group(Record, frozen=True):
    """One row of a report. `id` is the tenant's or key's id, or the day's start in ns; None for a model."""

    name: str  # model, tenant, key name, or "2026-11-23"
    id: int | None
    note: str  # of a key: "tenant/project sk-sy-abc…"; otherwise empty
    totals: Totals


class Report(Record, frozen=True):
    """Groups (largest charge first; days in order) and the totals per currency of everything, shown or left off."""

    by: By
    since_ns: int | None
    until_ns: int | None
    groups: tuple[Group, ...]
    totals: tuple[Totals, ...]
    left_off: int  # groups beyond the limit


def report(
    connection: Connection,
    by: By,
    since_ns: int | None,
    until_ns: int | None,
    limit: int = limits.PAGE_ROWS_MAX,
) -> Report:
    """Usage closed in [since, until), grouped. None means no bound on that side."""
    raise NotImplementedError


def totals_per_currency(groups: Iterable[Group]) -> tuple[Totals, ...]:
    raise NotImplementedError
