"""Signed cookies and form tokens, and the brake on wrong keys."""

import base64

from steelyard.console.sessions import Brake, Session, Sessions
from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, ManualClock
from steelyard.kernel.ids import secret_hash

KEY = secret_hash("sk-sy-op-one")
OTHER = secret_hash("sk-sy-op-two")
SECRET = bytes(range(32))


def sessions(clock: ManualClock, secret: bytes = SECRET) -> Sessions:
    drawn = iter(range(1, 200))
    return Sessions(secret, clock, lambda count: bytes([next(drawn)]) * count)


def test_a_session_is_read_back() -> None:
    signer = sessions(ManualClock())
    session = signer.operator(KEY)
    assert signer.read(signer.cookie(session), {OTHER, KEY}) == session
    assert not session.visitor


def test_a_visitor_needs_no_key() -> None:
    signer = sessions(ManualClock())
    session = signer.visitor()
    assert signer.read(signer.cookie(session), set()) == session
    assert session.visitor


def test_every_changed_bit_is_noticed() -> None:
    signer = sessions(ManualClock())
    raw = base64.urlsafe_b64decode(signer.cookie(signer.operator(KEY)))
    for place in range(len(raw)):
        for bit in (0, 7):
            forged = bytearray(raw)
            forged[place] ^= 1 << bit
            assert signer.read(base64.urlsafe_b64encode(forged).decode(), {KEY}) is None


def test_nonsense_is_no_session() -> None:
    signer = sessions(ManualClock())
    cookie = signer.cookie(signer.operator(KEY))
    for text in (None, "", "x", "é", "====", cookie[:-4], cookie + "AAAA", "A" * 5000):
        assert signer.read(text, {KEY}) is None


def test_another_platforms_cookie_is_refused() -> None:
    clock = ManualClock()
    theirs = sessions(clock, bytes(32))
    assert sessions(clock).read(theirs.cookie(theirs.operator(KEY)), {KEY}) is None


def test_a_session_ends() -> None:
    clock = ManualClock()
    signer = sessions(clock)
    cookie = signer.cookie(signer.operator(KEY))
    clock.advance((limits.SESSION_S - 1) * NS_PER_S)
    assert signer.read(cookie, {KEY}) is not None
    clock.advance(NS_PER_S)
    assert signer.read(cookie, {KEY}) is None


def test_revoking_the_key_ends_its_sessions_and_no_others() -> None:
    signer = sessions(ManualClock())
    one, two = (signer.cookie(signer.operator(key)) for key in (KEY, OTHER))
    assert signer.read(one, {OTHER}) is None
    assert signer.read(two, {OTHER}) is not None


def test_a_form_token_belongs_to_one_session() -> None:
    signer = sessions(ManualClock())
    mine, theirs = signer.operator(KEY), signer.operator(KEY)
    assert signer.token_fits(mine, signer.form_token(mine))
    for wrong in ("", "é", signer.form_token(theirs), signer.form_token(mine)[:-1]):
        assert not signer.token_fits(mine, wrong)


def test_signing_in_changes_the_token_even_with_the_same_nonce() -> None:
    signer = sessions(ManualClock())
    visitor = signer.visitor()
    promoted = Session(visitor.nonce, visitor.expires_s, b"m" * 16)
    assert not signer.token_fits(promoted, signer.form_token(visitor))


def test_the_brake_stops_an_address_and_lets_it_go() -> None:
    clock = ManualClock()
    brake = Brake(clock)
    for _ in range(limits.WRONG_KEYS_MAX):
        assert brake.wait_s("1.2.3.4") == 0
        brake.wrong("1.2.3.4")
    assert brake.wait_s("1.2.3.4") == limits.WRONG_KEYS_WINDOW_S
    assert brake.wait_s("5.6.7.8") == 0
    clock.advance(limits.WRONG_KEYS_WINDOW_S * NS_PER_S)
    assert brake.wait_s("1.2.3.4") == 0


def test_the_brake_remembers_a_bounded_number_of_addresses() -> None:
    brake = Brake(ManualClock())
    for number in range(limits.WRONG_KEYS_ADDRESSES_MAX + 50):
        brake.wrong(str(number))
    assert len(brake._wrong) == limits.WRONG_KEYS_ADDRESSES_MAX
    assert "0" not in brake._wrong
    assert str(limits.WRONG_KEYS_ADDRESSES_MAX + 49) in brake._wrong
