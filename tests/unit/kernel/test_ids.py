import pytest

from steelyard.kernel.clock import NS_PER_MS, ManualClock
from steelyard.kernel.ids import (
    API_KEY_PREFIX,
    OPERATOR_KEY_PREFIX,
    Ids,
    id_from_text,
    new_secret,
    secret_hash,
    shown_part,
    text_from_id,
)


def test_ids_rise_even_when_the_clock_steps_back_or_the_sequence_overflows() -> None:
    clock = ManualClock()
    ids = Ids(clock)
    made = [ids.next() for _ in range(5000)]
    clock.advance(-50 * NS_PER_MS)
    made += [ids.next() for _ in range(10)]
    clock.advance(500 * NS_PER_MS)
    made.append(ids.next())
    assert made == sorted(set(made))


def test_an_id_has_the_layout_of_uuid_version_7() -> None:
    value = Ids(ManualClock(1_700_000_000_123 * NS_PER_MS)).next()
    assert int.from_bytes(value[:6], "big") == 1_700_000_000_123
    assert value[6] >> 4 == 7
    assert value[8] >> 6 == 0b10


def test_text_and_back() -> None:
    value = Ids(ManualClock()).next()
    assert id_from_text(text_from_id(value)) == value
    assert id_from_text(value.hex()) == value
    for broken in ("", "req_", "req_zz", "req_00ff"):
        with pytest.raises(ValueError):
            id_from_text(broken)


def test_a_secret_shows_only_its_beginning() -> None:
    key = new_secret(API_KEY_PREFIX)
    operator = new_secret(OPERATOR_KEY_PREFIX)
    assert key.startswith("sk-sy-")
    assert len(key) == 6 + 32
    assert key != new_secret(API_KEY_PREFIX)
    assert shown_part(key) == key[:12] + "…"
    assert shown_part(operator) == operator[:15] + "…"
    assert len(secret_hash(key)) == 32


def test_every_letter_of_a_secret_is_equally_likely() -> None:
    """Bytes beyond the last whole multiple of the alphabet are thrown away, so no letter is favoured."""
    assert new_secret("", lambda n: bytes([216, 215] * (n // 2))) == "z" * 32
    assert new_secret("", lambda n: bytes([255, 0] * (n // 2))) == "0" * 32
