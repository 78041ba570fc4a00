"""The canonical bytes: rows from before a column was known keep the hash they had, and no column changes unseen."""

from itertools import product
from typing import Any

import msgspec
import pytest

from steelyard.ledger.chain import (
    GENESIS,
    LATER,
    LATER_PRIVATE,
    PUBLIC,
    EntryRow,
    UsageRow,
    content_of,
    hash_unsealed,
    row_digest,
    seal_row,
)

ROW = UsageRow(
    bytes(range(16)), 10**18, 10**18 + 5, 1, 2, 3, "m", "u", 4, 5, "CNY", 1, True, 100, 16, 7, 10, 300, 24,
    9000, 8000, 12, 3, "complete", 55, 66, False,
)  # fmt: skip
HEADER = (7, 10**18 + 9, "usage", "", 1)
ENTRIES = [EntryRow("charge", "wallet:acme", "revenue:m", "CNY", 8000)]
SALT = bytes(range(32))


def content(row: UsageRow) -> str:
    return content_of(HEADER, ENTRIES, [row], SALT).hex()


def test_rows_without_later_columns_are_hashed_as_they_were_before_these_columns() -> None:
    """Computed by the version of the program that did not know them."""
    assert content(ROW) == "20566a75e720a34cc05dcb658e4aaee609f387a7bae4add91df4178efa7b3021"
    unsealed = hash_unsealed(GENESIS, HEADER, ENTRIES, [ROW]).hex()
    assert unsealed == "ea95c365f3afad5e0223f6bba393f8daa44aadf3e06ed692cd24a167586fcedb"
    assert seal_row(ROW, b"s").public.hex() == (
        "dc0015c410000102030405060708090a0b0c0d0e0fcf0de0b6b3a7640000cf0de0b6b3a7640005010203a16d04a3434e59"
        "01c36410070acd2328cd1f40a8636f6d706c6574653742c2"
    )


@pytest.mark.parametrize(
    ("later", "told"),
    [
        ({"cache_write": 5}, [5]),
        ({"reasoning": 6}, [0, 6]),
        ({"estimated": True}, [0, 0, True]),
        ({"cache_write": 5, "reasoning": 6, "estimated": True}, [5, 6, True]),
        ({"cache_write": 5, "estimated": False}, [5]),
        ({"price_when": 3}, [0, 0, False, 3]),
        ({"thinking": 2}, [0, 0, False, 0, 2]),
        ({"reused_input": 3}, [0, 0, False, 0, 0, 3]),
        ({"reused_input": 3, "reused_output": 4}, [0, 0, False, 0, 0, 3, 4]),
    ],
)
def test_later_columns_stand_behind_the_others_as_far_as_they_say_something(
    later: dict[str, Any], told: list[Any]
) -> None:
    row = ROW._replace(**later)
    assert msgspec.msgpack.decode(seal_row(row, SALT).public)[len(PUBLIC) :] == told
    assert content(row) != content(ROW)
    assert hash_unsealed(GENESIS, HEADER, ENTRIES, [row]) != hash_unsealed(GENESIS, HEADER, ENTRIES, [ROW])


def test_no_two_values_of_later_columns_have_one_hash() -> None:
    names = (*LATER, *LATER_PRIVATE)
    rows = [ROW._replace(**dict(zip(names, values, strict=True))) for values in product((0, 1), repeat=len(names))]
    assert len({content(row) for row in rows}) == len(rows)


def test_later_columns_of_our_own_are_hashed_and_not_shown() -> None:
    row = ROW._replace(cost_when=3)
    assert content(row) != content(ROW)
    assert seal_row(row, SALT).public == seal_row(ROW, SALT).public
    assert seal_row(row, SALT).private_digest != seal_row(ROW, SALT).private_digest


def test_a_batch_is_hashed_from_the_very_digests_that_are_exported() -> None:
    from steelyard.ledger.chain import content_digest, entries_digest, header_bytes

    rows = [
        ROW,
        ROW._replace(request_id=b"b" * 16, reasoning=3),
        ROW._replace(request_id=b"c" * 16, estimated=True),
        ROW._replace(request_id=b"d" * 16, price_when=1, cost_when=2),
    ]
    digests = [row_digest(seal_row(row, SALT)) for row in rows]
    shown = content_digest(header_bytes(HEADER), entries_digest(ENTRIES, SALT), digests)
    assert content_of(HEADER, ENTRIES, rows, SALT) == shown
