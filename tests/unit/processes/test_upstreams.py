"""Where a worker takes the key of an upstream from, and that a new one counts at once."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.records import CallersKept, Snapshot
from steelyard.processes.upstreams import Upstreams
from steelyard.upstream.pool import Pool
from steelyard.upstream.sealed import SECRET_VARIABLE, Master, key_variable

KEY = "sk-vendor-0123456789abcdef"


class Teller(SimpleNamespace):
    snapshot: Snapshot


@pytest.fixture
def master(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Master:
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)
    monkeypatch.delenv(key_variable("deepseek"), raising=False)
    return Master(tmp_path / "master.key")


def with_keys(**sealed: str) -> Snapshot:
    return Snapshot(1, CallersKept(), frozenset(), {}, {}, {}, credentials=sealed)


def key_of(upstreams: Upstreams, name: str = "deepseek") -> str:
    return upstreams[name]._api_key  # type: ignore[attr-defined]


def test_a_sealed_key_is_opened_for_its_own_upstream_only(master: Master) -> None:
    upstreams = Upstreams(Pool(), {}, Teller(snapshot=with_keys(deepseek=master.seal(KEY))), master)
    assert key_of(upstreams) == KEY
    assert key_of(upstreams, "other") == ""
    assert upstreams["deepseek"] is upstreams["deepseek"]


def test_a_rotated_key_counts_from_the_next_request_and_others_stay(master: Master) -> None:
    teller = Teller(snapshot=with_keys(deepseek=master.seal(KEY), ark=master.seal("ark-key")))
    upstreams = Upstreams(Pool(), {}, teller, master)
    old, ark = upstreams["deepseek"], upstreams["ark"]
    teller.snapshot = with_keys(deepseek=master.seal("new"), ark=teller.snapshot.credentials["ark"])
    assert key_of(upstreams) == "new" and upstreams["deepseek"] is not old
    assert upstreams["ark"] is ark
    teller.snapshot = with_keys()
    assert key_of(upstreams) == "" and key_of(upstreams, "ark") == ""


def test_the_environment_comes_before_the_books(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(key_variable("deepseek"), "from-the-environment")
    upstreams = Upstreams(Pool(), {}, Teller(snapshot=with_keys(deepseek=master.seal(KEY))), master)
    assert key_of(upstreams) == "from-the-environment"


def test_with_another_master_key_the_upstream_is_not_used_and_nothing_leaks(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = master.seal(KEY)
    monkeypatch.setenv(SECRET_VARIABLE, "another secret of more than 32 characters")
    upstreams = Upstreams(Pool(), {}, Teller(snapshot=with_keys(deepseek=token)), Master(Path("none")))
    with capture_logs() as logs, pytest.raises(UpstreamError) as refused:
        upstreams["deepseek"]
    assert refused.value.upstream == "deepseek" and "another master key" in refused.value.message
    assert [one["event"] for one in logs] == ["credential_unreadable"]
    assert KEY not in str(logs) + refused.value.message and token not in str(logs) + refused.value.message
    assert key_of(upstreams, "other") == ""
