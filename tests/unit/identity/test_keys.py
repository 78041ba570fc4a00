"""From header to caller: what counts as a credential, and that every refusal looks the same."""

import pytest
from msgspec.structs import replace

from steelyard.identity import keys
from steelyard.identity.keys import authenticate, bearer, is_operator
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError
from steelyard.kernel.ids import secret_hash
from steelyard.kernel.records import Caller, CallersKept, Snapshot

KEY, OPERATOR = "sk-sy-abc", "sk-sy-op-abc"
CALLER = Caller(1, 2, 3, "acme", "default", "CNY")
SNAPSHOT = Snapshot(1, CallersKept({secret_hash(KEY): CALLER}), frozenset({secret_hash(OPERATOR)}), {}, {}, {})


@pytest.mark.parametrize("header", [f"Bearer {KEY}", f"bearer {KEY}", f"  BEARER   {KEY}  "])
def test_a_live_key_is_its_caller(header: str) -> None:
    assert authenticate(SNAPSHOT, header) == CALLER


@pytest.mark.parametrize(
    "header",
    [None, "", KEY, "Bearer", "Bearer ", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {OPERATOR}", "Bearer " + "k" * 300],
)
def test_everything_else_is_refused_alike(header: str | None) -> None:
    with pytest.raises(CallerError) as refused:
        authenticate(SNAPSHOT, header)
    assert (refused.value.status, refused.value.code) == (401, "invalid_api_key")
    assert KEY not in refused.value.message


def test_a_key_that_was_seen_is_refused_once_it_is_revoked() -> None:
    callers = CallersKept({secret_hash(KEY): CALLER, secret_hash(f"{KEY}2"): CALLER})
    snapshot = replace(SNAPSHOT, callers=callers)
    for _ in range(2):
        assert authenticate(snapshot, f"Bearer {KEY}") == CALLER
    del callers[secret_hash(KEY)]
    with pytest.raises(CallerError):
        authenticate(snapshot, f"Bearer {KEY}")
    assert authenticate(snapshot, f"Bearer {KEY}2") == CALLER


def test_few_headers_are_kept_and_none_that_is_long_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, bytes] = {}
    monkeypatch.setattr(keys, "_hashed", kept)
    monkeypatch.setattr(limits, "CALLERS_SEEN_MAX", 3)
    for blanks in range(300):
        authenticate(SNAPSHOT, "Bearer" + " " * (blanks + 1) + KEY)
        with pytest.raises(CallerError):
            authenticate(SNAPSHOT, "Bearer" + " " * (blanks + 1) + "other")
        assert len(kept) <= 3
    assert kept and all(len(header) <= 256 and digest == secret_hash(KEY) for header, digest in kept.items())


def test_operators() -> None:
    assert is_operator(SNAPSHOT, bearer(f"Bearer {OPERATOR}"))
    assert not is_operator(SNAPSHOT, KEY)
    assert not is_operator(SNAPSHOT, "")
