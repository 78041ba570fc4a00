"""Keys of vendors are sealed so that only this installation opens them, and nothing of them is shown."""

import stat
from pathlib import Path

import pytest

from steelyard.kernel.errors import CallerError, StartError
from steelyard.upstream.sealed import SECRET_VARIABLE, Master, shown_of

KEY = "sk-0123456789abcdefghij-ab12"


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)


def test_a_key_comes_back_from_its_seal_and_shows_nothing_in_it(tmp_path: Path) -> None:
    master = Master(tmp_path / "master.key")
    token = master.seal(KEY)
    assert Master(tmp_path / "master.key").open(token) == KEY
    assert KEY not in token and KEY not in repr(master)
    assert master.seal(KEY) != token  # two seals of one key cannot be told to be of one key


def test_the_master_key_is_the_owners_alone_and_made_once(tmp_path: Path) -> None:
    file = tmp_path / "master.key"
    Master(file).seal(KEY)
    made = file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and len(made) == 32
    Master(file).seal(KEY)
    assert file.read_bytes() == made and [one.name for one in tmp_path.iterdir()] == ["master.key"]


def test_another_master_key_opens_nothing_and_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = Master(tmp_path / "master.key").seal(KEY)
    monkeypatch.setenv(SECRET_VARIABLE, "another secret of more than 32 characters")
    with pytest.raises(StartError, match="another master key") as refused:
        Master(tmp_path / "master.key").open(token)
    assert KEY not in str(refused.value)


def test_a_secret_in_the_environment_needs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, "a secret that has more than 32 characters")
    token = Master(tmp_path / "none").seal(KEY)
    assert Master(tmp_path / "elsewhere").open(token) == KEY
    assert not list(tmp_path.iterdir())


def test_what_is_no_seal_a_short_secret_and_a_missing_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StartError, match="no master key"):
        Master(tmp_path / "none").open("gAAAAAB")
    master = Master(tmp_path / "master.key")
    master.seal(KEY)
    for token in ("", "gAAAAAB", KEY, "ü"):
        with pytest.raises(StartError, match="another master key"):
            master.open(token)
    monkeypatch.setenv(SECRET_VARIABLE, "short")
    with pytest.raises(StartError, match="32"):
        Master(tmp_path / "master.key").seal(KEY)


@pytest.mark.parametrize("key", ["", " ", "a b\n", "ключ", "x\r\ny: z", "x" * 4097])
def test_what_no_header_can_carry_is_not_sealed(tmp_path: Path, key: str) -> None:
    with pytest.raises(CallerError) as refused:
        Master(tmp_path / "master.key").seal(key)
    assert refused.value.param == "key" and (not key.strip() or key not in refused.value.message)


def test_people_see_the_end_of_a_long_key_only() -> None:
    assert shown_of(KEY) == "…ab12"
    assert shown_of("short-key") == "set"
